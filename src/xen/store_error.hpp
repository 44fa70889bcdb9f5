// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <string_view>
#include <system_error>

#include "uvif/error.hpp"

namespace uvif::xen {

/// How every Store words a call that failed, so that logs read the same over libxenstore and in one process.
[[nodiscard]] inline std::unexpected<Error> store_failure(int code, std::string_view what, std::string_view path) {
    return fail(code, fmt::format("cannot {} {} in xenstore: {}", what, path, std::generic_category().message(code)));
}

}  // namespace uvif::xen
