// SPDX-License-Identifier: MIT
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace uvif {

using Mac = std::array<std::uint8_t, 6>;

/// An address of the underlay. IPv4 is kept as IPv6 does it, as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2).
struct UnderlayAddress {
    std::array<std::uint8_t, 16> octets{};

    [[nodiscard]] bool is_ipv4() const noexcept;
    /// One host's: not unspecified, not multicast, not the broadcast address; not link-local IPv6, which means nothing
    /// without an interface.
    [[nodiscard]] bool is_one_host() const noexcept;
    bool operator==(const UnderlayAddress&) const = default;
};

/// IPv4 in dots or IPv6.
[[nodiscard]] std::optional<UnderlayAddress> parse_underlay_address(std::string_view text);
[[nodiscard]] std::string to_string(const UnderlayAddress& address);

/// Six pairs of hexadecimal digits with colons.
[[nodiscard]] std::optional<Mac> parse_mac(std::string_view text);

/// An address and a UDP port as sockets take them.
struct SocketAddress {
    sockaddr_storage storage{};
    socklen_t length = 0;

    SocketAddress() = default;
    SocketAddress(const UnderlayAddress& address, std::uint16_t port) noexcept;
    [[nodiscard]] const sockaddr* get() const noexcept { return reinterpret_cast<const sockaddr*>(&storage); }
};

/// The address that a socket was told; nullopt: neither IPv4 nor IPv6.
[[nodiscard]] std::optional<UnderlayAddress> underlay_address(const sockaddr_storage& storage) noexcept;

}  // namespace uvif
