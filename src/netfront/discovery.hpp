// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "uvif/error.hpp"
#include "xen/store.hpp"
#include "xen/types.hpp"

namespace uvif::netfront {

/// What the toolstack wrote into a frontend's directory.
struct DeviceInfo {
    std::string frontend;  ///< relative to the domain: device/vif/N
    std::string backend;   ///< absolute
    xen::DomainId backend_domain;
    std::array<std::uint8_t, 6> mac;
};

/// Ids of this domain's vifs, ascending. An empty list where there are none.
Result<std::vector<unsigned>> list_devices(xen::Store& store);

/// One sentence for an id that does not exist: the directory looked at, what is there, and the remedy.
std::string no_such_device(const std::vector<unsigned>& present, const unsigned* wanted);

/// Errors: ENODEV, EPROTO (a key is missing or malformed).
Result<DeviceInfo> read_device(xen::Store& store, unsigned id);

/// The `mtu` key of the frontend's directory, 1500 when it is absent or makes no sense.
unsigned read_mtu(xen::Store& store, const std::string& frontend);

}  // namespace uvif::netfront
