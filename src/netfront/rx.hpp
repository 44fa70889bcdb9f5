// SPDX-License-Identifier: MIT
//
// Theory of operation
//
// Every free buffer is posted as a request whose id is its position in the ring: unique among those in flight, and
// below 256. The answer must stand in the slot of its request and carry its id; `posted_` tells the buffer behind a
// position. A packet is a chain of answers (protocol: one response, its extras, further responses); the extras used up
// a request each, whose buffers come back at once. Backends publish whole packets, but nothing
// obliges a hostile one: an unfinished chain stays in `chain_`, bounded, until the rest comes.
//
// A packet that cannot be (error status, impossible lengths, GSO never offered) is given up when its
// chain ends and its buffers are posted again. What no backend does by accident (a wrong id, an
// unknown extra) is a breach and ends the queue.
//
// Requests are published in batches: when enough have gathered, when the ring runs dry, and before sleeping.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "ring/front_ring.hpp"
#include "uvif/netfront.hpp"
#include "xen/types.hpp"

namespace uvif::netfront {

/// The GSO types that we told the backend to send.
struct RxFeatures {
    bool tcpv4 = false;
    bool tcpv6 = false;
};

/// The RX half of a queue pair. One thread.
class RxQueue {
public:
    /// `buffers` is refs.size() pages, at most 256; the first is called `first_buffer` towards the application, so that
    /// no TX buffer has the same number. `first_index` other than 0 is for tests of index wrap.
    RxQueue(std::byte* ring_page, std::byte* buffers, std::span<const xen::GrantRef> refs, std::uint32_t first_buffer,
            const RxFeatures& features, ring::Index first_index) noexcept;

    struct Received {
        std::size_t packets;
        bool notify;         ///< the backend asked for an event
        const char* breach;  ///< a sentence (a literal): how the backend broke the protocol
    };
    Received receive(std::span<Packet> packets, QueueStatistics& statistics) noexcept;

    /// True: the backend asked for an event.
    [[nodiscard]] bool release(std::span<const Packet> packets) noexcept;

    /// Publishes every request posted. True: the backend asked for an event.
    [[nodiscard]] bool flush() noexcept;
    [[nodiscard]] bool arm() noexcept { return ring_.arm(); }

    /// Buffers that the application holds.
    [[nodiscard]] std::size_t lent() const noexcept { return lent_count_; }

private:
    static constexpr std::size_t capacity = ring::RxFrontRing::size;
    static constexpr std::uint32_t position_mask = ring::RxFrontRing::size - 1;

    enum class Stage : std::uint8_t { first, extra, data };

    /// A packet being put together from several slots.
    struct Chain {
        Packet packet;
        Stage stage = Stage::first;  ///< what the next slot must be
        bool more_data = false;
        bool bad = false;
        std::uint32_t slots = 0;
    };

    [[nodiscard]] const char* accept(ring::Index at, const ring::RxSlot& slot, std::span<Packet> packets,
                                     std::size_t& count, QueueStatistics& statistics) noexcept;
    [[nodiscard]] const char* accept_response(const ring::RxResponse& response, std::uint16_t buffer) noexcept;
    [[nodiscard]] const char* accept_extra(const ring::ExtraInfo& extra, std::uint16_t buffer) noexcept;
    void add(const ring::RxResponse& response, std::uint16_t buffer) noexcept;
    void finish(std::span<Packet> packets, std::size_t& count, QueueStatistics& statistics) noexcept;
    [[nodiscard]] bool deliverable() const noexcept;

    [[nodiscard]] Fragment fragment(const ring::RxResponse& response, std::uint16_t buffer) const noexcept;
    void lend(std::uint16_t buffer) noexcept;
    void give_back(std::uint16_t buffer) noexcept { free_[free_count_++] = buffer; }
    void post() noexcept;

    ring::RxFrontRing ring_;
    std::byte* buffers_;
    std::uint32_t buffer_count_;
    std::uint32_t first_buffer_;
    RxFeatures features_;
    std::uint32_t unpublished_ = 0;
    std::size_t free_count_ = 0;
    std::size_t lent_count_ = 0;
    std::array<std::uint16_t, capacity> free_;
    std::array<std::uint16_t, capacity> posted_{};  // by ring position
    std::array<bool, capacity> lent_{};
    std::array<std::uint32_t, capacity> refs_;
    std::array<ring::RxSlot, capacity> slots_;
    Chain chain_;
};

}  // namespace uvif::netfront
