// SPDX-License-Identifier: MIT
#pragma once

#include <compare>
#include <cstdint>
#include <string>

#include "xen/types.hpp"

namespace uvif::netback {

struct VifId {
    xen::DomainId domain{};
    std::uint32_t handle = 0;
    auto operator<=>(const VifId&) const = default;
};

/// What the guest wrote about one queue, read strictly.
struct QueueKeys {
    xen::GrantRef tx_ring{};
    xen::GrantRef rx_ring{};
    xen::EventPort tx_event{};
    xen::EventPort rx_event{};  ///< the same as tx_event when not split
};

/// One queue of one connection, and of no other.
struct QueueIdentity {
    VifId vif;
    std::uint32_t queue = 0;
    std::string guest;  ///< /vm/UUID; empty where that cannot be read, as in a driver domain
    QueueKeys keys;
};

}  // namespace uvif::netback
