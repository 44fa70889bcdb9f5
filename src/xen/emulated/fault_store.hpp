// SPDX-License-Identifier: MIT
#pragma once

#include <memory>

#include "xen/emulated/fault_plan.hpp"
#include "xen/store.hpp"

namespace uvif::xen {

/// `store`, whose calls fail where the plan says so. A commit made to fail with EAGAIN is a conflict.
[[nodiscard]] std::unique_ptr<Store> with_faults(std::unique_ptr<Store> store, std::shared_ptr<FaultPlan> plan);

}  // namespace uvif::xen
