// SPDX-License-Identifier: MIT
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "netback/counters.hpp"
#include "port/port.hpp"

namespace uvif::netback {

/// Everything that one queue counted, taken on its own thread.
struct QueueStatistics {
    TxCounters tx;
    RxCounters rx;
    PortCounters port;

    QueueStatistics& operator+=(const QueueStatistics& other);
};

/// Flat names in the manner of `ethtool -S`; TX and RX as the guest sees them. `tx_drops` and `rx_drops` are the
/// packets that did not arrive, for whatever reason.
[[nodiscard]] nlohmann::json to_json(const QueueStatistics& statistics);

}  // namespace uvif::netback
