// SPDX-License-Identifier: MIT
#include "xen/real/kernel_netback.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <utility>

namespace uvif::xen {

Result<void> KernelNetback::check_absent() const {
    if (::access((bus_ + "/drivers/vif").c_str(), F_OK) != 0) {
        return {};
    }
    std::ifstream file(bus_ + "/drivers_autoprobe");
    char probes = '1';
    file >> probes;
    if (probes == '0') {
        return {};
    }
    return fail(EBUSY,
                "the kernel's own backend (module xen-netback) is loaded and takes every new vif: `modprobe -r "
                "xen-netback`, and keep it from being loaded with a file in /etc/modprobe.d that says `blacklist "
                "xen-netback`; or, to serve new vifs beside the old ones of the kernel, `echo 0 "
                ">/sys/bus/xen-backend/drivers_autoprobe`");
}

bool KernelNetback::serves(DomainId guest, std::uint32_t handle) const {
    const std::string device = fmt::format("{}/drivers/vif/vif-{}-{}", bus_, std::to_underlying(guest), handle);
    return ::access(device.c_str(), F_OK) == 0;
}

}  // namespace uvif::xen
