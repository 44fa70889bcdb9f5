// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "port/vxlan_config.hpp"
#include "port/vxlan_port.hpp"

// Theory of operation
//
// An endpoint is one vif's. Its one socket on the VXLAN port is queue 0's, so all that comes reaches the guest through
// that queue, in order; nothing is handed from thread to thread. The other queues send from sockets of their own, on
// ports that the kernel chooses and on which nothing is received: the queue that a guest puts a flow on is the flow's
// source port, and spreads flows over paths and receivers (RFC 7348, section 5).
//
// A second vif is refused the UDP port. Sharing it between vifs needs a switch (frames for many belong to all of them),
// and the kernel has one: a vxlan device in a bridge, with --port tap.

namespace uvif {

/// MTU of a guest's interface with which its packets fit into the underlay's towards every endpoint that is configured;
/// nullopt: there is no route to any now.
[[nodiscard]] std::optional<unsigned> vxlan_guest_mtu(const VxlanConfig& config);

/// Thread rule: the control thread, but for queue(); its ports belong to the threads that use them.
class VxlanEndpoint {
public:
    /// A port that is in use is asked for again until `patient_until_ns` (monotonic clock): the kernel frees what a
    /// killed process held a little later than the process.
    /// `gso`: what the guest takes.
    static Result<std::unique_ptr<VxlanEndpoint>> open(const VxlanConfig& config, const GsoFeatures& gso,
                                                       std::int64_t patient_until_ns = 0);
    VxlanEndpoint(const VxlanEndpoint&) = delete;
    VxlanEndpoint& operator=(const VxlanEndpoint&) = delete;
    ~VxlanEndpoint() = default;

    /// A queue as a port; the endpoint outlives it. One port a queue at a time. With `pins` the kernel is to send what
    /// is long from the guest's pages (Port::pins_from).
    Result<std::unique_ptr<Port>> queue(unsigned index, bool pins = false);

private:
    VxlanEndpoint(const VxlanConfig& config, const VxlanGuest& guest);

    const VxlanConfig config_;
    const VxlanGuest guest_;
    VxlanNetwork network_;
    UniqueFd socket_;  ///< on the VXLAN port
};

}  // namespace uvif
