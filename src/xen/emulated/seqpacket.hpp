// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <utility>

#include "uvif/error.hpp"
#include "xen/emulated/shared_memory.hpp"

namespace uvif::xen {

/// Sockets that keep the borders of messages, for the emulated hypervisor and its toolstack.

/// A listening socket at `path`, in place of whatever socket lay there before. Non-blocking.
Result<UniqueFd> listen_at(const std::string& path);
/// ENOENT or ECONNREFUSED, with a remedy, when no machine is there.
Result<UniqueFd> connect_to(const std::string& path);

/// What is to be said of a machine that does not talk to us any more.
std::unexpected<Error> connection_closed(int error);

/// Sends one message, with a descriptor unless `fd` is -1. Never raises SIGPIPE.
Result<void> send_message(int socket, std::span<const std::byte> message, int fd = -1);

struct Received {
    std::size_t length = 0;  ///< 0: the other side has gone
    UniqueFd fd;
};
/// Receives one message, waiting unless the socket is non-blocking (then EAGAIN). Longer ones are an error.
Result<Received> receive_message(int socket, std::span<std::byte> buffer);

}  // namespace uvif::xen
