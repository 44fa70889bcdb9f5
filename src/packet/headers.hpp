// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace uvif {

inline constexpr std::uint8_t protocol_tcp = 6;
inline constexpr std::uint8_t protocol_udp = 17;
inline constexpr std::size_t ethernet_header_length = 14;
/// An IPv4 header without options.
inline constexpr std::size_t ipv4_header_min = 20;
inline constexpr std::size_t ipv6_header_length = 40;
/// A TCP header without options.
inline constexpr std::uint16_t tcp_header_min = 20;
/// Where in it the flags stand.
inline constexpr std::size_t tcp_flags = 13;
inline constexpr std::byte tcp_fin{0x01};
inline constexpr std::byte tcp_psh{0x08};
inline constexpr std::byte tcp_ack{0x10};
inline constexpr std::byte tcp_cwr{0x80};

/// How far into a packet its headers are whole and make sense.
enum class HeaderDepth : std::uint8_t {
    none,       ///< not even an Ethernet header
    link,       ///< Ethernet: `ethertype`, `l3_offset`
    network,    ///< and IP: `ip_version`, `l4_protocol`, `l4_offset`, `fragment`
    transport,  ///< and a fixed TCP or UDP header: `l4_header_length`
};

/// What parse_headers() found. Offsets are in octets from the start of the Ethernet header.
struct Headers {
    HeaderDepth depth = HeaderDepth::none;
    std::uint8_t ip_version = 0;  ///< 4, 6, or 0
    std::uint8_t l4_protocol = 0;
    bool fragment = false;        ///< a fragment of an IP packet, the first one included
    std::uint16_t ethertype = 0;  ///< behind the VLAN tags
    std::uint16_t l3_offset = 0;
    std::uint16_t l4_offset = 0;
    /// TCP: 4 * data offset, which may be nonsense (below 20, or beyond the octets seen). UDP: 8.
    std::uint16_t l4_header_length = 0;

    [[nodiscard]] bool is_tcp() const noexcept {
        return depth == HeaderDepth::transport && l4_protocol == protocol_tcp;
    }
    /// Where in the packet the TCP or UDP checksum stands; needs depth `transport`.
    [[nodiscard]] std::uint16_t checksum_offset() const noexcept;
};

/// Finds the headers in a packet's first octets: Ethernet, up to two VLAN tags, IPv4 with options, IPv6
/// with extension headers, TCP or UDP. Pure, and bounded by the span and by limits.hpp: safe on any octets.
/// The transport header of a fragment is not looked at: only the first has one, and its checksum covers all.
[[nodiscard]] Headers parse_headers(std::span<const std::byte> octets) noexcept;

}  // namespace uvif
