// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace uvif {

/// Network byte order. The caller has checked that `offset` + 2 is inside.
[[nodiscard]] inline std::uint16_t load_be16(std::span<const std::byte> octets, std::size_t offset) noexcept {
    return static_cast<std::uint16_t>(std::to_integer<unsigned>(octets[offset]) << 8 |
                                      std::to_integer<unsigned>(octets[offset + 1]));
}

inline void store_be16(std::span<std::byte> octets, std::size_t offset, std::uint16_t value) noexcept {
    octets[offset] = static_cast<std::byte>(value >> 8);
    octets[offset + 1] = static_cast<std::byte>(value & 0xff);
}

}  // namespace uvif
