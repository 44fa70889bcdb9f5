// SPDX-License-Identifier: MIT
//
// What the two xenstore folders of a vif say, read strictly. A missing key has its default (xen/io/netif.h); a
// malformed one is an error that names key, value and what was expected.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "netback/control_ring.hpp"
#include "netback/identity.hpp"
#include "netback/queue_pair.hpp"
#include "xen/store.hpp"
#include "xen/store_path.hpp"

namespace uvif::netback {

/// From the backend's folder, which the toolstack wrote: who the guest is and what its interface is called.
/// Identity is never taken from the frontend's folder, where everything is the guest's to write.
struct DeviceKeys {
    std::string frontend;  ///< absolute path of the frontend's folder
    xen::MacAddress mac{};
    std::string interface;  ///< `vifname`, or vif<domid>.<handle>
    bool scripted = false;  ///< a hotplug script sets it up, which also gives it the `vifname`
    std::optional<std::uint32_t> mtu;
    std::string bridge;  ///< empty: none, as with a script that routes
};
/// All of one moment. Errors: EINVAL for a key that is missing or wrong; ESTALE when the folder itself is gone.
Result<DeviceKeys> read_device_keys(xen::Store& store, const std::string& backend, xen::DomainId guest,
                                    std::uint32_t handle);

/// The toolstack's `rate`, "BYTES,MICROSECONDS"; nothing when `text` is no such thing, or one of them is 0.
std::optional<TxCredit::Rate> parse_rate(std::string_view text) noexcept;

/// From the frontend's folder, once it is Connected.
struct GuestKeys {
    std::vector<QueueKeys> queues;
    RxFeatures rx;
    bool persistent_grants = false;
    std::optional<ControlRingKeys> control;
};
Result<GuestKeys> read_guest_keys(xen::Store& store, const std::string& frontend, std::uint32_t max_queues);

/// Writes what this backend can do into its own folder, in one transaction; ESTALE when the folder is gone.
Result<void> publish_features(xen::Store& store, const std::string& backend, std::uint32_t max_queues);

/// Tells the guest whether its link is up (netif.h, "Link state"); ESTALE when the folder is gone.
Result<void> write_carrier(xen::Store& store, const std::string& backend, bool up);

}  // namespace uvif::netback
