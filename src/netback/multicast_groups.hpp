// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "port/switch.hpp"
#include "runtime/limits.hpp"

namespace uvif::netback {

/// The multicast groups that a guest wants (netif.h, "feature-multicast-control"), as long as it is connected. Its
/// queues share them: any of them may be told of a group, and each filters what it receives.
/// Thread rule: all queues at once, without a lock; the control thread for what has to do with the connection.
class MulticastGroups {
public:
    /// False: there are as many as a guest may have. One that is added twice is there twice, as in Linux netback.
    [[nodiscard]] bool add(MacNumber group) noexcept { return replace(none, group | there); }
    /// One that is not there is no fault.
    void remove(MacNumber group) noexcept { (void)replace(group | there, none); }

    /// The guest wants its groups alone. Otherwise, and by default, it gets all.
    [[nodiscard]] bool filters() const noexcept { return state_.load(std::memory_order_relaxed) == State::filters; }
    /// A frame for this address may be given to a guest whose groups are filtered. What is for one host, or for all,
    /// always may.
    [[nodiscard]] bool wanted(std::span<const std::byte, 6> destination) const noexcept {
        if ((destination[0] & std::byte{1}) == std::byte{0}) {
            return true;
        }
        const MacNumber address = mac_number(destination);
        return address == broadcast || std::ranges::any_of(groups_, [address](const auto& group) {
                   return group.load(std::memory_order_relaxed) == (address | there);
               });
    }

    // The control thread.

    /// What the guest asks for.
    void request(bool filter) noexcept {
        if (state_.load(std::memory_order_relaxed) != State::lost) {
            state_.store(filter ? State::filters : State::passes, std::memory_order_relaxed);
        }
    }
    /// Its groups were told to a daemon before us: rather too many frames than too few, until it connects anew.
    void lose() noexcept { state_.store(State::lost, std::memory_order_relaxed); }
    [[nodiscard]] bool lost() const noexcept { return state_.load(std::memory_order_relaxed) == State::lost; }
    /// For the next connection. No queue is there.
    void forget() noexcept {
        state_.store(State::passes, std::memory_order_relaxed);
        for (auto& group : groups_) {
            group.store(none, std::memory_order_relaxed);
        }
    }
    [[nodiscard]] std::size_t size() const noexcept {
        return static_cast<std::size_t>(std::ranges::count_if(
            groups_, [](const auto& group) { return group.load(std::memory_order_relaxed) != none; }));
    }

private:
    enum class State : std::uint8_t { passes, filters, lost };

    static constexpr std::uint64_t none = 0;
    static constexpr std::uint64_t there = std::uint64_t{1} << 48;  ///< with each address: so that none is `none`
    static constexpr MacNumber broadcast = 0xffff'ffff'ffff;

    bool replace(std::uint64_t old, std::uint64_t next) noexcept {
        return std::ranges::any_of(groups_, [old, next](std::atomic<std::uint64_t>& group) {
            std::uint64_t expected = old;
            return group.compare_exchange_strong(expected, next, std::memory_order_relaxed);
        });
    }

    std::atomic<State> state_ = State::passes;
    std::array<std::atomic<std::uint64_t>, limits::multicast_groups> groups_{};
};

}  // namespace uvif::netback
