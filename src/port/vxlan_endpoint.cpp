// SPDX-License-Identifier: MIT
#include "port/vxlan_endpoint.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>
#include <utility>

#include "port/vxlan_header.hpp"
#include "runtime/clock.hpp"
#include "runtime/describe_error.hpp"
#include "runtime/limits.hpp"

namespace uvif {

namespace {

constexpr unsigned inner_ethernet_length = 14;
constexpr unsigned outer_udp_length = 8;
constexpr unsigned outer_ipv4_length = 20;
constexpr unsigned outer_ipv6_length = 40;

bool set(int fd, int level, int option, int value) noexcept {
    return ::setsockopt(fd, level, option, &value, sizeof value) == 0;
}

/// Never fragments, and goes by the interface's MTU: what anybody may send us about a path's is not believed.
bool forbid_fragments(int fd, bool ipv4) noexcept {
    return ipv4 ? set(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
                : set(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE) &&
                      set(fd, IPPROTO_IPV6, IPV6_DONTFRAG, 1);
}

/// More than net.core.wmem_max and rmem_max needs a privilege; without it there is as much as they allow.
void enlarge_buffers(int fd) noexcept {
    if (!set(fd, SOL_SOCKET, SO_SNDBUFFORCE, limits::vxlan_send_buffer)) {
        set(fd, SOL_SOCKET, SO_SNDBUF, limits::vxlan_send_buffer);
    }
    if (!set(fd, SOL_SOCKET, SO_RCVBUFFORCE, limits::vxlan_receive_buffer)) {
        set(fd, SOL_SOCKET, SO_RCVBUF, limits::vxlan_receive_buffer);
    }
}

/// A socket from which is only sent: what strangers send to it would make it readable for ever.
bool receive_nothing(int fd) noexcept {
    sock_filter drop_all{.code = BPF_RET | BPF_K, .jt = 0, .jf = 0, .k = 0};
    const sock_fprog program{.len = 1, .filter = &drop_all};
    return ::setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0;
}

Result<UniqueFd> open_socket(const UnderlayAddress& local) {
    UniqueFd fd(::socket(local.is_ipv4() ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd || !forbid_fragments(fd.get(), local.is_ipv4())) {
        const int code = errno;
        return fail(code, fmt::format("cannot open a UDP socket for the VXLAN port: {}", describe_error(code)));
    }
    enlarge_buffers(fd.get());
    return fd;
}

std::unexpected<Error> bind_failure(const UnderlayAddress& local, std::uint16_t port, int code) {
    const std::string what = fmt::format("cannot use UDP port {} of {} for the VXLAN port", port, to_string(local));
    switch (code) {
        case EADDRINUSE:
            return fail(code, what +
                                  ": a vxlan device of the kernel or another program has it; take that away, or choose "
                                  "another port=");
        case EADDRNOTAVAIL:
            return fail(code, what + ": no interface has that address; choose one of this host's for local=");
        case EACCES:
            return fail(code, what + ": no permission; choose a port= of 1024 and above");
        default:
            return fail(code, fmt::format("{}: {}", what, describe_error(code)));
    }
}

Result<void> bind(int fd, const UnderlayAddress& local, std::uint16_t port, std::int64_t patient_until_ns) {
    const SocketAddress address(local, port);
    while (::bind(fd, address.get(), address.length) != 0) {
        const int code = errno;
        if (code != EADDRINUSE || monotonic_ns() >= patient_until_ns) {
            return bind_failure(local, port, code);
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return {};
}

/// Of the way to a remote endpoint; nullopt: there is none.
std::optional<unsigned> underlay_mtu(const UnderlayAddress& local, const SocketAddress& remote) {
    const bool ipv4 = local.is_ipv4();
    const SocketAddress from(local, 0);
    const UniqueFd fd(::socket(ipv4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    int mtu = 0;
    socklen_t length = sizeof mtu;
    const bool known =
        fd && ::bind(fd.get(), from.get(), from.length) == 0 && ::connect(fd.get(), remote.get(), remote.length) == 0 &&
        ::getsockopt(fd.get(), ipv4 ? IPPROTO_IP : IPPROTO_IPV6, ipv4 ? IP_MTU : IPV6_MTU, &mtu, &length) == 0;
    return known && mtu > 0 ? std::optional(static_cast<unsigned>(mtu)) : std::nullopt;
}

}  // namespace

std::optional<unsigned> vxlan_guest_mtu(const VxlanConfig& config) {
    std::optional<unsigned> least;
    const auto consider = [&](const UnderlayAddress& remote) {
        const auto mtu = underlay_mtu(config.local, SocketAddress(remote, config.port));
        if (mtu) {
            least = std::min(least.value_or(*mtu), *mtu);
        }
    };
    std::for_each(config.remotes.begin(), config.remotes.end(), consider);
    for (const VxlanConfig::Static& entry : config.fdb) {
        consider(entry.at);
    }
    const unsigned overhead = (config.local.is_ipv4() ? outer_ipv4_length : outer_ipv6_length) + outer_udp_length +
                              static_cast<unsigned>(vxlan_header::length) + inner_ethernet_length;
    return least ? std::optional(*least - std::min(*least, overhead)) : std::nullopt;
}

VxlanEndpoint::VxlanEndpoint(const VxlanConfig& config, const VxlanGuest& guest)
    : config_(config), guest_(guest), network_{config.vni, config.port, config.local, {}, VxlanTable(config.fdb)} {
    for (const UnderlayAddress& remote : config.remotes) {
        network_.remotes.emplace_back(remote, config.port);
    }
}

Result<std::unique_ptr<VxlanEndpoint>> VxlanEndpoint::open(const VxlanConfig& config, const GsoFeatures& gso,
                                                           std::int64_t patient_until_ns) {
    auto fd = open_socket(config.local);
    if (!fd) {
        return propagate(fd);
    }
    // Without it there is a system call more for each datagram, and no harm.
    set(fd->get(), SOL_UDP, UDP_GRO, 1);
    if (auto bound = bind(fd->get(), config.local, config.port, patient_until_ns); !bound) {
        return propagate(bound);
    }
    std::unique_ptr<VxlanEndpoint> endpoint(
        new VxlanEndpoint(config, {vxlan_guest_mtu(config).value_or(limits::mtu_default), gso}));
    endpoint->socket_ = std::move(*fd);
    return endpoint;
}

Result<std::unique_ptr<Port>> VxlanEndpoint::queue(unsigned index, bool pins) {
    const bool receives = index == 0;
    UniqueFd fd;
    if (receives) {
        fd.reset(::fcntl(socket_.get(), F_DUPFD_CLOEXEC, 0));
    } else {
        auto opened = open_socket(config_.local);
        if (!opened) {
            return propagate(opened);
        }
        fd = std::move(*opened);
    }
    if (!fd || (!receives && !receive_nothing(fd.get()))) {
        const int code = errno;
        return fail(code, fmt::format("cannot make queue {} of the VXLAN port: {}", index, describe_error(code)));
    }
    if (!receives) {
        if (auto bound = bind(fd.get(), config_.local, 0, 0); !bound) {
            return propagate(bound);
        }
    }
    auto buffers = VxlanBuffers::create();
    if (!buffers) {
        return propagate(buffers);
    }
    return std::make_unique<VxlanPort>(std::move(fd), network_, std::move(*buffers), receives, pins, guest_);
}

}  // namespace uvif
