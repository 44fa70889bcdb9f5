// SPDX-License-Identifier: MIT
#pragma once

#include <fcntl.h>
#include <sys/socket.h>

#include <cerrno>

#include "runtime/unique_fd.hpp"

namespace uvif {

/// accept() for a server that may run out of descriptors. A client without one would keep its listener ready, and so
/// the server busy, and would wait for ever itself. So one descriptor is kept in reserve: given up for a moment, it
/// lets such a client be accepted and closed.
class Acceptor {
public:
    Acceptor() noexcept : spare_(reserve()) {}
    /// False: there was no descriptor to reserve; errno says why.
    explicit operator bool() const noexcept { return static_cast<bool>(spare_); }

    /// The next client, non-blocking; nothing when there is none, or when it had to be turned away.
    UniqueFd accept(int listener) noexcept {
        UniqueFd client = take(listener);
        if (!client && (errno == EMFILE || errno == ENFILE)) {
            spare_.reset();
            take(listener).reset();
            spare_ = reserve();
        }
        return client;
    }

private:
    static UniqueFd reserve() noexcept { return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }
    static UniqueFd take(int listener) noexcept {
        return UniqueFd(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    }

    UniqueFd spare_;
};

}  // namespace uvif
