// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <string>

#include "uvif/error.hpp"
#include "xen/hypervisor.hpp"

namespace uvif::xen {

/// The domain whose socket (DIR/domN of a running uvif-machine) lies at `socket_path`, for this process. Faults come
/// from UVIF_FAULTS. When the machine dies, calls on the control path fail; the data path goes on in shared memory.
Result<std::unique_ptr<Hypervisor>> open_emulated_hypervisor(const std::string& socket_path);

}  // namespace uvif::xen
