// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "control_client.hpp"
#include "uvif/error.hpp"

namespace uvif::perf {

/// What the daemon has counted for our vif, all queues together.
struct BackendCounters {
    std::uint64_t tx_packets = 0, tx_bytes = 0;  ///< handed to its port
    std::uint64_t rx_packets = 0, rx_bytes = 0;  ///< given to us
    std::uint64_t drops = 0;
    std::uint64_t copied_bytes = 0;
    std::uint64_t copy_calls = 0, map_calls = 0, unmap_calls = 0, notifications = 0;
    std::uint64_t port_system_calls = 0;
    pid_t daemon = 0;  ///< who counted: one that was started again began at 0

    static BackendCounters from(const nlohmann::json& statistics);
};

/// The other end's figures, through its control socket.
class Backend {
public:
    /// Finds the daemon that serves device `device` of the domain that `hypervisor` names, and the vif there. An empty
    /// `control` is where uvif-netback listens unless told otherwise.
    static Result<Backend> find(const std::string& hypervisor, unsigned device, std::string control);

    Result<BackendCounters> counters();
    /// CPU time that the daemon has used, in nanoseconds; -1 when it cannot be told.
    [[nodiscard]] std::int64_t cpu_ns() const noexcept;
    [[nodiscard]] const std::string& strategy() const noexcept { return strategy_; }
    [[nodiscard]] const std::string& unmap() const noexcept { return unmap_; }
    /// What its strategy `auto` does and why; empty with the others.
    [[nodiscard]] const std::string& choice() const noexcept { return choice_; }

private:
    explicit Backend(tools::ControlClient client) : client_(std::move(client)) {}

    tools::ControlClient client_;
    std::string vif_;
    std::string strategy_;
    std::string unmap_;
    std::string choice_;
};

}  // namespace uvif::perf
