// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <optional>
#include <string>
#include <utility>

#include "packet/vnet_header.hpp"
#include "packet/wire.hpp"
#include "runtime/clock.hpp"
#include "runtime/unique_fd.hpp"
#include "unit/packet/frames.hpp"

namespace uvif {

/// Frames of the tests carry this type or IP; whatever else moves is the kernel's own.
inline constexpr unsigned type_experimental = 0x88b5;

inline bool run(const std::string& command) {
    return std::system((command + " >/dev/null 2>&1").c_str()) == 0;
}

/// What a kernel says of TCP over IPv4 that is to be cut into segments of 1000 octets, with a blank checksum.
inline VnetHeader segments_header() {
    VnetHeader header;
    header.flags = VnetHeader::needs_csum;
    header.csum_start = 34;
    header.csum_offset = 16;
    header.gso_type = VnetHeader::gso_tcpv4;
    header.gso_size = 1000;
    header.hdr_len = 54;
    return header;
}

/// Each test program has a network of its own, or skips and says why.
class NetworkTest : public testing::Test {
protected:
    static void SetUpTestSuite() {
        if (::access("/dev/net/tun", R_OK | W_OK) != 0) {
            missing_ = "no access to /dev/net/tun";
        } else if (::unshare(CLONE_NEWNET) != 0) {
            missing_ = std::string("cannot make a network namespace: ") + std::strerror(errno);
        } else {
            for (const char* scope : {"all", "default"}) {
                std::ofstream(std::string("/proc/sys/net/ipv6/conf/") + scope + "/disable_ipv6") << "1";
            }
        }
    }

    void SetUp() override {
        if (!missing_.empty()) {
            GTEST_SKIP() << missing_;
        }
    }

    /// What an interface request says of an interface.
    static std::optional<ifreq> ask(const char* name, unsigned long what) {
        const UniqueFd control(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        ifreq request{};
        std::strncpy(request.ifr_name, name, IFNAMSIZ - 1);
        if (::ioctl(control.get(), what, &request) != 0) {
            return std::nullopt;
        }
        return request;
    }

private:
    static inline std::string missing_;
};

/// The host's side of an interface: a packet socket that keeps the offloads visible.
class HostSide {
public:
    explicit HostSide(const char* name) : socket_(::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) {
        int on = 1;
        EXPECT_EQ(::setsockopt(socket_.get(), SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on), 0);
        sockaddr_ll address{};
        address.sll_family = AF_PACKET;
        address.sll_protocol = 0x0300;  // ETH_P_ALL in network order
        address.sll_ifindex = static_cast<int>(::if_nametoindex(name));
        EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    }

    [[nodiscard]] bool send(const frames::Octets& frame, VnetHeader header = {}) const {
        const iovec pieces[] = {{&header, sizeof header}, {const_cast<std::byte*>(frame.data()), frame.size()}};
        return ::writev(socket_.get(), pieces, 2) == static_cast<ssize_t>(sizeof header + frame.size());
    }

    /// The next frame of a test, within a time that no healthy machine needs.
    std::optional<std::pair<VnetHeader, frames::Octets>> receive(std::int64_t wait_ns = 10 * ns_per_s) {
        const std::int64_t deadline = monotonic_ns() + wait_ns;
        do {
            VnetHeader header;
            frames::Octets frame(70000);
            const iovec pieces[] = {{&header, sizeof header}, {frame.data(), frame.size()}};
            const ssize_t length = ::readv(socket_.get(), pieces, 2);
            if (length > 24) {
                frame.resize(static_cast<std::size_t>(length) - sizeof header);
                const unsigned type = load_be16(frame, 12);
                if (type == type_experimental || type == frames::type_ipv4) {
                    return std::pair(header, std::move(frame));
                }
                continue;
            }
            pollfd entry{socket_.get(), POLLIN, 0};
            ::poll(&entry, 1, 20);
        } while (monotonic_ns() < deadline);
        return std::nullopt;
    }

private:
    UniqueFd socket_;
};

}  // namespace uvif
