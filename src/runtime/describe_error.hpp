// SPDX-License-Identifier: MIT
#pragma once

#include <cerrno>
#include <cstring>
#include <string>

namespace uvif {

/// An errno value in words, and the remedy where it is the same wherever it happens.
inline std::string describe_error(int code) {
    const std::string text = std::strerror(code);
    if (code == EMFILE || code == ENFILE) {
        return text + "; raise the limit of open files (ulimit -n)";
    }
    return code == ENOMEM ? text + "; raise the limit of address space (ulimit -v), or free memory" : text;
}

}  // namespace uvif
