// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <optional>

#include "uvif/error.hpp"
#include "xen/grant_table.hpp"

namespace uvif::xen {

/// libxengnttab, one handle (/dev/xen/gntdev). `self` is the domain that this is, if that is known: only then there are
/// pages that are granted to it.
Result<std::unique_ptr<GrantTable>> open_real_grant_table(std::optional<DomainId> self);

}  // namespace uvif::xen
