// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <string_view>

#include "uvif/error.hpp"
#include "xen/store.hpp"

namespace uvif::xen {

/// A Store over libxenstore: the same in both worlds. `socket_path` names the Unix socket of an emulated machine's
/// store for one domain; empty means the real one, where libxenstore finds it (xenstored's socket, or
/// /dev/xen/xenbus). Opening is thread safe. A lost connection shows as ENOTCONN at the next call, not through fd().
Result<std::unique_ptr<Store>> open_libxenstore(std::string_view socket_path);

}  // namespace uvif::xen
