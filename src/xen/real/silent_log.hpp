// SPDX-License-Identifier: MIT
#pragma once

extern "C" {
#include <xentoollog.h>
}

namespace uvif::xen {

/// A logger for the Xen libraries that says nothing: they print to stderr whatever a guest made to fail, while our
/// callers count it and report what matters.
inline xentoollog_logger* silent_log() noexcept {
    static constexpr auto drop = [](xentoollog_logger*, xentoollog_level, int, const char*, const char*,
                                    va_list) noexcept {};
    static constexpr auto keep = [](xentoollog_logger*) noexcept {};
    static xentoollog_logger logger{.vmessage = drop, .progress = nullptr, .destroy = keep};
    return &logger;
}

}  // namespace uvif::xen
