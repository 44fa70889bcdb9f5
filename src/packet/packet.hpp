// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "uvif/offload.hpp"

namespace uvif {

/// A piece of a packet, in memory that this process may read for as long as it holds the packet.
struct Fragment {
    std::byte* data;
    std::uint32_t length;
};

class CompletionQueue;

/// A packet on its way. Whoever holds it owns it (Snabb's rule): a port that was given one by
/// `submit` owes it exactly one `complete`. The memory behind the fragments belongs to the packet
/// until then.
struct Packet {
    /// 19 data slots of the netif protocol, and one piece for a header that was copied apart.
    static constexpr std::size_t max_fragments = 20;

    CompletionQueue* home = nullptr;  ///< where `complete` returns it to
    Packet* next = nullptr;           ///< link of the list that holds it
    std::uint32_t length = 0;         ///< sum of the fragments
    std::uint32_t id = 0;             ///< the home queue's own number for it
    Offload offload;
    std::uint16_t fragment_count = 0;
    bool copied = false;  ///< set by the port: the data was copied on the way, not sent from these pages
    std::array<Fragment, max_fragments> fragments;

    [[nodiscard]] std::span<const Fragment> pieces() const noexcept { return {fragments.data(), fragment_count}; }
};

/// Where finished packets come home to. A queue drains its own once a turn.
/// Thread rule: today every port completes on the thread of the queue that submitted.
class CompletionQueue {
public:
    void push(Packet* packet) noexcept {
        packet->next = nullptr;
        *tail_ = packet;
        tail_ = &packet->next;
    }

    /// Takes all that have come home, as a list through Packet::next, oldest first.
    [[nodiscard]] Packet* take_all() noexcept {
        Packet* first = first_;
        first_ = nullptr;
        tail_ = &first_;
        return first;
    }

    [[nodiscard]] bool empty() const noexcept { return first_ == nullptr; }

    CompletionQueue() = default;
    CompletionQueue(const CompletionQueue&) = delete;
    CompletionQueue& operator=(const CompletionQueue&) = delete;
    ~CompletionQueue() = default;

private:
    Packet* first_ = nullptr;
    Packet** tail_ = &first_;
};

/// The port is done with the packet: the skb destructor's role. Exactly once a packet.
inline void complete(Packet* packet) noexcept {
    packet->home->push(packet);
}

}  // namespace uvif
