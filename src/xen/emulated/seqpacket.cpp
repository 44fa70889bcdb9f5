// SPDX-License-Identifier: MIT
#include "xen/emulated/seqpacket.hpp"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "runtime/describe_error.hpp"

namespace uvif::xen {
namespace {

constexpr int listen_backlog = 64;

Result<sockaddr_un> address_of(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof address.sun_path) {
        return fail(ENAMETOOLONG, fmt::format("socket path '{}' must have 1 to {} octets: use a shorter directory",
                                              path.substr(0, 128), sizeof address.sun_path - 1));
    }
    std::memcpy(address.sun_path, path.data(), path.size());
    return address;
}

Result<UniqueFd> new_socket(int flags) {
    UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | flags, 0));
    if (!socket) {
        return fail(errno, fmt::format("cannot make a socket: {}", describe_error(errno)));
    }
    return socket;
}

const sockaddr* generic(const sockaddr_un& address) noexcept {
    return reinterpret_cast<const sockaddr*>(&address);
}

}  // namespace

Result<UniqueFd> listen_at(const std::string& path) {
    auto address = address_of(path);
    if (!address) {
        return propagate(address);
    }
    auto socket = new_socket(SOCK_NONBLOCK);
    if (!socket) {
        return socket;
    }
    ::unlink(path.c_str());
    if (::bind(socket->get(), generic(*address), sizeof *address) != 0 ||
        ::listen(socket->get(), listen_backlog) != 0) {
        return fail(errno, fmt::format("cannot listen at {}: {}", path, std::strerror(errno)));
    }
    return socket;
}

Result<UniqueFd> connect_to(const std::string& path) {
    auto address = address_of(path);
    if (!address) {
        return propagate(address);
    }
    auto socket = new_socket(0);
    if (!socket) {
        return socket;
    }
    if (::connect(socket->get(), generic(*address), sizeof *address) != 0) {
        return fail(errno, fmt::format("no emulated machine answers at {} ({}): is `uvif-machine start` running, and "
                                       "has the domain been created?",
                                       path, std::strerror(errno)));
    }
    return socket;
}

std::unexpected<Error> connection_closed(int error) {
    return fail(error, fmt::format("the emulated machine closed the connection ({}): it ended, this domain was "
                                   "destroyed, or it has no file descriptor left (raise its limit, ulimit -n)",
                                   std::strerror(error)));
}

Result<void> send_message(int socket, std::span<const std::byte> message, int fd) {
    iovec piece{const_cast<std::byte*>(message.data()), message.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr header{};
    header.msg_iov = &piece;
    header.msg_iovlen = 1;
    if (fd >= 0) {
        header.msg_control = control;
        header.msg_controllen = sizeof control;
        cmsghdr* rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int));
        std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    }
    ssize_t sent = 0;
    do {
        sent = ::sendmsg(socket, &header, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0) {
        return connection_closed(errno);
    }
    return {};
}

Result<Received> receive_message(int socket, std::span<std::byte> buffer) {
    iovec piece{buffer.data(), buffer.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr header{};
    header.msg_iov = &piece;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    ssize_t length = 0;
    do {
        length = ::recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
    } while (length < 0 && errno == EINTR);
    if (length < 0) {
        return connection_closed(errno);
    }
    Received received;
    received.length = static_cast<std::size_t>(length);
    for (cmsghdr* rights = CMSG_FIRSTHDR(&header); rights != nullptr; rights = CMSG_NXTHDR(&header, rights)) {
        if (rights->cmsg_level != SOL_SOCKET || rights->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        // Alignment leaves room for a second one. They are ours whether we want them or not: the last is kept.
        const std::size_t count = (rights->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; i < count; ++i) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(rights) + i * sizeof fd, sizeof fd);
            received.fd.reset(fd);
        }
    }
    if ((header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
        return fail(EMSGSIZE, "a message of the emulated machine was longer than it may be");
    }
    return received;
}

}  // namespace uvif::xen
