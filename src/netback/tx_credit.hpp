// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>

namespace uvif::netback {

/// The toolstack's `rate` of a vif: how fast its guest may send. One for all queues of the vif, so that the rate is
/// that of the vif however many queues it has (Linux netback gives it to each queue).
///
/// A token bucket kept as one number (generic cell rate algorithm, ITU-T I.371): the moment at which everything sent
/// so far has been paid for. It may lie behind the clock, by one burst at most.
/// Thread rule: set() on the control thread, all else on any.
class TxCredit {
public:
    struct Rate {
        std::uint64_t bytes = 0;  ///< 0: without limit
        std::uint64_t interval_us = 0;
        bool operator==(const Rate&) const = default;
    };
    /// A burst: the bytes of one interval, and at least this (as Linux netback), so that a packet of 64 KiB fits.
    static constexpr std::uint64_t burst_min = 131072;

    void set(Rate rate) noexcept;

    /// Pays for a packet of `bytes`. 0: it may go; otherwise when to ask again, in nanoseconds of the monotonic clock.
    [[nodiscard]] std::int64_t pay(std::uint32_t bytes) noexcept;
    /// The same at a given moment.
    [[nodiscard]] std::int64_t pay(std::uint32_t bytes, std::int64_t now_ns) noexcept;

private:
    std::atomic<double> ns_per_byte_{0};
    std::atomic<double> burst_ns_{0};
    std::atomic<double> paid_ns_{-std::numeric_limits<double>::infinity()};
};

}  // namespace uvif::netback
