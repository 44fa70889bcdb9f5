// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <iterator>
#include <string>
#include <string_view>

#include "runtime/limits.hpp"

namespace uvif {

/// Text that a stranger chose (a guest's store value, a peer's name), made fit to be printed: anything but
/// printable ASCII is escaped, and what is longer than `max` octets is cut and marked with "...".
[[nodiscard]] inline std::string printable(std::string_view text, std::size_t max = limits::printable_text) {
    std::string result;
    for (const char c : text.substr(0, max)) {
        if (c >= ' ' && c <= '~' && c != '\\') {
            result.push_back(c);
        } else {
            fmt::format_to(std::back_inserter(result), "\\x{:02x}", static_cast<unsigned char>(c));
        }
    }
    return text.size() > max ? result + "..." : result;
}

}  // namespace uvif
