// SPDX-License-Identifier: MIT
#pragma once

#include "xen/emulated/store_core.hpp"

namespace uvif::xen {

inline constexpr Transaction none = Transaction::none;

/// 0, or the errno value of a failed answer.
template <class T>
int code(const StoreAnswer<T>& answer) {
    return answer ? 0 : answer.error();
}

}  // namespace uvif::xen
