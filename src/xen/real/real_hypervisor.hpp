// SPDX-License-Identifier: MIT
#pragma once

#include <memory>

#include "uvif/error.hpp"
#include "xen/hypervisor.hpp"

namespace uvif::xen {

/// Real Xen, through the kernel's /dev/xen devices. ENODEV with the remedy when this is no Xen domain, or when a
/// driver that every role needs is missing.
Result<std::unique_ptr<Hypervisor>> open_real_hypervisor();

}  // namespace uvif::xen
