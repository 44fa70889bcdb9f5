// SPDX-License-Identifier: MIT
//
// Theory of operation
//
// A ring is one page that two domains share (xen/io/ring.h): four free-running 32-bit indices, then
// a power of two of slots in which an answer overwrites its request. Each index has one writer. The
// producer writes slots, publishes its index (release), and after a full fence looks at the event
// index of the other side, which says from which entry on it wants to be notified. The consumer, before it sleeps, sets
// its event index and after a full fence looks at the producer's index once more. The two
// full fences are Dekker's: with acquire and release alone both sides could miss the other's store
// and the wakeup would be lost.
//
// The peer may write anything anywhere at any time. So a slot is read exactly once, word by word
// with atomics (the compiler may not read it again), and only the copy is looked at (XSA-155); and
// nothing here follows an index of the peer's further than the ring is large.
//
// This file is the only one that dereferences ring memory.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "xen/types.hpp"

namespace uvif::ring {

using Index = std::uint32_t;

/// The view of a ring page; all ring types below are built on it.
template <class Request, class Response>
class SharedRing {
public:
    static constexpr std::size_t header_size = 64;
    static constexpr std::size_t slot_size = sizeof(Request) > sizeof(Response) ? sizeof(Request) : sizeof(Response);
    static constexpr Index size = std::bit_floor((xen::page_size - header_size) / slot_size);
    static_assert(sizeof(Request) % 4 == 0 && sizeof(Response) % 4 == 0);

    explicit SharedRing(std::byte* page) noexcept : page_(page) {
        assert(reinterpret_cast<std::uintptr_t>(page) % xen::page_size == 0);
    }

    /// SHARED_RING_INIT: producers 0, events 1, the rest of the page 0. The frontend's job.
    void initialise(Index start = 0) noexcept {
        std::memset(page_, 0, xen::page_size);
        req_prod().store(start, std::memory_order_relaxed);
        rsp_prod().store(start, std::memory_order_relaxed);
        req_event().store(start + 1, std::memory_order_relaxed);
        rsp_event().store(start + 1, std::memory_order_relaxed);
    }

    using AtomicIndex = std::atomic_ref<Index>;
    [[nodiscard]] AtomicIndex req_prod() const noexcept { return index(0); }
    [[nodiscard]] AtomicIndex req_event() const noexcept { return index(1); }
    [[nodiscard]] AtomicIndex rsp_prod() const noexcept { return index(2); }
    [[nodiscard]] AtomicIndex rsp_event() const noexcept { return index(3); }

    template <class Entry>
    [[nodiscard]] Entry read(Index at) const noexcept {
        std::array<std::uint32_t, sizeof(Entry) / 4> words;
        std::uint32_t* from = slot(at);
        for (std::size_t i = 0; i < words.size(); ++i) {
            words[i] = std::atomic_ref(from[i]).load(std::memory_order_relaxed);
        }
        return std::bit_cast<Entry>(words);
    }

    template <class Entry>
    void write(Index at, const Entry& entry) const noexcept {
        const auto words = std::bit_cast<std::array<std::uint32_t, sizeof(Entry) / 4>>(entry);
        std::uint32_t* to = slot(at);
        for (std::size_t i = 0; i < words.size(); ++i) {
            std::atomic_ref(to[i]).store(words[i], std::memory_order_relaxed);
        }
    }

private:
    // Invariant: page_ is a whole page, 4-aligned words inside it; `at` is masked to the ring.
    [[nodiscard]] AtomicIndex index(std::size_t n) const noexcept {
        return AtomicIndex(reinterpret_cast<Index*>(page_)[n]);
    }
    [[nodiscard]] std::uint32_t* slot(Index at) const noexcept {
        return reinterpret_cast<std::uint32_t*>(page_ + header_size + (at & (size - 1)) * slot_size);
    }

    std::byte* page_;
};

/// Whether the peer asked for a notification of an entry in [old_prod, new_prod).
[[nodiscard]] constexpr bool crosses_event(Index old_prod, Index new_prod, Index event) noexcept {
    return static_cast<Index>(new_prod - event) < static_cast<Index>(new_prod - old_prod);
}

/// Entries copied out, or the news that the peer's index is impossible: then nothing was copied.
struct Taken {
    Index count = 0;
    bool impossible = false;
};

}  // namespace uvif::ring
