// SPDX-License-Identifier: MIT
#pragma once

#include <memory>

#include "uvif/error.hpp"
#include "xen/grant_table.hpp"

namespace uvif::xen {

/// libxengnttab, one handle (/dev/xen/gntdev).
Result<std::unique_ptr<GrantTable>> open_real_grant_table();

}  // namespace uvif::xen
