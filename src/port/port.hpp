// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "packet/packet.hpp"
#include "uvif/error.hpp"

namespace uvif {

class Loop;
class ReadyHandler;

/// Counters of a port; written by its one thread.
struct PortCounters {
    std::uint64_t submitted = 0;       ///< packets taken from guests
    std::uint64_t submit_dropped = 0;  ///< of these, not delivered: the sum of the dropped_... below
    std::uint64_t received = 0;        ///< packets handed on towards guests
    std::uint64_t passed = 0;          ///< of those submitted, handed to another guest's queue by the switch
    std::uint64_t system_calls = 0;

    std::uint64_t zerocopy_sent = 0;    ///< messages that the kernel sent from the port's buffers
    std::uint64_t zerocopy_copied = 0;  ///< those that it was to, and copied after all

    std::uint64_t dropped_metadata = 0;   ///< checksum or GSO metadata that does not fit the packet's headers
    std::uint64_t dropped_link_down = 0;  ///< the host's interface is down
    std::uint64_t dropped_too_long = 0;   ///< longer than the underlay carries
    std::uint64_t dropped_refused = 0;    ///< the other side would not have it, for any other reason
    std::uint64_t dropped_spoofed = 0;    ///< from an address that is not the guest's own
    std::uint64_t dropped_held_up = 0;    ///< held up and no longer wanted, or beyond what a port holds
    std::uint64_t reordered = 0;          ///< times a packet found room after one before it had not
    std::uint64_t gso_fixups = 0;         ///< GSO packets that came without a blank checksum (rx_gso_checksum_fixup)
    std::uint64_t receive_dropped = 0;    ///< packets of the other side that cannot be carried to a guest
    std::uint64_t receive_foreign = 0;    ///< of these, those of another virtual network, or of none
};

/// Whether a packet's pages are pinned by a port that pins from so many octets on: those of what is on the wire, which
/// is the packet or, with GSO, a segment's payload.
[[nodiscard]] inline bool is_pinned_from(std::uint32_t octets, const Packet& packet) noexcept {
    const bool whole = packet.offload.gso_type == GsoType::none;
    return octets != 0 &&
           std::min<std::uint32_t>(packet.length, whole ? packet.length : packet.offload.gso_size) >= octets;
}

/// Where one queue's packets go to and come from. One instance a queue, used by the queue's thread only.
/// Virtual calls are per batch. No call allocates, throws or blocks.
class Port {
public:
    Port() = default;
    Port(const Port&) = delete;
    Port& operator=(const Port&) = delete;
    virtual ~Port() = default;

    /// Room for more: false while the other side holds up what it was given. Then submit nothing
    /// (the guest's ring fills: natural back-pressure) until the port's descriptor is writable again.
    [[nodiscard]] virtual bool writable() const noexcept = 0;

    /// It may pass packets on without looking at more than their first octets (netback's header_size): the queue then
    /// leaves the rest in the guest's pages, and asks with `classify` for which packets it has to be fetched after all.
    [[nodiscard]] virtual bool prefers_granted() const noexcept { return false; }
    /// Sets Packet::route of packets about to be submitted. Those without one are submitted with all of their octets.
    virtual void classify(std::span<Packet* const> /*packets*/) noexcept {}

    /// What becomes of the guest's pages behind a packet. Those of packets that is_pinned_from(pins_from()) the kernel
    /// may go on sending from after submit, and nobody can call them back, `flush` included: they are mapped only where
    /// that is safe, and only so many at a time (limits.hpp); else the port is handed copies. It counts for itself what
    /// each of its destinations holds, and copies beyond that. Those of other packets, or all with 0, are read inside
    /// submit, or kept only where their owner can call them back: `held`, `give_back`, `flush`.
    [[nodiscard]] virtual std::uint32_t pins_from() const noexcept { return 0; }

    /// Takes all of `packets`; each is completed exactly once, now or later. No completion comes after the port is
    /// gone.
    virtual void submit(std::span<Packet* const> packets) noexcept = 0;

    /// Goes on with packets held up; called when the descriptor is writable, and before detaching
    /// with `abandon`: then what cannot be sent now is completed as dropped, but for what the kernel has.
    virtual void flush(bool abandon) noexcept = 0;

    /// Packets that wait for the other side and that nobody reads meanwhile: between turns their owner may move their
    /// octets, and change the fragments accordingly.
    [[nodiscard]] virtual std::span<Packet* const> held() const noexcept { return {}; }

    /// Fills packets of the caller's from the port, in order, and returns how many. Each comes with one
    /// fragment that tells the room (at least 65535 octets) and leaves with its length, fragment 0's
    /// length and the offload set. Fewer than asked for means: nothing more now. A port that reads ahead
    /// may put packets that it was lent into the places of those it is given, and keep these instead.
    /// A port that `scatters` and is not `reading_ahead` takes packets with several fragments too. The first is memory
    /// of ours, of limits::header_octets or more, that goes on behind it with room for a whole packet. The others may
    /// be a guest's: the port does not look at them. Where it has to, it brings the packet together in the first.
    virtual std::size_t receive(std::span<Packet*> packets) noexcept = 0;
    [[nodiscard]] virtual bool scatters() const noexcept { return false; }

    /// Packets of other queues for this one's guest: takes as many as there are, in order, up to `packets.size()`. Each
    /// is to be given back by complete_from_elsewhere.
    virtual std::size_t take_passed(std::span<Packet*> /*packets*/) noexcept { return 0; }

    /// There are more.
    [[nodiscard]] virtual bool has_passed() const noexcept { return false; }
    /// Its guest does not keep up: others shall send what is for it by another way, until it does.
    virtual void crowd(bool /*crowded*/) noexcept {}
    /// Gives those back that are still there and that `concerns`. Between turns.
    virtual void give_back(const std::function<bool(const Packet&)>& /*concerns*/) noexcept {}

    /// How many packets the port fills before it is asked for them.
    [[nodiscard]] virtual std::size_t reads_ahead() const noexcept { return 0; }
    /// Lends it so many, each with one fragment that tells the room, until it is destroyed. `handler` hears (EPOLLIN)
    /// when there is something to receive.
    virtual void lend(std::span<Packet* const> /*packets*/, ReadyHandler& /*handler*/) noexcept {}
    /// Whether it shall; it does from the start. One that ceases still has what it has read, for `receive`.
    virtual void read_ahead(bool /*on*/) noexcept {}
    /// It does, or has such packets left: its descriptor's being readable is of no interest.
    [[nodiscard]] virtual bool reading_ahead() const noexcept { return reads_ahead() != 0; }

    /// Descriptor that tells readiness (readable: receive, writable: flush), or -1: then the port is
    /// a memory port, always worth asking.
    [[nodiscard]] virtual int fd() const noexcept = 0;

    /// True for a port that always has something to receive (a generator): the loop must not sleep on it
    /// while the guest has room.
    [[nodiscard]] virtual bool always_ready() const noexcept { return false; }

    /// Its descriptor reports an error (EPOLLERR). True: that was dealt with; false: the other side is gone for good.
    [[nodiscard]] virtual bool survives_error() noexcept { return false; }

    /// True when the other side is gone for good (its interface was deleted): nothing moves any more, and the
    /// descriptor, which stays ready for ever, belongs out of the loop.
    [[nodiscard]] virtual bool failed() const noexcept { return false; }

    [[nodiscard]] virtual const PortCounters& counters() const noexcept = 0;
};

}  // namespace uvif
