// SPDX-License-Identifier: MIT
#include "port/bridge_port.hpp"

#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <span>

#include "runtime/unique_fd.hpp"

namespace uvif {
namespace {

/// What the attribute `type` among `attributes` holds; empty: it is not there.
std::span<const std::byte> attribute(std::span<const std::byte> attributes, unsigned short type) noexcept {
    while (attributes.size() >= sizeof(rtattr)) {
        rtattr header{};
        std::memcpy(&header, attributes.data(), sizeof header);
        if (header.rta_len < sizeof header || header.rta_len > attributes.size()) {
            break;
        }
        if ((header.rta_type & NLA_TYPE_MASK) == type) {
            return attributes.first(header.rta_len).subspan(sizeof header);
        }
        attributes = attributes.subspan(std::min<std::size_t>(RTA_ALIGN(header.rta_len), attributes.size()));
    }
    return {};
}

}  // namespace

bool is_isolated_bridge_port(const std::string& interface) noexcept {
    struct {
        nlmsghdr header;
        ifinfomsg link;
    } request{};
    request.header.nlmsg_len = sizeof request;
    request.header.nlmsg_type = RTM_GETLINK;
    request.header.nlmsg_flags = NLM_F_REQUEST;
    request.link.ifi_index = static_cast<int>(::if_nametoindex(interface.c_str()));
    const UniqueFd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    alignas(nlmsghdr) std::array<std::byte, 16384> answer;
    if (request.link.ifi_index == 0 || !socket || ::send(socket.get(), &request, sizeof request, 0) < 0) {
        return false;
    }
    const ssize_t length = ::recv(socket.get(), answer.data(), answer.size(), 0);
    constexpr std::size_t attributes_at = NLMSG_LENGTH(NLMSG_ALIGN(sizeof(ifinfomsg)));
    nlmsghdr header{};
    if (length < static_cast<ssize_t>(attributes_at)) {
        return false;
    }
    std::memcpy(&header, answer.data(), sizeof header);
    if (header.nlmsg_type != RTM_NEWLINK || header.nlmsg_len > static_cast<std::size_t>(length)) {
        return false;
    }
    const auto info = attribute(std::span(answer).first(header.nlmsg_len).subspan(attributes_at), IFLA_LINKINFO);
    const auto kind = attribute(info, IFLA_INFO_SLAVE_KIND);
    const auto isolated = attribute(attribute(info, IFLA_INFO_SLAVE_DATA), IFLA_BRPORT_ISOLATED);
    constexpr std::size_t bridge_length = sizeof "bridge";
    return kind.size() == bridge_length && std::memcmp(kind.data(), "bridge", bridge_length) == 0 &&
           !isolated.empty() && isolated.front() != std::byte{0};
}

}  // namespace uvif
