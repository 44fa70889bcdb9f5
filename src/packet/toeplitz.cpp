// SPDX-License-Identifier: MIT
#include "packet/toeplitz.hpp"

#include <algorithm>
#include <cassert>

namespace uvif {

Toeplitz::Toeplitz(std::span<const std::uint8_t> key) noexcept {
    std::array<std::uint8_t, key_max + 1> octets{};
    std::copy_n(key.begin(), std::min(key.size(), key_max), octets.begin());
    for (std::size_t nibble = 0; nibble < nibbles; ++nibble) {
        for (unsigned bit = 0; bit < 4; ++bit) {
            // The 32 bits of the key from bit 4 * nibble + bit on.
            const std::size_t first = nibble / 2;
            std::uint64_t window = 0;
            for (std::size_t i = 0; i < 5; ++i) {
                window = window << 8 | octets[first + i];
            }
            const auto at = static_cast<unsigned>(nibble % 2) * 4 + bit;
            const auto part = static_cast<std::uint32_t>(window >> (8 - at));
            for (unsigned value = 0; value < 16; ++value) {
                table_[nibble][value] ^= (value & (8U >> bit)) != 0 ? part : 0;
            }
        }
    }
}

std::uint32_t Toeplitz::operator()(std::span<const std::byte> input) const noexcept {
    assert(input.size() <= input_max);
    std::uint32_t hash = 0;
    for (std::size_t i = 0; i < input.size(); ++i) {
        const auto octet = std::to_integer<unsigned>(input[i]);
        hash ^= table_[2 * i][octet >> 4] ^ table_[2 * i + 1][octet & 15];
    }
    return hash;
}

}  // namespace uvif
