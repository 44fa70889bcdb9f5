// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <atomic>
#include <span>

#include "ring/netif.hpp"
#include "ring/shared_ring.hpp"

namespace uvif::ring {

/// The frontend's end of a ring: produces requests, consumes responses. One thread.
template <class Request, class Response>
class FrontRing {
public:
    using Shared = SharedRing<Request, Response>;
    static constexpr Index size = Shared::size;

    /// Initialises the page. `start` other than 0 is for tests of index wrap.
    explicit FrontRing(std::byte* page, Index start = 0) noexcept
        : shared_(page), req_prod_(start), published_(start), rsp_cons_(start), rsp_prod_seen_(start) {
        shared_.initialise(start);
    }

    /// Requests that may still be put.
    [[nodiscard]] Index room() const noexcept { return size - (req_prod_ - rsp_cons_); }
    /// Requests put and not yet answered.
    [[nodiscard]] Index in_flight() const noexcept { return req_prod_ - rsp_cons_; }

    /// Writes a request into the next slot; visible after push. Returns the index it got.
    Index put(const Request& request) noexcept {
        assert(room() > 0);
        shared_.write(req_prod_, request);
        return req_prod_++;
    }

    /// Publishes all requests written. True: the backend asked to be notified.
    [[nodiscard]] bool push_and_check_notify() noexcept {
        const Index old = published_;
        if (old == req_prod_) {
            return false;
        }
        shared_.req_prod().store(req_prod_, std::memory_order_release);
        published_ = req_prod_;
        std::atomic_thread_fence(std::memory_order_seq_cst);
        return crosses_event(old, req_prod_, shared_.req_event().load(std::memory_order_relaxed));
    }

    /// Copies up to out.size() new responses, each exactly once. An index that runs ahead of what was
    /// asked is reported, never followed.
    [[nodiscard]] Taken take(std::span<Response> out) noexcept {
        if (out.size() > available_seen()) {
            rsp_prod_seen_ = shared_.rsp_prod().load(std::memory_order_acquire);
        }
        if (available_seen() > static_cast<Index>(published_ - rsp_cons_)) {
            return {0, true};
        }
        const Index count = static_cast<Index>(std::min<std::size_t>(out.size(), available_seen()));
        for (Index i = 0; i < count; ++i) {
            out[i] = shared_.template read<Response>(rsp_cons_ + i);
        }
        rsp_cons_ += count;
        return {count, false};
    }

    [[nodiscard]] Index available_seen() const noexcept { return rsp_prod_seen_ - rsp_cons_; }

    /// Asks for a notification at the `ahead`-th response from here, and looks again: false means it is
    /// already there.
    [[nodiscard]] bool arm(Index ahead = 1) noexcept {
        shared_.rsp_event().store(rsp_cons_ + ahead, std::memory_order_relaxed);
        std::atomic_thread_fence(std::memory_order_seq_cst);
        rsp_prod_seen_ = shared_.rsp_prod().load(std::memory_order_acquire);
        return available_seen() < ahead;
    }

    /// Index of the next response: its low bits are the ring position, which RX responses answer by.
    [[nodiscard]] Index consumed() const noexcept { return rsp_cons_; }
    [[nodiscard]] Index produced() const noexcept { return req_prod_; }

private:
    Shared shared_;
    Index req_prod_;   // private: written, perhaps not published
    Index published_;  // what shared req_prod holds
    Index rsp_cons_;
    Index rsp_prod_seen_;  // the peer's index at the last look
};

using TxFrontRing = FrontRing<TxSlot, TxResponse>;
using RxFrontRing = FrontRing<RxRequest, RxSlot>;
using CtrlFrontRing = FrontRing<CtrlRequest, CtrlResponse>;

}  // namespace uvif::ring
