// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

#include "uvif/error.hpp"
#include "xen/types.hpp"

namespace uvif::xen {

/// The kernel's xen-netback, as sysfs shows it: a driver of the bus xen-backend, which takes every new vif as long as
/// the bus probes by itself. `bus` is that bus's folder, /sys/bus/xen-backend.
class KernelNetback {
public:
    explicit KernelNetback(std::string bus = "/sys/bus/xen-backend") : bus_(std::move(bus)) {}

    /// EBUSY, with the remedy, when the driver would take new vifs.
    [[nodiscard]] Result<void> check_absent() const;
    /// It has taken this one.
    [[nodiscard]] bool serves(DomainId guest, std::uint32_t handle) const;

private:
    std::string bus_;
};

}  // namespace uvif::xen
