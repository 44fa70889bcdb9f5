// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <cerrno>
#include <string_view>
#include <system_error>

#include "uvif/error.hpp"

namespace uvif::xen {

/// Words why one of the kernel's Xen devices could not be opened, and what to do about it.
[[nodiscard]] inline std::unexpected<Error> device_failure(int error, std::string_view device,
                                                           std::string_view module) {
    const bool forbidden = error == EACCES || error == EPERM;
    return fail(error, fmt::format("cannot open /dev/xen/{}: {}: {}{}", device, std::generic_category().message(error),
                                   forbidden ? "this user may not use it" : "is the driver loaded? modprobe ",
                                   forbidden ? std::string_view() : module));
}

}  // namespace uvif::xen
