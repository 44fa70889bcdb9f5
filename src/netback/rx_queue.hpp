// SPDX-License-Identifier: MIT
//
// Theory of operation: guest RX
//
// One turn, in two parts. gather: receive a batch from the port into buffers of ours; for each packet, in order, see
// how many slots it needs (a page each, and one for the GSO extra) and whether the guest has posted them; plan the
// copies into the guest's pages. publish, when the queue pair has had them done: one publication, at most one
// notification.
//
// A packet that does not fit waits, and those behind it too: `waiting_` is bounded by its buffers, and what the port
// has beyond them stays there (a TAP drops at its own queue's end). So a guest that posts nothing costs a fixed
// amount of memory (XSA-392). While a packet waits, the event index asks for exactly the slots it needs.
//
// Packets that another guest's queue passes on (the switch) come with that guest's pages: they are copied from there,
// and go home once they are. They share the waiting line. When the guest posts no room for limits::hold_ns, those in
// the line are copied into buffers of ours, so that the pages go back, and further ones are discarded until there is
// room.
//
// Responses stand in the slots of the requests they answer AND carry their ids: Linux goes by the position, Windows
// by the id. An extra takes a whole slot; its buffer is unused.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "grant/copy_batch.hpp"
#include "netback/counters.hpp"
#include "packet/buffer_pool.hpp"
#include "packet/packet.hpp"
#include "port/port.hpp"
#include "ring/back_ring.hpp"
#include "xen/grant_table.hpp"

namespace uvif::netback {

/// What the guest can receive, fixed while it is connected.
struct RxFeatures {
    bool scatter_gather = false;
    bool checksum_v4 = true;         ///< takes blank checksums of IPv4
    bool checksum_v6 = false;        ///< and of IPv6
    bool gso_v4 = false;             ///< takes TCP segments to be, of IPv4
    bool gso_v6 = false;             ///< and of IPv6
    bool announces_buffers = false;  ///< feature-rx-notify
};

class RxQueue {
public:
    static Result<std::unique_ptr<RxQueue>> create(ring::RxBackRing ring, xen::DomainId domain, Port& port,
                                                   RxFeatures features);
    RxQueue(const RxQueue&) = delete;
    RxQueue& operator=(const RxQueue&) = delete;
    ~RxQueue();

    /// Lends the port the packets that it reads ahead into; `handler` hears when there are some.
    void read_ahead(ReadyHandler& handler) noexcept;

    struct Gathered {
        bool worked = false;      ///< there is something to publish, or packets were discarded
        bool port_empty = false;  ///< the port had nothing more: ask again when it is readable
    };
    /// Adds to `copies` what is then to be done. Without `may_receive` only packets that wait are moved.
    [[nodiscard]] Gathered gather(bool may_receive, CopyBatch& copies) noexcept;
    /// Gives the guest what `copies` have brought to its pages. True: it wants to hear of it, by one event.
    [[nodiscard]] bool publish(const CopyBatch& copies) noexcept;

    /// Not 0: packets that wait hold another guest's pages; at this moment release_held() is due.
    [[nodiscard]] std::int64_t hold_ends_ns() const noexcept { return hold_ends_ns_; }
    /// Copies those in the line into buffers of ours; the next turns discard the others. Between turns; `copies` is
    /// free for this.
    void release_held(xen::GrantTable& grants, CopyBatch& copies) noexcept;
    /// Gives back the packets that `concerns`, as the queue that they belong to goes away, or this one does.
    void give_back(const std::function<bool(const Packet&)>& concerns) noexcept;

    /// Before sleeping: when a packet waits for slots (or the port always has one), asks for an event once they
    /// are there. False: they are.
    [[nodiscard]] bool arm() noexcept;

    /// More can be taken from the port; otherwise its readiness is of no interest.
    [[nodiscard]] bool wants_packets() const noexcept {
        return !free_.empty() && waiting_end_ - waiting_begin_ < waiting_.size();
    }

    [[nodiscard]] Rogue rogue() const noexcept { return rogue_; }
    [[nodiscard]] const RxCounters& counters() const noexcept { return counters_; }
    void count_copy_call() noexcept { ++counters_.copy_calls; }
    void count_notify() noexcept { ++counters_.notify_calls; }

    /// Slots that a packet takes on the ring.
    [[nodiscard]] static std::uint32_t slots_needed(const Packet& packet) noexcept;

    static constexpr std::size_t packets_per_turn = 64;

private:
    /// So that the guest works on the first packets while the next are copied. A whole ring of 64 KiB packets copied
    /// before it hears of the first would have it fall asleep meanwhile.
    static constexpr std::uint64_t bytes_per_turn = 128 * 1024;
    /// So that neighbours that send without end leave the bridge its part.
    static constexpr std::size_t passed_waiting_max = packets_per_turn / 2;

    RxQueue(ring::RxBackRing ring, xen::DomainId domain, Port& port, RxFeatures features, BufferPool buffers);

    /// One more than the largest packet: a larger one is seen.
    [[nodiscard]] std::uint32_t room_of_packet() const noexcept {
        return static_cast<std::uint32_t>(buffers_.buffer_size());
    }
    /// Of another guest's queue.
    [[nodiscard]] static bool is_passed(const Packet& packet) noexcept { return packet.home != nullptr; }
    void compact() noexcept;
    bool take_passed() noexcept;
    void discard_passed(std::span<Packet* const> packets) noexcept;
    bool receive() noexcept;
    [[nodiscard]] std::size_t passed_waiting() const noexcept;
    void watch_hold(bool moved) noexcept;
    bool copy_apart(Packet& passed, Packet& own, xen::GrantTable& grants, CopyBatch& copies) noexcept;
    bool deliver(CopyBatch& copies) noexcept;
    [[nodiscard]] bool takes_segments(GsoType type) const noexcept;
    void finish_checksum(Packet& packet) noexcept;
    bool place(Packet& packet, CopyBatch& copies) noexcept;
    void note_failures(const CopyBatch& copies) noexcept;
    void discard(RxDrop reason) noexcept;

    ring::RxBackRing ring_;
    xen::DomainId domain_;
    Port& port_;
    RxFeatures features_;
    Rogue rogue_ = Rogue::none;

    BufferPool buffers_;
    std::vector<Packet> packets_;  ///< packets_per_turn, and those lent to the port
    std::vector<Packet*> free_;
    // Received and not yet on the ring, in order: [waiting_begin_, waiting_end_).
    std::array<Packet*, packets_per_turn> waiting_;
    std::size_t waiting_begin_ = 0;
    std::size_t waiting_end_ = 0;

    std::int64_t hold_ends_ns_ = 0;
    bool stalled_ = false;  ///< it was due, and no packet found room since

    // This turn's answers, and for each its copies: those up to where the next one's begin.
    std::array<ring::RxSlot, ring::RxBackRing::size> answers_;
    std::array<std::uint32_t, ring::RxBackRing::size> first_segment_;
    std::uint32_t last_segment_ = 0;  ///< and one behind it
    std::uint32_t answer_count_ = 0;
    std::array<Packet*, packets_per_turn> copied_;  ///< of other queues: go home when the copies are done
    std::size_t copied_count_ = 0;

    RxCounters counters_;
};

}  // namespace uvif::netback
