// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>

namespace uvif {

/// How many pages of guests may yet stay mapped (static and persistent grants): those of one vif, which also come out
/// of what all guests share (XSA-300). Any thread.
class PageBudget {
public:
    explicit PageBudget(std::size_t pages, PageBudget* of_all = nullptr) noexcept : left_(pages), of_all_(of_all) {}
    PageBudget(const PageBudget&) = delete;
    PageBudget& operator=(const PageBudget&) = delete;
    ~PageBudget() = default;

    /// All or, when there are not so many, none.
    [[nodiscard]] bool take(std::size_t pages) noexcept {
        for (std::size_t left = left_.load(std::memory_order_relaxed); left >= pages;) {
            if (left_.compare_exchange_weak(left, left - pages, std::memory_order_relaxed)) {
                if (of_all_ == nullptr || of_all_->take(pages)) {
                    return true;
                }
                left_.fetch_add(pages, std::memory_order_relaxed);
                return false;
            }
        }
        return false;
    }
    void give(std::size_t pages) noexcept {
        left_.fetch_add(pages, std::memory_order_relaxed);
        if (of_all_ != nullptr) {
            of_all_->give(pages);
        }
    }
    [[nodiscard]] std::size_t left() const noexcept {
        const std::size_t own = left_.load(std::memory_order_relaxed);
        return of_all_ == nullptr ? own : std::min(own, of_all_->left());
    }

private:
    std::atomic<std::size_t> left_;
    PageBudget* const of_all_;
};

}  // namespace uvif
