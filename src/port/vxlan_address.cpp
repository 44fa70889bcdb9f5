// SPDX-License-Identifier: MIT
#include "port/vxlan_address.hpp"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstring>

namespace uvif {

namespace {

constexpr std::size_t mapped_prefix = 12;  // octets in front of the IPv4 address

UnderlayAddress from_ipv4(const void* octets) noexcept {
    UnderlayAddress address;
    address.octets[10] = address.octets[11] = 0xff;
    std::memcpy(address.octets.data() + mapped_prefix, octets, 4);
    return address;
}

}  // namespace

bool UnderlayAddress::is_ipv4() const noexcept {
    return std::all_of(octets.begin(), octets.begin() + 10, [](std::uint8_t octet) { return octet == 0; }) &&
           octets[10] == 0xff && octets[11] == 0xff;
}

bool UnderlayAddress::is_one_host() const noexcept {
    if (is_ipv4()) {
        const std::uint8_t first = octets[mapped_prefix];
        return first != 0 && first < 224;  // "this" network; multicast, reserved and broadcast (RFC 6890)
    }
    const bool unspecified = *this == UnderlayAddress{};
    const bool multicast = octets[0] == 0xff;
    const bool link_local = octets[0] == 0xfe && (octets[1] & 0xc0) == 0x80;
    return !unspecified && !multicast && !link_local;
}

std::optional<UnderlayAddress> parse_underlay_address(std::string_view text) {
    const std::string terminated(text);
    std::array<std::uint8_t, 4> v4{};
    if (::inet_pton(AF_INET, terminated.c_str(), v4.data()) == 1 &&
        terminated.size() == std::strlen(terminated.c_str())) {
        return from_ipv4(v4.data());
    }
    UnderlayAddress address;
    if (::inet_pton(AF_INET6, terminated.c_str(), address.octets.data()) == 1 &&
        terminated.size() == std::strlen(terminated.c_str())) {
        return address;
    }
    return std::nullopt;
}

std::string to_string(const UnderlayAddress& address) {
    std::array<char, INET6_ADDRSTRLEN> text{};
    const bool v4 = address.is_ipv4();
    ::inet_ntop(v4 ? AF_INET : AF_INET6, address.octets.data() + (v4 ? mapped_prefix : 0), text.data(), text.size());
    return text.data();
}

std::optional<Mac> parse_mac(std::string_view text) {
    constexpr std::size_t pair = 3;  // two digits and a colon
    Mac mac{};
    if (text.size() != pair * mac.size() - 1) {
        return std::nullopt;
    }
    for (std::size_t i = 0; i < mac.size(); ++i) {
        const char* digits = text.data() + i * pair;
        const auto [end, problem] = std::from_chars(digits, digits + 2, mac[i], 16);
        if (problem != std::errc() || end != digits + 2 || (i + 1 < mac.size() && *end != ':')) {
            return std::nullopt;
        }
    }
    return mac;
}

SocketAddress::SocketAddress(const UnderlayAddress& address, std::uint16_t port) noexcept {
    if (address.is_ipv4()) {
        sockaddr_in v4{};
        v4.sin_family = AF_INET;
        v4.sin_port = htons(port);
        std::memcpy(&v4.sin_addr, address.octets.data() + mapped_prefix, sizeof v4.sin_addr);
        std::memcpy(&storage, &v4, sizeof v4);
        length = sizeof v4;
    } else {
        sockaddr_in6 v6{};
        v6.sin6_family = AF_INET6;
        v6.sin6_port = htons(port);
        std::memcpy(&v6.sin6_addr, address.octets.data(), sizeof v6.sin6_addr);
        std::memcpy(&storage, &v6, sizeof v6);
        length = sizeof v6;
    }
}

std::optional<UnderlayAddress> underlay_address(const sockaddr_storage& storage) noexcept {
    if (storage.ss_family == AF_INET) {
        sockaddr_in v4{};
        std::memcpy(&v4, &storage, sizeof v4);
        return from_ipv4(&v4.sin_addr);
    }
    if (storage.ss_family == AF_INET6) {
        sockaddr_in6 v6{};
        std::memcpy(&v6, &storage, sizeof v6);
        UnderlayAddress address;
        std::memcpy(address.octets.data(), &v6.sin6_addr, sizeof v6.sin6_addr);
        return address;
    }
    return std::nullopt;
}

}  // namespace uvif
