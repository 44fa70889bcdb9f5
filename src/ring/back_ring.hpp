// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <atomic>
#include <optional>
#include <span>

#include "ring/journal.hpp"
#include "ring/netif.hpp"
#include "ring/shared_ring.hpp"

namespace uvif::ring {

/// The backend's end of a ring: consumes requests, produces responses. One thread.
template <class Request, class Response>
class BackRing {
public:
    using Shared = SharedRing<Request, Response>;
    static constexpr Index size = Shared::size;
    using Journal = ring::Journal<Request, size>;

    /// Takes a ring up where its last backend published: at the shared rsp_prod, which is 0 on a
    /// fresh one. nullopt: more requests outstanding than the ring holds, so it is no ring in use.
    [[nodiscard]] static std::optional<BackRing> attach(std::byte* page) noexcept {
        BackRing ring(page);
        ring.rsp_prod_ = ring.shared_.rsp_prod().load(std::memory_order_acquire);
        ring.req_cons_ = ring.rsp_prod_;
        ring.published_ = ring.rsp_prod_;
        ring.req_prod_seen_ = ring.shared_.req_prod().load(std::memory_order_acquire);
        if (static_cast<Index>(ring.req_prod_seen_ - ring.rsp_prod_) > size) {
            return std::nullopt;
        }
        return ring;
    }

    /// Just attached: begins a journal, which lives longer. Without one nobody can go on where a killed backend was.
    void keep(Journal& journal) noexcept {
        journal.begin(rsp_prod_);
        journal_ = &journal;
    }
    /// Just attached: puts the requests that the last backend consumed and did not answer back into the ring, from its
    /// journal, and goes on with that. False: it cannot be this ring's, and nothing was done.
    [[nodiscard]] bool recover(Journal& journal) noexcept {
        const auto owed = journal.owed(rsp_prod_);
        if (owed.count > available_seen()) {
            return false;
        }
        for (Index i = 0; i < owed.count; ++i) {
            shared_.write(rsp_prod_ + i, journal.request(owed.lines[i]));
        }
        keep(journal);
        return true;
    }

    /// Copies up to out.size() new requests out of the ring, each exactly once. Reads the peer's index only
    /// when what was seen of it is used up. An index that runs ahead of the ring is reported, never followed.
    /// Who does not answer in order gets each one's line of the journal too, in `lines`.
    [[nodiscard]] Taken take(std::span<Request> out, std::span<Line> lines = {}) noexcept {
        const Taken taken = peek(out);
        consume(out.first(taken.count), lines);
        return taken;
    }
    /// The first half of it: copies them, and leaves them where they are.
    [[nodiscard]] Taken peek(std::span<Request> out) noexcept {
        if (out.size() > available_seen()) {
            req_prod_seen_ = shared_.req_prod().load(std::memory_order_acquire);
        }
        if (available_seen() > size) {
            return {0, true};
        }
        // A frontend may not have more in flight than the ring holds, answered or not.
        const Index in_flight = req_cons_ - published_;
        const Index count = std::min({available_seen(), static_cast<Index>(size - in_flight),
                                      static_cast<Index>(std::min<std::size_t>(out.size(), size))});
        for (Index i = 0; i < count; ++i) {
            out[i] = shared_.template read<Request>(req_cons_ + i);
        }
        return {count, false};
    }
    /// The second: takes the first so many of those that peek() has copied, as it has copied them.
    void consume(std::span<const Request> requests, std::span<Line> lines = {}) noexcept {
        if (journal_ != nullptr) {
            note(requests, lines);
        }
        req_cons_ += static_cast<Index>(requests.size());
    }

    /// Requests that stand in the ring and were not taken, as of the last look at the peer's index.
    [[nodiscard]] Index available_seen() const noexcept { return req_prod_seen_ - req_cons_; }
    /// The same with a fresh look; impossible indices read as none (take() reports them).
    [[nodiscard]] Index available() noexcept {
        req_prod_seen_ = shared_.req_prod().load(std::memory_order_acquire);
        return available_seen() > size ? 0 : available_seen();
    }
    /// Requests taken and not yet answered.
    [[nodiscard]] Index owed() const noexcept { return req_cons_ - rsp_prod_; }

    /// Writes responses into the next slots. They are not visible before push(). `lines`: of the requests that they
    /// answer; none, when these are the oldest.
    void respond(std::span<const Response> responses, std::span<const Line> lines = {}) noexcept {
        assert(responses.size() <= owed());
        if (journal_ != nullptr) {
            for (Index i = 0; i < lines.size(); ++i) {
                journal_->answer(rsp_prod_ + i, lines[i]);
            }
        }
        for (const Response& response : responses) {
            shared_.write(rsp_prod_++, response);
        }
    }

    /// Publishes all responses written. True: the frontend asked to be notified.
    [[nodiscard]] bool push_and_check_notify() noexcept {
        const Index old = published_;
        if (old == rsp_prod_) {
            return false;
        }
        shared_.rsp_prod().store(rsp_prod_, std::memory_order_release);
        published_ = rsp_prod_;
        std::atomic_thread_fence(std::memory_order_seq_cst);
        return crosses_event(old, rsp_prod_, shared_.rsp_event().load(std::memory_order_relaxed));
    }

    /// Asks for a notification when `ahead` more requests than consumed are there, and looks again: false
    /// means they already are, so go on working. Call it before sleeping only: it writes the shared line.
    [[nodiscard]] bool arm(Index ahead = 1) noexcept {
        shared_.req_event().store(req_cons_ + ahead, std::memory_order_relaxed);
        std::atomic_thread_fence(std::memory_order_seq_cst);
        req_prod_seen_ = shared_.req_prod().load(std::memory_order_acquire);
        return available_seen() < ahead;
    }

    [[nodiscard]] Index consumed() const noexcept { return req_cons_; }

private:
    explicit BackRing(std::byte* page) noexcept : shared_(page) {}

    void note(std::span<const Request> requests, std::span<Line> lines) noexcept {
        for (Index i = 0; i < requests.size(); ++i) {
            const Line line = journal_->write(req_cons_ + i, requests[i]);
            if (!lines.empty()) {
                lines[i] = line;
            }
        }
        journal_->consume(req_cons_ + static_cast<Index>(requests.size()));
    }

    Shared shared_;
    Journal* journal_ = nullptr;
    Index req_cons_ = 0;
    Index rsp_prod_ = 0;       // private: written, perhaps not published
    Index published_ = 0;      // what shared rsp_prod holds
    Index req_prod_seen_ = 0;  // the peer's index at the last look
};

using TxBackRing = BackRing<TxSlot, TxResponse>;
using RxBackRing = BackRing<RxRequest, RxSlot>;
using CtrlBackRing = BackRing<CtrlRequest, CtrlResponse>;

}  // namespace uvif::ring
