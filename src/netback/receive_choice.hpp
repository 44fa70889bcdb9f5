// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace uvif::netback {

/// How what the port has reaches guest pages that stay mapped.
enum class ReceiveStrategy : std::uint8_t {
    bounce,    ///< many packets at a time to buffers of ours, and copied from there
    direct,    ///< straight to the pages that the guest has posted, one packet after the other
    automatic  ///< whichever is cheaper for the packets that have lately come
};
inline constexpr std::array<std::string_view, 3> receive_strategy_names{"bounce", "direct", "auto"};

/// Which of the two is cheaper: the copy that direct spares against what reading ahead spares. One queue's.
class ReceiveChoice {
public:
    explicit ReceiveChoice(ReceiveStrategy strategy) noexcept
        : strategy_(strategy), direct_(strategy == ReceiveStrategy::direct) {}

    /// A packet of which so many octets lie in their pages without a copy of ours, or would.
    void note(std::uint32_t spared) noexcept {
        mean_ += (static_cast<std::int32_t>(spared) - mean_) / weight;
        if (strategy_ == ReceiveStrategy::automatic) {
            direct_ = mean_ >= (direct_ ? still_worth : worth);
        }
    }
    [[nodiscard]] bool direct() const noexcept { return direct_; }

private:
    static constexpr std::int32_t weight = 16;  ///< of what was before: as many packets as are read ahead
    // Octets a packet. Over a TAP direct is the cheaper way from some 1500 on, within what measurements tell apart, and
    // clearly from 3000 on. To change costs a system call for each packet lent to the port.
    static constexpr std::int32_t worth = 2048;
    static constexpr std::int32_t still_worth = 1536;

    ReceiveStrategy strategy_;
    bool direct_;
    std::int32_t mean_ = 0;
};

}  // namespace uvif::netback
