// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "packet/packet.hpp"
#include "uvif/error.hpp"

namespace uvif {

class Loop;

/// Counters of a port; written by its one thread.
struct PortCounters {
    std::uint64_t submitted = 0;       ///< packets taken from guests
    std::uint64_t submit_dropped = 0;  ///< of these, refused by the other side
    std::uint64_t received = 0;        ///< packets handed on towards guests
    std::uint64_t system_calls = 0;
};

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

    /// Takes all of `packets`; each is completed exactly once, now or later.
    virtual void submit(std::span<Packet* const> packets) noexcept = 0;

    /// Goes on with packets held up; called when the descriptor is writable, and before detaching
    /// with `abandon`: then what cannot be sent now is completed as dropped.
    virtual void flush(bool abandon) noexcept = 0;

    /// Fills packets of the caller's from the port, in order, and returns how many. Each comes with one
    /// fragment that tells the room (at least 65535 octets) and leaves with its length, fragment 0's
    /// length and the offload set. Fewer than asked for means: nothing more now.
    virtual std::size_t receive(std::span<Packet* const> packets) noexcept = 0;

    /// Descriptor that tells readiness (readable: receive, writable: flush), or -1: then the port is
    /// a memory port, always worth asking.
    [[nodiscard]] virtual int fd() const noexcept = 0;

    /// True for a port that always has something to receive (a generator): the loop must not sleep on it
    /// while the guest has room.
    [[nodiscard]] virtual bool always_ready() const noexcept { return false; }

    [[nodiscard]] virtual const PortCounters& counters() const noexcept = 0;
};

}  // namespace uvif
