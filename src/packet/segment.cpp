// SPDX-License-Identifier: MIT
#include "packet/segment.hpp"

#include "packet/checksum.hpp"
#include "packet/wire.hpp"
#include "runtime/limits.hpp"

namespace uvif {

namespace {

void finish_tcp(const Segmentation& plan, std::uint32_t index, std::span<const Fragment> pieces,
                std::uint32_t length) noexcept {
    const std::span<std::byte> segment(pieces.front().data, plan.header_length);
    const std::span<std::byte> header = segment.subspan(plan.headers.l4_offset);
    const std::uint32_t sequence =
        (std::uint32_t{load_be16(header, 4)} << 16 | load_be16(header, 6)) + index * plan.size;
    store_be16(header, 4, static_cast<std::uint16_t>(sequence >> 16));
    store_be16(header, 6, static_cast<std::uint16_t>(sequence & 0xffff));
    if (index != 0) {
        header[tcp_flags] &= ~tcp_cwr;
    }
    if (index + 1 != plan.count) {
        header[tcp_flags] &= ~(tcp_fin | tcp_psh);
    }
    store_be16(segment, plan.headers.checksum_offset(), pseudo_header_sum(segment, plan.headers, length));
    store_be16(segment, plan.headers.checksum_offset(), completed_checksum(pieces, plan.headers));
}

}  // namespace

std::optional<Segmentation> plan_segments(const Offload& offload, std::span<const std::byte> octets,
                                          std::uint32_t packet_length) noexcept {
    const unsigned version = offload.gso_type == GsoType::tcpv4 ? 4 : offload.gso_type == GsoType::tcpv6 ? 6 : 0;
    const auto seen = std::min<std::size_t>({octets.size(), packet_length, limits::header_octets});
    Segmentation plan;
    plan.headers = parse_headers(octets.first(seen));
    if (offload.gso_size == 0 || !plan.headers.is_tcp() || plan.headers.ip_version != version ||
        plan.headers.l4_header_length < tcp_header_min) {
        return std::nullopt;
    }
    plan.header_length = std::uint32_t{plan.headers.l4_offset} + plan.headers.l4_header_length;
    if (plan.header_length > seen) {
        return std::nullopt;
    }
    plan.payload_length = packet_length - plan.header_length;
    plan.size = offload.gso_size;
    plan.count = std::max(1U, (plan.payload_length + plan.size - 1) / plan.size);
    return plan.count <= limits::segments_per_packet ? std::optional(plan) : std::nullopt;
}

void finish_ip(const Headers& headers, std::uint32_t index, std::span<std::byte> segment, std::size_t length) noexcept {
    const std::size_t l3 = headers.l3_offset;
    if (headers.ip_version == 6) {
        store_be16(segment, l3 + 4, static_cast<std::uint16_t>(length - l3 - ipv6_header_length));
        return;
    }
    const std::span<std::byte> header = segment.subspan(l3, static_cast<std::size_t>(headers.l4_offset) - l3);
    store_be16(header, 2, static_cast<std::uint16_t>(length - l3));
    store_be16(header, 4, static_cast<std::uint16_t>(load_be16(header, 4) + index));
    store_be16(header, 10, 0);
    store_be16(header, 10, static_cast<std::uint16_t>(~checksum_sum(header)));
}

void finish_segment(const Segmentation& plan, std::uint32_t index, std::span<const Fragment> pieces) noexcept {
    const std::uint32_t length = plan.header_length + plan.payload_of(index);
    finish_ip(plan.headers, index, std::span(pieces.front().data, plan.header_length), length);
    finish_tcp(plan, index, pieces, length);
}

}  // namespace uvif
