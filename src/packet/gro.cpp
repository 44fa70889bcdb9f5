// SPDX-License-Identifier: MIT
#include "packet/gro.hpp"

#include <algorithm>
#include <cstring>

#include "packet/checksum.hpp"
#include "packet/segment.hpp"
#include "packet/wire.hpp"
#include "runtime/limits.hpp"

namespace uvif {

namespace {

constexpr std::uint16_t dont_fragment = 0x4000;

std::uint32_t load_be32(std::span<const std::byte> octets, std::size_t offset) noexcept {
    return std::uint32_t{load_be16(octets, offset)} << 16 | load_be16(octets, offset + 2);
}

std::uint32_t length_of_headers(const Headers& headers) noexcept {
    return std::uint32_t{headers.l4_offset} + headers.l4_header_length;
}

/// The IP packet ends where the frame does, and its header is in order.
bool is_whole(std::span<const std::byte> frame, const Headers& headers) noexcept {
    const std::size_t l3 = headers.l3_offset;
    if (headers.ip_version == 6) {
        return ipv6_header_length + load_be16(frame, l3 + 4) == frame.size() - l3;
    }
    return load_be16(frame, l3 + 2) == frame.size() - l3 &&
           checksum_sum(frame.subspan(l3, headers.l4_offset - l3)) == 0xffff;
}

bool is_right(std::span<const std::byte> frame, const Headers& headers) noexcept {
    const auto length = static_cast<std::uint32_t>(frame.size());
    return checksum_add(pseudo_header_sum(frame, headers, length), checksum_sum(frame.subspan(headers.l4_offset))) ==
           0xffff;
}

}  // namespace

bool can_be_gso(const Headers& headers) noexcept {
    const std::size_t ip_length = headers.ip_version == 4 ? ipv4_header_min : ipv6_header_length;
    return headers.is_tcp() && headers.l3_offset == ethernet_header_length &&
           headers.l4_offset == ethernet_header_length + ip_length;
}

std::span<std::byte> Gro::joined() const noexcept {
    return {packet_->fragments[0].data, packet_->length};
}

bool Gro::may_be_joined(std::span<const std::byte> frame, const Headers& headers) const noexcept {
    if (!can_be_gso(headers) || !taken_.takes(headers.ip_version) || headers.l4_header_length < tcp_header_min) {
        return false;
    }
    const std::size_t front = length_of_headers(headers);
    return front < frame.size() && front <= limits::header_octets &&
           (frame[headers.l4_offset + tcp_flags] & ~tcp_psh) == tcp_ack && is_whole(frame, headers);
}

void Gro::begin(Packet& packet, std::uint32_t room, const Headers& headers) noexcept {
    end();
    packet_ = &packet;
    open_ = may_be_joined(joined(), headers) && packet.offload.gso_type == GsoType::none;
    if (open_) {
        headers_ = headers;
        room_ = std::min(room, limits::packet_length);
        header_length_ = length_of_headers(headers);
        size_ = packet.length - header_length_;
        count_ = 1;
        open_ = (joined()[headers.l4_offset + tcp_flags] & tcp_psh) == std::byte{0};
    }
}

/// Its headers are those of the begun packet, further on in the flow.
bool Gro::follows(std::span<const std::byte> frame, const Headers& headers) const noexcept {
    const std::span<const std::byte> first = joined();
    const std::size_t l3 = headers_.l3_offset;
    const std::size_t l4 = headers_.l4_offset;
    const auto same = [&](std::size_t from, std::size_t to) {
        return std::memcmp(first.data() + from, frame.data() + from, to - from) == 0;
    };
    if (headers.l3_offset != l3 || headers.l4_offset != l4 || length_of_headers(headers) != header_length_ ||
        load_be32(frame, l4 + 4) != load_be32(first, l4 + 4) + (packet_->length - header_length_)) {
        return false;
    }
    const bool same_tcp = same(l4, l4 + 4) && same(l4 + 8, l4 + tcp_flags) && same(l4 + 14, l4 + 16) &&
                          same(l4 + 18, header_length_);  // but for sequence, PSH and checksum
    if (headers_.ip_version == 6) {
        return same_tcp && same(0, l3 + 4) && same(l3 + 6, l4);  // but for the length
    }
    const bool counts_on = (load_be16(first, l3 + 6) & dont_fragment) != 0 ||
                           load_be16(frame, l3 + 4) == static_cast<std::uint16_t>(load_be16(first, l3 + 4) + count_);
    return same_tcp && counts_on && same(0, l3 + 2) && same(l3 + 6, l3 + 10) && same(l3 + 12, l4);
}

bool Gro::append(std::span<const std::byte> frame, const Headers& headers, bool checksum_blank) noexcept {
    if (!open_ || !may_be_joined(frame, headers) || !follows(frame, headers)) {
        return false;
    }
    const auto payload = frame.subspan(header_length_);
    if (payload.size() > size_ || payload.size() > room_ - packet_->length || count_ == limits::segments_per_packet ||
        !(checksum_blank || is_right(frame, headers))) {
        return false;
    }
    if (count_ == 1 && !packet_->offload.checksum_blank && !is_right(joined(), headers_)) {
        open_ = false;
        return false;
    }
    std::memcpy(packet_->fragments[0].data + packet_->length, payload.data(), payload.size());
    packet_->length += static_cast<std::uint32_t>(payload.size());
    packet_->fragments[0].length = packet_->length;
    ++count_;
    const std::byte pushes = frame[headers.l4_offset + tcp_flags] & tcp_psh;
    joined()[headers_.l4_offset + tcp_flags] |= pushes;
    open_ = payload.size() == size_ && pushes == std::byte{0};
    return true;
}

void Gro::end() noexcept {
    if (packet_ != nullptr && count_ > 1) {
        finish_ip(headers_, 0, joined(), packet_->length);
        store_be16(joined(), headers_.checksum_offset(), pseudo_header_sum(joined(), headers_, packet_->length));
        packet_->offload = {.checksum_blank = true,
                            .data_validated = true,
                            .gso_type = headers_.ip_version == 4 ? GsoType::tcpv4 : GsoType::tcpv6,
                            .gso_size = static_cast<std::uint16_t>(size_)};
    }
    packet_ = nullptr;
    open_ = false;
    count_ = 0;
}

}  // namespace uvif
