// SPDX-License-Identifier: MIT
//
// Theory of operation: steering by the guest's hash
//
// A guest that has set hash types, key and mapping through the control ring says by them which of its queues a packet
// belongs to. The queue that reads a frame from its port (which one that is, the kernel chooses) computes the hash, and
// puts a packet that belongs to another queue into that one's inbox, as the switch does with packets of other guests:
// it goes to the guest from there, and then home. So packets of a flow that the kernel keeps on one queue stay in
// order. A queue whose guest posts no room treats them as it does those of other guests (rx_queue.hpp).
//
// What the guest has set is one immutable RxSteering, which the queues of a vif share and which the control thread
// replaces by a message to each. Without one a queue does none of this.
//
// The other way, a program in the kernel that the TAP asks for the queue (TUNSETSTEERINGEBPF), would save the
// hand-over, and needs bpf(2), which containers and locked-down kernels refuse, and a TAP.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "packet/packet.hpp"
#include "packet/passed_packets.hpp"
#include "packet/toeplitz.hpp"
#include "runtime/limits.hpp"

namespace uvif::netback {

/// Which queue gets a packet, and the hash that says so.
class RxSteering {
public:
    /// `types`: of HashTypes. An empty `mapping` means the hash modulo the number of queues; otherwise each entry is
    /// below `queues`.
    RxSteering(std::uint32_t types, std::span<const std::uint8_t> key, std::span<const std::uint16_t> mapping,
               std::uint32_t queues) noexcept;

    /// Of the most particular type that is wanted and fits the packet (netif.h, SET_HASH_FLAGS); fragments have no
    /// ports. `octets`: the packet's first limits::header_octets, or all of it.
    [[nodiscard]] FlowHash hash(std::span<const std::byte> octets) const noexcept;

    /// A packet without a hash counts as one of hash 0, as in Linux.
    [[nodiscard]] std::uint32_t queue_of(const FlowHash& hash) const noexcept {
        return mapping_size_ == 0 ? hash.value % queues_ : mapping_[hash.value % mapping_size_];
    }

private:
    std::uint32_t types_;
    std::uint32_t queues_;
    std::uint32_t mapping_size_;
    std::array<std::uint16_t, limits::hash_mapping> mapping_{};
    Toeplitz toeplitz_;
};

/// Where the queues of a vif put packets that belong to each other. Outlives them.
class RxExchange {
public:
    explicit RxExchange(std::size_t queues) : inboxes_(queues) {}

    struct Inbox {
        PassedPackets packets;
        Waker* waker = nullptr;  ///< of the queue; set before anybody puts something in
    };
    [[nodiscard]] Inbox& of(std::size_t queue) noexcept { return inboxes_[queue]; }

    /// The thread of another queue.
    void pass(Packet* packet, std::size_t queue) noexcept {
        if (inboxes_[queue].packets.push(packet)) {
            inboxes_[queue].waker->wake();
        }
    }

private:
    std::vector<Inbox> inboxes_;
};

}  // namespace uvif::netback
