// SPDX-License-Identifier: MIT
#include "packet/headers.hpp"

#include <algorithm>

#include "packet/wire.hpp"
#include "runtime/limits.hpp"

namespace uvif {

namespace {

constexpr std::size_t vlan_length = 4;
constexpr std::size_t tcp_length_min = 20;
constexpr std::size_t udp_length = 8;

constexpr std::uint16_t ethertype_ipv4 = 0x0800;
constexpr std::uint16_t ethertype_ipv6 = 0x86dd;
constexpr std::uint16_t ethertype_vlan = 0x8100;
constexpr std::uint16_t ethertype_service_vlan = 0x88a8;

// IPv6 extension headers
constexpr std::uint8_t hop_by_hop = 0;
constexpr std::uint8_t routing = 43;
constexpr std::uint8_t fragment_header = 44;
constexpr std::uint8_t authentication = 51;
constexpr std::uint8_t destination_options = 60;

constexpr unsigned octet(std::span<const std::byte> octets, std::size_t offset) noexcept {
    return std::to_integer<unsigned>(octets[offset]);
}

void parse_transport(std::span<const std::byte> octets, Headers& headers) noexcept {
    headers.depth = HeaderDepth::network;
    if (headers.fragment) {
        return;
    }
    const std::size_t start = headers.l4_offset;
    if (headers.l4_protocol == protocol_tcp && start + tcp_length_min <= octets.size()) {
        headers.l4_header_length = static_cast<std::uint16_t>((octet(octets, start + 12) >> 4) * 4);
        headers.depth = HeaderDepth::transport;
    } else if (headers.l4_protocol == protocol_udp && start + udp_length <= octets.size()) {
        headers.l4_header_length = udp_length;
        headers.depth = HeaderDepth::transport;
    }
}

void parse_ipv4(std::span<const std::byte> octets, Headers& headers) noexcept {
    const std::size_t start = headers.l3_offset;
    if (start + ipv4_header_min > octets.size() || octet(octets, start) >> 4 != 4) {
        return;
    }
    const std::size_t length = std::size_t{octet(octets, start) & 0xf} * 4;
    if (length < ipv4_header_min || start + length > octets.size()) {
        return;
    }
    constexpr std::uint16_t more_fragments_or_offset = 0x3fff;
    headers.ip_version = 4;
    headers.fragment = (load_be16(octets, start + 6) & more_fragments_or_offset) != 0;
    headers.l4_protocol = static_cast<std::uint8_t>(octet(octets, start + 9));
    headers.l4_offset = static_cast<std::uint16_t>(start + length);
    parse_transport(octets, headers);
}

void parse_ipv6(std::span<const std::byte> octets, Headers& headers) noexcept {
    const std::size_t start = headers.l3_offset;
    if (start + ipv6_header_length > octets.size() || octet(octets, start) >> 4 != 6) {
        return;
    }
    auto next = static_cast<std::uint8_t>(octet(octets, start + 6));
    std::size_t offset = start + ipv6_header_length;
    for (unsigned followed = 0;; ++followed) {
        const bool extension = next == hop_by_hop || next == routing || next == fragment_header ||
                               next == authentication || next == destination_options;
        if (!extension) {
            break;
        }
        if (followed == limits::ipv6_extension_headers || offset + 8 > octets.size()) {
            return;
        }
        std::size_t length = 8;
        if (next == fragment_header) {
            // An offset and no "more" flag of 0: an atomic fragment, a whole packet (RFC 6946).
            headers.fragment = headers.fragment || (load_be16(octets, offset + 2) & 0xfff9) != 0;
        } else if (next == authentication) {
            length = (std::size_t{octet(octets, offset + 1)} + 2) * 4;
        } else {
            length = (std::size_t{octet(octets, offset + 1)} + 1) * 8;
        }
        next = static_cast<std::uint8_t>(octet(octets, offset));
        offset += length;
        if (offset > octets.size()) {
            return;
        }
        if (headers.fragment) {
            // What follows is the payload's business, and absent from all fragments but the first.
            break;
        }
    }
    headers.ip_version = 6;
    headers.l4_protocol = next;
    headers.l4_offset = static_cast<std::uint16_t>(offset);
    parse_transport(octets, headers);
}

}  // namespace

std::uint16_t Headers::checksum_offset() const noexcept {
    constexpr std::uint16_t in_tcp = 16;
    constexpr std::uint16_t in_udp = 6;
    return static_cast<std::uint16_t>(l4_offset + (l4_protocol == protocol_tcp ? in_tcp : in_udp));
}

Headers parse_headers(std::span<const std::byte> octets) noexcept {
    Headers headers;
    // Offsets are 16 bits wide: nothing of interest stands beyond the longest packet.
    octets = octets.first(std::min<std::size_t>(octets.size(), limits::packet_length));
    if (octets.size() < ethernet_header_length) {
        return headers;
    }
    headers.depth = HeaderDepth::link;
    std::size_t offset = ethernet_header_length;
    std::uint16_t type = load_be16(octets, 12);
    for (unsigned tags = 0; tags < limits::vlan_tags; ++tags) {
        if ((type != ethertype_vlan && type != ethertype_service_vlan) || offset + vlan_length > octets.size()) {
            break;
        }
        type = load_be16(octets, offset + 2);
        offset += vlan_length;
    }
    headers.ethertype = type;
    headers.l3_offset = static_cast<std::uint16_t>(offset);
    if (type == ethertype_ipv4) {
        parse_ipv4(octets, headers);
    } else if (type == ethertype_ipv6) {
        parse_ipv6(octets, headers);
    }
    return headers;
}

}  // namespace uvif
