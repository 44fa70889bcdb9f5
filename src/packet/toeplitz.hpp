// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace uvif {

/// The Toeplitz hash of xen/io/netif.h and of Windows' RSS. For each bit of the input that is set, the 32 bits of the
/// key that begin there are added (xor); here for four bits at a time, from a table that is made once a key.
class Toeplitz {
public:
    /// Two IPv6 addresses and two ports: the longest input.
    static constexpr std::size_t input_max = 36;
    /// All that an input of this length can reach; Windows' keys have as many octets.
    static constexpr std::size_t key_max = input_max + 4;

    /// Octets that `key` lacks are 0, those beyond key_max have no influence.
    explicit Toeplitz(std::span<const std::uint8_t> key) noexcept;

    /// Of at most input_max octets.
    [[nodiscard]] std::uint32_t operator()(std::span<const std::byte> input) const noexcept;

private:
    static constexpr std::size_t nibbles = 2 * input_max;
    std::array<std::array<std::uint32_t, 16>, nibbles> table_{};  // 4.5 KiB
};

}  // namespace uvif
