// SPDX-License-Identifier: MIT
#include "netback/tx_credit.hpp"

#include <algorithm>
#include <cmath>

#include "runtime/clock.hpp"

namespace uvif::netback {

void TxCredit::set(Rate rate) noexcept {
    const bool limited = rate.bytes != 0 && rate.interval_us != 0;
    const double ns_per_byte =
        limited ? static_cast<double>(rate.interval_us) * ns_per_us / static_cast<double>(rate.bytes) : 0;
    burst_ns_.store(static_cast<double>(std::max(rate.bytes, burst_min)) * ns_per_byte, std::memory_order_relaxed);
    ns_per_byte_.store(ns_per_byte, std::memory_order_relaxed);
}

std::int64_t TxCredit::pay(std::uint32_t bytes) noexcept {
    // Most vifs have no limit, and need no clock.
    return ns_per_byte_.load(std::memory_order_relaxed) == 0 ? 0 : pay(bytes, monotonic_ns());
}

std::int64_t TxCredit::pay(std::uint32_t bytes, std::int64_t now_ns) noexcept {
    const double price_ns = bytes * ns_per_byte_.load(std::memory_order_relaxed);
    const double burst_ns = burst_ns_.load(std::memory_order_relaxed);
    const auto now = static_cast<double>(now_ns);
    double paid = paid_ns_.load(std::memory_order_relaxed);
    double then = 0;
    do {
        then = std::max(paid, now - burst_ns) + price_ns;
        if (then > now) {
            return static_cast<std::int64_t>(std::ceil(then));
        }
    } while (!paid_ns_.compare_exchange_weak(paid, then, std::memory_order_relaxed));
    return 0;
}

}  // namespace uvif::netback
