// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace uvif::perf {

/// Counts durations in buckets that grow with them: each is within 1/64 of what it holds. Fixed memory, no
/// allocation while it is filled.
class LatencyHistogram {
public:
    void add(std::uint64_t ns) noexcept {
        ++counts_[bucket_of(ns)];
        ++count_;
        max_ = std::max(max_, ns);
    }
    LatencyHistogram& operator+=(const LatencyHistogram& other) noexcept {
        for (std::size_t i = 0; i < counts_.size(); ++i) {
            counts_[i] += other.counts_[i];
        }
        count_ += other.count_;
        max_ = std::max(max_, other.max_);
        return *this;
    }
    void clear() noexcept { *this = {}; }

    [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
    [[nodiscard]] std::uint64_t max() const noexcept { return max_; }

    /// The duration that `share` (0 to 1) of all do not exceed, rounded up to the end of its bucket; 0 of none.
    [[nodiscard]] std::uint64_t percentile(double share) const noexcept {
        const double wanted = share * static_cast<double>(count_);
        std::uint64_t seen = 0;
        for (std::size_t i = 0; i < counts_.size(); ++i) {
            seen += counts_[i];
            if (seen != 0 && static_cast<double>(seen) >= wanted) {
                return std::min(last_of(i), max_);
            }
        }
        return max_;
    }

private:
    static constexpr unsigned fine_bits = 6;  ///< 64 buckets for each power of two
    static constexpr std::size_t fine = std::size_t{1} << fine_bits;

    /// Below 128 ns a bucket is a nanosecond; above, the leading one and the six bits behind it choose.
    static constexpr std::size_t bucket_of(std::uint64_t ns) noexcept {
        const unsigned shift = std::max(static_cast<unsigned>(std::bit_width(ns)), fine_bits + 1) - (fine_bits + 1);
        return shift * fine + static_cast<std::size_t>(ns >> shift);
    }
    static constexpr std::uint64_t last_of(std::size_t bucket) noexcept {
        const std::size_t shift = bucket < 2 * fine ? 0 : bucket / fine - 1;
        return ((std::uint64_t{bucket - shift * fine} + 1) << shift) - 1;
    }

    std::array<std::uint64_t, (64 - fine_bits + 1) * fine> counts_{};
    std::uint64_t count_ = 0;
    std::uint64_t max_ = 0;
};

}  // namespace uvif::perf
