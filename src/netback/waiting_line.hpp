// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "packet/packet.hpp"

namespace uvif::netback {

/// Packets on their way to a guest that are not on its ring yet: in order, so many and no more, and each with the
/// moment since which it waits.
class WaitingLine {
public:
    static constexpr std::size_t capacity = 64;

    [[nodiscard]] bool empty() const noexcept { return begin_ == end_; }
    [[nodiscard]] bool full() const noexcept { return end_ - begin_ == capacity; }
    [[nodiscard]] std::span<Packet* const> packets() const noexcept {
        return std::span(packets_).subspan(begin_, end_ - begin_);
    }

    [[nodiscard]] Packet& front() const noexcept { return *packets_[begin_]; }
    void pop() noexcept { ++begin_; }

    /// The places behind the last packet, to be filled from their beginning and made known by add().
    [[nodiscard]] std::span<Packet*> places() noexcept {
        filter([](Packet*&) { return true; });
        return std::span(packets_).subspan(end_);
    }
    void add(std::size_t count) noexcept {
        std::fill_n(since_ns_.begin() + static_cast<std::ptrdiff_t>(end_), count, 0);
        end_ += count;
    }

    /// Nothing moves at this moment: those that came since the last such one wait from now on.
    void stand(std::int64_t now_ns) noexcept {
        for (std::size_t i = end_; i != begin_ && since_ns_[i - 1] == 0; --i) {
            since_ns_[i - 1] = now_ns;
        }
    }
    /// Since when the first one waits; it was there at the last stand().
    [[nodiscard]] std::int64_t front_since_ns() const noexcept { return since_ns_[begin_]; }

    /// Keeps those packets of which `keep` says so. It may put another one in the place.
    template <class Keep>
    void filter(Keep keep) noexcept {
        std::size_t kept = 0;
        for (std::size_t i = begin_; i != end_; ++i) {
            if (Packet* packet = packets_[i]; keep(packet)) {
                packets_[kept] = packet;
                since_ns_[kept++] = since_ns_[i];
            }
        }
        begin_ = 0;
        end_ = kept;
    }

private:
    std::array<Packet*, capacity> packets_;
    std::array<std::int64_t, capacity> since_ns_;  ///< 0: not yet
    std::size_t begin_ = 0;                        ///< [begin_, end_)
    std::size_t end_ = 0;
};

}  // namespace uvif::netback
