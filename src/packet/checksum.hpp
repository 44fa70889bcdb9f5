// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "packet/headers.hpp"
#include "packet/packet.hpp"

/// The internet checksum (RFC 1071). Sums are one's complement sums of big-endian 16-bit words, as numbers
/// of the host; what is stored in a packet goes through store_be16.
namespace uvif {

/// The folded sum of `octets`, as if they began at an even offset; an odd last octet counts as the high half of a word.
[[nodiscard]] std::uint16_t checksum_sum(std::span<const std::byte> octets) noexcept;

/// One's complement addition.
[[nodiscard]] constexpr std::uint16_t checksum_add(std::uint16_t a, std::uint16_t b) noexcept {
    const std::uint32_t sum = std::uint32_t{a} + b;
    return static_cast<std::uint16_t>((sum & 0xffff) + (sum >> 16));
}

/// The sum of the pseudo header: what the checksum field of a packet with a blank checksum holds. `octets` are those
/// that `headers` were parsed from (depth `transport`), `packet_length` counts from the Ethernet header.
[[nodiscard]] std::uint16_t pseudo_header_sum(std::span<const std::byte> octets, const Headers& headers,
                                              std::uint32_t packet_length) noexcept;

/// The checksum that belongs into a packet whose field holds its pseudo header's sum. Reads every octet from
/// `headers.l4_offset` on. The value 0 is never returned: for UDP it would mean "none", and 0xffff is its equal.
[[nodiscard]] std::uint16_t completed_checksum(std::span<const Fragment> pieces, const Headers& headers) noexcept;

/// Completes a blank checksum in place. The pieces must be ours to write, the first one contiguous over the
/// headers. False: not a TCP or UDP packet, or its headers are not whole in the first piece; nothing was written.
[[nodiscard]] bool complete_checksum(std::span<const Fragment> pieces) noexcept;

/// The same for a checksum whose place is given, and that covers all from `start` on: a tunnel's inner one. Its field
/// stands `offset` octets behind `start`. False: that is outside of the packet; nothing was written.
[[nodiscard]] bool complete_checksum_at(std::span<std::byte> packet, std::uint16_t start,
                                        std::uint16_t offset) noexcept;

}  // namespace uvif
