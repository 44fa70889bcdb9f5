// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>

#include "runtime/limits.hpp"

namespace uvif::netback {

/// How many slots a vif's queues hold from one turn to the next: unanswered, since somebody still uses their pages. A
/// slot has one page at most. Any thread; written only when a queue's share has changed between its turns.
class HeldSlots {
public:
    void change(std::int32_t by) noexcept { count_.fetch_add(by, std::memory_order_relaxed); }
    [[nodiscard]] bool full() const noexcept {
        return count_.load(std::memory_order_relaxed) >= limits::held_slots_per_vif;
    }

private:
    std::atomic<std::int32_t> count_ = 0;
};

}  // namespace uvif::netback
