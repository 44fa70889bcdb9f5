// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "uvif/error.hpp"

namespace uvif::xen {

/// Runs a hotplug script in this process's environment and `environment` ("name=value"), and waits for it.
/// ETIMEDOUT: it and what it started were killed. EIO: it ended with a status other than 0.
Result<void> run_hotplug_script(const std::string& script, const std::vector<std::string>& arguments,
                                const std::vector<std::string>& environment, std::chrono::milliseconds limit);

}  // namespace uvif::xen
