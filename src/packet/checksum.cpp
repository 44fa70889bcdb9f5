// SPDX-License-Identifier: MIT
#include "packet/checksum.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "packet/wire.hpp"

namespace uvif {

namespace {

constexpr std::uint16_t fold(std::uint64_t sum) noexcept {
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<std::uint16_t>((sum & 0xffff) + (sum >> 16));
}

constexpr std::uint16_t swap_octets(std::uint16_t value) noexcept {
    return static_cast<std::uint16_t>(value << 8 | value >> 8);
}

}  // namespace

std::uint16_t checksum_sum(std::span<const std::byte> octets) noexcept {
    // One's complement sums do not care for byte order (RFC 1071 2B): add native 32-bit words, swap once at the end.
    // 64 bits hold the carries of 2^32 words.
    std::uint64_t sum = 0;
    const std::byte* data = octets.data();
    std::size_t left = octets.size();
    for (; left >= 32; left -= 32, data += 32) {
        std::uint32_t words[8];
        std::memcpy(words, data, sizeof words);
        for (const std::uint32_t word : words) {
            sum += word;
        }
    }
    for (; left >= 2; left -= 2, data += 2) {
        std::uint16_t word = 0;
        std::memcpy(&word, data, sizeof word);
        sum += word;
    }
    if (left == 1) {
        std::uint16_t word = 0;
        std::memcpy(&word, data, 1);
        sum += word;
    }
    const std::uint16_t native = fold(sum);
    return std::endian::native == std::endian::little ? swap_octets(native) : native;
}

std::uint16_t pseudo_header_sum(std::span<const std::byte> octets, const Headers& headers,
                                std::uint32_t packet_length) noexcept {
    const bool ipv4 = headers.ip_version == 4;
    const auto addresses =
        ipv4 ? octets.subspan(headers.l3_offset + 12U, 8) : octets.subspan(headers.l3_offset + 8U, 32);
    const std::uint32_t length = packet_length - headers.l4_offset;
    return fold(std::uint64_t{checksum_sum(addresses)} + headers.l4_protocol + length);
}

std::uint16_t completed_checksum(std::span<const Fragment> pieces, const Headers& headers) noexcept {
    std::uint16_t sum = 0;
    std::size_t skip = headers.l4_offset;
    bool odd = false;  // the octets summed so far are odd in number
    for (const Fragment& piece : pieces) {
        const std::span<const std::byte> whole(piece.data, piece.length);
        const auto octets = whole.subspan(std::min<std::size_t>(skip, whole.size()));
        skip -= whole.size() - octets.size();
        const std::uint16_t part = checksum_sum(octets);
        sum = checksum_add(sum, odd ? swap_octets(part) : part);
        odd = odd != (octets.size() % 2 != 0);
    }
    const auto checksum = static_cast<std::uint16_t>(~sum);
    return checksum == 0 ? 0xffff : checksum;
}

bool complete_checksum_at(std::span<std::byte> packet, std::uint16_t start, std::uint16_t offset) noexcept {
    const std::size_t field = std::size_t{start} + offset;
    if (field + 2 > packet.size()) {
        return false;
    }
    const auto checksum = static_cast<std::uint16_t>(~checksum_sum(packet.subspan(start)));
    store_be16(packet, field, checksum == 0 ? 0xffff : checksum);
    return true;
}

bool complete_checksum(std::span<const Fragment> pieces) noexcept {
    if (pieces.empty()) {
        return false;
    }
    const std::span<std::byte> first(pieces.front().data, pieces.front().length);
    const Headers headers = parse_headers(first);
    if (headers.depth != HeaderDepth::transport) {
        return false;
    }
    store_be16(first, headers.checksum_offset(), completed_checksum(pieces, headers));
    return true;
}

}  // namespace uvif
