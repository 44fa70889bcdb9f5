// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "grant/grant_costs.hpp"

namespace uvif::netback {

/// How guest pages reach the port.
enum class FetchStrategy : std::uint8_t {
    copy,
    map,
    automatic  ///< whichever is cheaper for the frame, by what both cost on this host
};
inline constexpr std::array<std::string_view, 3> fetch_strategy_names{"copy", "map", "auto"};

/// When mapped pages are given back.
enum class UnmapStrategy : std::uint8_t {
    batch,  ///< packets share regions, which are unmapped together
    each    ///< a map and an unmap call for each packet, as a backend that does not batch. For comparison
};
inline constexpr std::array<std::string_view, 2> unmap_strategy_names{"batch", "each"};

/// What the operator chose, the same for every queue.
struct FetchPolicy {
    FetchStrategy strategy = FetchStrategy::copy;
    UnmapStrategy unmap = UnmapStrategy::batch;
    MapTerms terms{};      ///< of `automatic`
    bool may_pin = false;  ///< the kernel may be given pages to send from later (Hypervisor::pinning_is_safe)

    /// Ports that can have the kernel send from guests' pages shall: only where that was asked for, since one copy of
    /// ours is cheaper than to pin (docs/vxlan.md).
    [[nodiscard]] bool pins() const noexcept { return may_pin && strategy == FetchStrategy::map; }
};

}  // namespace uvif::netback
