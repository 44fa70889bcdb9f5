// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "uvif/offload.hpp"
#include "xen/types.hpp"

namespace uvif {

/// A piece of a packet, in memory that this process may read for as long as it holds the packet. Without `data`: the
/// octets are still in a guest's page, and Packet::granted says where.
struct Fragment {
    std::byte* data;
    std::uint32_t length;
};

/// Octets inside a page that a guest has granted.
struct GrantedPiece {
    xen::GrantRef ref;
    std::uint16_t offset;
};

class CompletionQueue;
class SwitchPort;

/// A packet on its way. Whoever holds it owns it (Snabb's rule): a port that was given one by
/// `submit` owes it exactly one `complete`. The memory behind the fragments belongs to the packet
/// until then, and so do the guest's pages.
struct Packet {
    /// 19 data slots of the netif protocol, and one piece for a header that was copied apart.
    static constexpr std::size_t max_fragments = 20;

    CompletionQueue* home = nullptr;  ///< where `complete` returns it to
    Packet* next = nullptr;           ///< link of the list that holds it
    std::uint32_t length = 0;         ///< sum of the fragments
    std::uint32_t id = 0;             ///< the home queue's own number for it
    Offload offload;
    std::uint16_t fragment_count = 0;
    bool copied = false;  ///< set before it is completed: the data was copied on the way, not sent from these pages
    bool owed = true;     ///< a completion, exactly one
    FlowHash hash;        ///< set by an RX queue whose guest wants hashes
    std::array<Fragment, max_fragments> fragments;

    /// Not null: fragment 0 is here, and every other one is in the page of `owner` that granted[i] names.
    const GrantedPiece* granted = nullptr;
    xen::DomainId owner{};
    SwitchPort* route = nullptr;  ///< set by Port::classify, good until the packet is submitted: who gets it

    [[nodiscard]] std::span<const Fragment> pieces() const noexcept { return {fragments.data(), fragment_count}; }
};

/// Packets that many threads put in and one takes out, all at once. Lock-free: a stack whose taker turns it round.
class PacketInbox {
public:
    PacketInbox() = default;
    PacketInbox(const PacketInbox&) = delete;
    PacketInbox& operator=(const PacketInbox&) = delete;
    ~PacketInbox() = default;

    /// Any thread. True: it was empty, so the taker may not know yet.
    bool push(Packet* packet) noexcept {
        Packet* top = top_.load(std::memory_order_relaxed);
        do {
            packet->next = top;
        } while (!top_.compare_exchange_weak(top, packet, std::memory_order_release, std::memory_order_relaxed));
        return top == nullptr;
    }

    /// The taker's thread: a list through Packet::next, in the order of each thread's pushes.
    [[nodiscard]] Packet* take_all() noexcept {
        Packet* taken = top_.exchange(nullptr, std::memory_order_acquire);
        Packet* oldest = nullptr;
        while (taken != nullptr) {
            Packet* const below = taken->next;
            taken->next = oldest;
            oldest = taken;
            taken = below;
        }
        return oldest;
    }

    [[nodiscard]] bool empty() const noexcept { return top_.load(std::memory_order_relaxed) == nullptr; }

private:
    std::atomic<Packet*> top_{nullptr};
};

/// Has the owner of a queue look at what others have put there. Called on any thread.
class Waker {
public:
    virtual void wake() noexcept = 0;

protected:
    ~Waker() = default;
};

/// Says so and ends the process: the second call may have ended the next use of the packet, while somebody still reads
/// its pages or ours.
[[noreturn]] void completed_twice(const Packet& packet) noexcept;

/// Where finished packets come home to. A queue drains its own once a turn.
class CompletionQueue {
public:
    /// `waker` hears of packets that come from elsewhere; before the first of them does.
    void wake_by(Waker& waker) noexcept { waker_ = &waker; }

    /// The thread of the queue, inside one of its turns.
    void push(Packet* packet) noexcept {
        const std::atomic_ref owed(packet->owed);
        if (!owed.load(std::memory_order_relaxed)) {
            completed_twice(*packet);
        }
        owed.store(false, std::memory_order_relaxed);
        packet->next = nullptr;
        *tail_ = packet;
        tail_ = &packet->next;
    }

    /// Any thread, at any time; it may be the queue's own. Who takes a queue away first waits for this to return
    /// wherever it is called: with the packet in it, the last one may be home.
    void push_from_elsewhere(Packet* packet) noexcept {
        if (!std::atomic_ref(packet->owed).exchange(false, std::memory_order_relaxed)) {
            completed_twice(*packet);
        }
        if (inbox_.push(packet) && waker_ != nullptr) {
            waker_->wake();
        }
    }

    /// Takes all that have come home, as a list through Packet::next, oldest first.
    [[nodiscard]] Packet* take_all() noexcept {
        *tail_ = inbox_.empty() ? nullptr : inbox_.take_all();
        Packet* first = first_;
        first_ = nullptr;
        tail_ = &first_;
        return first;
    }

    [[nodiscard]] bool empty() const noexcept { return first_ == nullptr && inbox_.empty(); }

    CompletionQueue() = default;
    CompletionQueue(const CompletionQueue&) = delete;
    CompletionQueue& operator=(const CompletionQueue&) = delete;
    ~CompletionQueue() = default;

private:
    Packet* first_ = nullptr;
    Packet** tail_ = &first_;
    PacketInbox inbox_;
    Waker* waker_ = nullptr;
};

/// The port is done with the packet: the skb destructor's role. Exactly once a packet. By the queue's own port, in the
/// queue's turn.
inline void complete(Packet* packet) noexcept {
    packet->home->push(packet);
}

/// The same, by anybody else: another queue, another thread, later.
inline void complete_from_elsewhere(Packet* packet) noexcept {
    packet->home->push_from_elsewhere(packet);
}

}  // namespace uvif
