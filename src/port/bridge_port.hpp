// SPDX-License-Identifier: MIT
#pragma once

#include <string>

namespace uvif {

/// Whether the interface is an isolated port of a bridge (`bridge link set dev vif1.0 isolated on`): one that may speak
/// with those that are not. False also where it is in no bridge, or nobody can tell. The control thread: a system call
/// or four.
[[nodiscard]] bool is_isolated_bridge_port(const std::string& interface) noexcept;

}  // namespace uvif
