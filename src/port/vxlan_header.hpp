// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "packet/wire.hpp"

/// The eight octets in front of a frame (RFC 7348, section 5): flags, three reserved, VNI, one reserved.
namespace uvif::vxlan_header {

inline constexpr std::size_t length = 8;
inline constexpr std::byte flag_vni{0x08};

inline void write(std::span<std::byte> octets, std::uint32_t vni) noexcept {
    std::fill_n(octets.begin(), length, std::byte{0});
    octets[0] = flag_vni;
    store_be16(octets, 4, static_cast<std::uint16_t>(vni >> 8));
    octets[6] = static_cast<std::byte>(vni & 0xff);
}

/// The VNI; nullopt: there is none. What is reserved is ignored, as the RFC says.
[[nodiscard]] inline std::optional<std::uint32_t> read_vni(std::span<const std::byte> octets) noexcept {
    if (octets.size() < length || (octets[0] & flag_vni) == std::byte{0}) {
        return std::nullopt;
    }
    return std::uint32_t{load_be16(octets, 4)} << 8 | std::to_integer<std::uint32_t>(octets[6]);
}

}  // namespace uvif::vxlan_header
