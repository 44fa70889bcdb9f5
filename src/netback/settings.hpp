// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

#include "netback/rx_queue.hpp"
#include "netback/tx_queue.hpp"
#include "port/port_spec.hpp"
#include "runtime/loop.hpp"

namespace uvif::netback {

/// What the operator chose, the same for every vif.
struct Settings {
    PortSpec port;
    FetchPolicy fetch;
    std::string fetch_choice;  ///< what `auto` does here and why; empty with the other strategies
    LoopKind loop = LoopKind::automatic;
    unsigned workers = 1;
    unsigned max_queues = 1;  ///< multi-queue-max-queues
    std::int64_t spin_ns = 0;
    RxPatience rx_patience;
    ReceiveStrategy receive = ReceiveStrategy::automatic;
    std::string journals;          ///< folder of the journals (queue_journal.hpp)
    bool switched = false;         ///< vifs of one bridge hand frames over directly
    bool no_mac_spoofing = false;  ///< and their guests send from their own address only, unless the vif says otherwise
};

}  // namespace uvif::netback
