// SPDX-License-Identifier: MIT
//
// Theory of operation
//
// What a backend has consumed of a ring and not answered is known to it alone: the answers it writes overwrite
// requests, not always their own, before anybody is told of them. A successor that goes by the ring would take an
// answer for a request and have another page of the guest's sent, or worse, overwritten. So the backend keeps a
// journal, in memory that outlives it: every request, before anything is done with it.
//
// A journal has as many lines as the ring has slots. Each belongs to a slot: the request of ring index i is written to
// the line of slot i, and keeps it until it is answered. An answer at ring index r hands the line of the request that
// it answers to slot r, for the request that will stand there next. In a ring that is answered in order every line
// stays with its slot; where answers overtake each other the lines change hands. At any time
//
//     the lines of the slots of [consumed, rsp_prod + size)   are free
//     all others                                              hold the requests that are owed an answer
//
// and two stores alone move that border, each of one word: `consumed`, and the ring's own rsp_prod. This is their
// order, with what a successor finds when the process ends in between:
//
//   take     1 requests to the lines of their slots   all free still: nothing of it counts
//            2 consumed                               the requests are owed
//   answer   3 lines handed to the answers' slots     slots before rsp_prod + size count from 5 on only: nothing
//   changed
//            4 answers over the requests in the ring  the same; the journal has what they overwrote
//            5 rsp_prod                               answered, for the guest and for the successor at once
//   recover  6 requests owed, oldest first, to the    6 is done again from the same journal
//              ring's slots from rsp_prod on
//            7 consumed := rsp_prod                   nothing is owed: all stands in the ring
//            8 every line back to its own slot        of no meaning while nothing is owed; done again
//
// A process ends between two instructions, and what it stored before is there for whoever looks after its end. So all
// that this needs is that the compiler keeps the order: 2, 5 and 7 are release stores, and what comes after 2 and 7 is
// kept behind by a fence that costs no instruction.
//
// Who ends up in the journal's memory cannot make the daemon do more than the guest itself could: what is put back into
// the ring is read again as any guest's request.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <span>

#include "ring/shared_ring.hpp"

namespace uvif::ring {

/// The line of a journal that a request was written to.
using Line = std::uint8_t;

/// The journal of one ring. It lives in memory that is shared with nobody who is alive, and has no other form than
/// this: the next process maps the same octets. One thread.
template <class Request, Index size>
class Journal {
public:
    static_assert(size - 1 <= 0xff && (size & (size - 1)) == 0);
    using Lines = std::array<Line, size>;

    /// For a ring of which nothing is owed, whose next request has index `at`.
    void begin(Index at) noexcept {
        consumed().store(at, std::memory_order_release);
        std::atomic_signal_fence(std::memory_order_seq_cst);
        for (Index slot = 0; slot < size; ++slot) {
            line_of_slot_[slot] = static_cast<Line>(slot);
        }
    }

    /// The line for the request of ring index `at`, which is consumed next.
    Line write(Index at, const Request& request) noexcept {
        const Line line = line_of_slot_[at & (size - 1)];
        entries_[line] = {request, at};
        return line;
    }
    /// All up to `end` are written, and owed from now on.
    void consume(Index end) noexcept {
        consumed().store(end, std::memory_order_release);
        std::atomic_signal_fence(std::memory_order_seq_cst);
    }

    /// The answer at ring index `at`, which is about to be published, is for the request in that line.
    void answer(Index at, Line line) noexcept { line_of_slot_[at & (size - 1)] = line; }

    /// Of a ring whose answers are published up to `answered`: the lines of the requests that are owed one, in the
    /// order in which they were consumed. `count` is above `size` when this cannot be its journal.
    struct Owed {
        Lines lines{};
        Index count = 0;
    };
    [[nodiscard]] Owed owed(Index answered) noexcept {
        Owed owed;
        const Index end = consumed().load(std::memory_order_acquire);
        if (end == answered) {
            return owed;  // 8 may have been begun
        }
        if (static_cast<Index>(end - answered) > size) {
            return Owed{{}, size + 1};
        }
        std::array<bool, size> free{};
        for (Index at = end; at != answered + size; ++at) {
            free[line_of_slot_[at & (size - 1)]] = true;
        }
        for (Index line = 0; line < size; ++line) {
            if (!free[line]) {
                owed.lines[owed.count++] = static_cast<Line>(line);
            }
        }
        // Were one line in two free slots, more would be owed than that.
        if (owed.count != end - answered) {
            return Owed{{}, size + 1};
        }
        std::ranges::sort(std::span(owed.lines).first(owed.count), std::greater(),
                          [this, end](Line line) { return static_cast<Index>(end - entries_[line].at); });
        return owed;
    }
    [[nodiscard]] const Request& request(Line line) const noexcept { return entries_[line].request; }

private:
    struct Entry {
        Request request;
        Index at;  ///< the ring index that it was consumed at
    };

    [[nodiscard]] std::atomic_ref<Index> consumed() noexcept { return std::atomic_ref(consumed_); }

    Index consumed_;
    Lines line_of_slot_;
    std::array<Entry, size> entries_;
};

}  // namespace uvif::ring
