// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <vector>

/// Frames built octet by octet, for tests of the packet room.
namespace uvif::frames {

using Octets = std::vector<std::byte>;

inline Octets operator+(Octets a, const Octets& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

inline Octets octets(std::initializer_list<unsigned> values) {
    Octets result;
    for (const unsigned value : values) {
        result.push_back(static_cast<std::byte>(value));
    }
    return result;
}

inline Octets be16(unsigned value) {
    return octets({value >> 8, value & 0xff});
}

inline Octets ethernet(unsigned type) {
    return octets({2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}) + be16(type);
}

/// A VLAN tag goes behind the addresses: `type` is what follows it.
inline Octets vlan(unsigned type) {
    return octets({0x20, 0x07}) + be16(type);
}

/// `words` of 4 octets long, so 5 is without options; `fragment` is the flags and offset field.
inline Octets ipv4(unsigned protocol, unsigned payload, unsigned words = 5, unsigned fragment = 0x4000) {
    return octets({0x40 | words, 0}) + be16(words * 4 + payload) + octets({0, 1}) + be16(fragment) +
           octets({64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2}) + Octets((words - 5) * 4, std::byte{1});
}

inline Octets ipv6(unsigned next, unsigned payload) {
    return octets({0x60, 0, 0, 0}) + be16(payload) +
           octets({next, 64, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}) +
           octets({0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2});
}

/// Extension header of 8 + 8 * `more` octets (hop-by-hop, routing, destination options).
inline Octets extension(unsigned next, unsigned more = 0) {
    return octets({next, more, 1, 4, 0, 0, 0, 0}) + Octets(more * std::size_t{8});
}

inline Octets fragment_header(unsigned next, unsigned offset_and_flags) {
    return octets({next, 0}) + be16(offset_and_flags) + octets({0, 0, 0, 1});
}

inline Octets tcp(unsigned words = 5, unsigned checksum = 0) {
    return octets({0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, words << 4, 0x10, 1, 0}) + be16(checksum) +
           octets({0, 0}) + Octets(words > 5 ? (words - 5) * std::size_t{4} : 0, std::byte{1});
}

inline Octets udp(unsigned payload, unsigned checksum = 0) {
    return octets({0x12, 0x34, 0, 53}) + be16(8 + payload) + be16(checksum);
}

inline Octets payload(std::size_t length) {
    Octets result(length);
    for (std::size_t i = 0; i < length; ++i) {
        result[i] = static_cast<std::byte>(i * 7 + 3);
    }
    return result;
}

inline constexpr unsigned type_ipv4 = 0x0800;
inline constexpr unsigned type_ipv6 = 0x86dd;
inline constexpr unsigned type_vlan = 0x8100;
inline constexpr unsigned type_service_vlan = 0x88a8;
inline constexpr unsigned type_arp = 0x0806;

}  // namespace uvif::frames
