// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "netback/fetch_policy.hpp"
#include "xen/hypervisor.hpp"

namespace uvif::netback {

/// Completes a policy by what this host is like. For `automatic`, measures what grants cost here (milliseconds; where
/// that fails, everything is copied) and returns what follows and why, one sentence.
std::string choose_fetch(xen::Hypervisor& hypervisor, xen::Store& store, FetchPolicy& policy);

}  // namespace uvif::netback
