// SPDX-License-Identifier: MIT
#include "runtime/loop.hpp"

#include "runtime/loop_kinds.hpp"

namespace uvif {

Result<std::unique_ptr<Loop>> Loop::create(LoopKind kind) {
    if (kind == LoopKind::epoll) {
        return create_epoll_loop();
    }
    auto loop = create_uring_loop();
    if (!loop && kind == LoopKind::automatic) {
        return create_epoll_loop();
    }
    return loop;
}

}  // namespace uvif
