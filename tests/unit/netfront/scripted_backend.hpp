// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <optional>
#include <vector>

#include "netfront/rx.hpp"
#include "netfront/tx.hpp"
#include "ring/back_ring.hpp"

namespace uvif::netfront {

/// Page-aligned memory that stands for granted pages.
class Pages {
public:
    explicit Pages(std::size_t count) : memory_(static_cast<std::byte*>(std::aligned_alloc(4096, count * 4096))) {
        std::fill_n(memory_.get(), count * 4096, std::byte{0});
    }
    [[nodiscard]] std::byte* page(std::size_t i = 0) const { return memory_.get() + i * 4096; }

private:
    struct Free {
        void operator()(std::byte* memory) const { std::free(memory); }
    };
    std::unique_ptr<std::byte, Free> memory_;
};

inline std::vector<xen::GrantRef> consecutive_refs(std::uint32_t first, std::size_t count) {
    std::vector<xen::GrantRef> refs;
    for (std::uint32_t i = 0; i < count; ++i) {
        refs.push_back(static_cast<xen::GrantRef>(first + i));
    }
    return refs;
}

/// A TX queue and the backend's end of its ring, which a test scripts.
struct TxPair {
    static constexpr std::uint32_t first_ref = 1000;

    explicit TxPair(std::size_t buffer_count = 224, TxFeatures features = {true, true, true, true, true},
                    ring::Index start = 0, unsigned headers = 0)
        : memory(buffer_count + TxQueue::header_pages(headers) + 1),
          refs(consecutive_refs(first_ref, buffer_count + TxQueue::header_pages(headers))),
          front(memory.page(0), memory.page(1), refs, headers, features, start),
          back(*ring::TxBackRing::attach(memory.page(0))) {}

    std::vector<ring::TxSlot> take(std::size_t most = 256) {
        std::vector<ring::TxSlot> slots(most);
        const ring::Taken taken = back.take(slots);
        EXPECT_FALSE(taken.impossible);
        slots.resize(taken.count);
        return slots;
    }
    void answer(std::uint16_t id, ring::TxStatus status = ring::TxStatus::okay) {
        const std::array<ring::TxResponse, 1> response{ring::TxResponse{id, static_cast<std::int16_t>(status)}};
        back.respond(response);
    }
    bool publish() { return back.push_and_check_notify(); }

    /// How many buffers the application can get right now; takes none.
    std::size_t free_buffers() {
        std::vector<Fragment> all(256);
        all.resize(front.allocate(all, false));
        front.free(all);
        return all.size();
    }

    /// The same of header slots.
    std::size_t free_headers() {
        std::vector<Fragment> all(257);
        all.resize(front.allocate_headers(all));
        front.free(all);
        return all.size();
    }

    Pages memory;
    std::vector<xen::GrantRef> refs;
    QueueStatistics statistics;
    TxQueue front;
    ring::TxBackRing back;
};

/// An RX queue and the backend's end of its ring, which a test scripts.
struct RxPair {
    static constexpr std::uint32_t first_ref = 2000;
    static constexpr std::uint32_t first_buffer = 224;

    explicit RxPair(std::size_t buffer_count = 256, RxFeatures features = {true, true}, ring::Index start = 0)
        : buffers(buffer_count),
          memory(buffer_count + 1),
          refs(consecutive_refs(first_ref, buffer_count)),
          front(memory.page(0), memory.page(1), refs, first_buffer, features, start),
          back(*ring::RxBackRing::attach(memory.page(0))) {}

    /// The next request that the frontend posted.
    ring::RxRequest take() {
        std::array<ring::RxRequest, 1> request;
        EXPECT_EQ(back.take(request).count, 1U);
        return request[0];
    }
    void respond(const ring::RxSlot& slot) { back.respond({&slot, 1}); }
    /// Answers the next request as a backend does.
    ring::RxRequest answer(std::int16_t status, std::uint16_t flags = 0, std::uint16_t offset = 0) {
        const ring::RxRequest request = take();
        respond(ring::RxSlot::from(ring::RxResponse{request.id, offset, {flags}, status}));
        return request;
    }
    void extra(const ring::ExtraInfo& extra) {
        take();
        respond(ring::RxSlot::from(extra));
    }
    bool publish() { return back.push_and_check_notify(); }

    RxQueue::Received receive(std::size_t most = 64) {
        packets.assign(most, Packet{});
        const RxQueue::Received received = front.receive(packets, statistics);
        packets.resize(received.packets);
        return received;
    }
    /// Nothing is lost when every buffer that the application does not hold stands in the ring.
    void expect_all_posted() {
        static_cast<void>(front.flush());
        EXPECT_EQ(back.available() + back.owed() + front.lent(), buffers);
    }
    [[nodiscard]] std::byte* buffer_of(const ring::RxRequest& request) const {
        return memory.page(1 + request.gref - first_ref);
    }

    std::size_t buffers;
    Pages memory;
    std::vector<xen::GrantRef> refs;
    QueueStatistics statistics;
    RxQueue front;
    ring::RxBackRing back;
    std::vector<Packet> packets;
};

}  // namespace uvif::netfront
