// SPDX-License-Identifier: MIT
#pragma once

#include <memory>

#include "runtime/loop.hpp"

namespace uvif {

/// The two kinds of Loop, for Loop::create.
Result<std::unique_ptr<Loop>> create_epoll_loop();
Result<std::unique_ptr<Loop>> create_uring_loop();

}  // namespace uvif
