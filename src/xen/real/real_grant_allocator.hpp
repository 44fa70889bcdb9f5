// SPDX-License-Identifier: MIT
#pragma once

#include <memory>

#include "uvif/error.hpp"
#include "xen/grant_allocator.hpp"

namespace uvif::xen {

/// libxengnttab's gntshr, one handle (/dev/xen/gntalloc).
Result<std::unique_ptr<GrantAllocator>> open_real_grant_allocator();

}  // namespace uvif::xen
