// SPDX-License-Identifier: MIT
//
// Any frames, one after the other, to be joined: what was joined is one GSO packet that can be cut into as many as it
// was made of, with their payload. To come further than the first check, frames may ask for the headers of TCP, or of
// the frame before, and for right lengths, checksums and sequence numbers.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "packet/checksum.hpp"
#include "packet/gro.hpp"
#include "packet/segment.hpp"
#include "packet/wire.hpp"
#include "runtime/limits.hpp"

namespace {

void require(bool holds) {
    if (!holds) {
        std::abort();
    }
}

using Octets = std::vector<std::byte>;

uvif::Headers headers_of(const Octets& frame) {
    const Octets first(frame.begin(), frame.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(
                                                          frame.size(), uvif::limits::header_octets)));
    return uvif::parse_headers(first);
}

/// All headers.
std::size_t front_of(const uvif::Headers& headers, const Octets& frame) {
    return std::min<std::size_t>(headers.l4_offset + headers.l4_header_length, frame.size());
}

/// As Ethernet, IP and TCP without options begin, if there is room for them.
void make_tcp(Octets& frame, bool ipv6) {
    const std::size_t tcp = ipv6 ? 54 : 34;
    if (frame.size() < tcp + uvif::tcp_header_min) {
        return;
    }
    uvif::store_be16(frame, 12, ipv6 ? 0x86dd : 0x0800);
    frame[14] = std::byte{ipv6 ? std::uint8_t{0x60} : std::uint8_t{0x45}};
    frame[ipv6 ? 20 : 23] = std::byte{uvif::protocol_tcp};
    frame[tcp + 12] = std::byte{0x50};
    frame[tcp + uvif::tcp_flags] = uvif::tcp_ack;
}

/// Where there is a place for one.
void complete_checksum(Octets& frame, const uvif::Headers& headers) {
    if (!headers.is_tcp() || headers.checksum_offset() + std::size_t{2} > frame.size()) {
        return;
    }
    const std::size_t place = headers.checksum_offset();
    const auto length = static_cast<std::uint32_t>(frame.size());
    uvif::store_be16(frame, place, uvif::pseudo_header_sum(frame, headers, length));
    const uvif::Fragment whole{frame.data(), length};
    uvif::store_be16(frame, place, uvif::completed_checksum(std::span(&whole, 1), headers));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    std::span<const std::uint8_t> input(data, size);
    uvif::Gro gro({.tcpv4 = true, .tcpv6 = true});
    uvif::Packet packet;
    Octets memory;  // as much as the packet is said to have room for
    Octets payload;
    std::uint32_t joined = 0;
    const auto finish = [&] {
        gro.end();
        if (joined < 2) {
            return;
        }
        const auto plan = uvif::plan_segments(packet.offload, std::span(memory).first(packet.length), packet.length);
        require(plan && plan->count == joined && plan->payload_length == payload.size());
        require(std::ranges::equal(std::span(memory).subspan(plan->header_length, plan->payload_length), payload));
    };
    while (input.size() > 3) {
        const std::uint8_t wishes = input[0];
        const std::size_t room = std::size_t{input[1]} << 8;
        const std::size_t length = std::min<std::size_t>(input[2] * std::size_t{4}, input.size() - 3);
        Octets frame(length);
        std::ranges::transform(input.subspan(3, length), frame.begin(),
                               [](std::uint8_t octet) { return std::byte{octet}; });
        input = input.subspan(3 + length);
        if ((wishes & 16) != 0 && joined != 0) {
            std::ranges::copy(std::span(memory).first(std::min(front_of(headers_of(memory), memory), length)),
                              frame.begin());
        }
        if ((wishes & 32) != 0) {
            make_tcp(frame, (wishes & 64) != 0);
        }
        const uvif::Headers headers = headers_of(frame);
        if ((wishes & 1) != 0 && headers.depth == uvif::HeaderDepth::transport) {
            uvif::finish_ip(headers, 0, frame, frame.size());
        }
        if ((wishes & 2) != 0 && headers.is_tcp() && joined != 0 && headers_of(memory).is_tcp()) {
            const std::size_t from = headers_of(memory).l4_offset + std::size_t{4};
            const std::uint32_t sequence =
                (std::uint32_t{uvif::load_be16(memory, from)} << 16 | uvif::load_be16(memory, from + 2)) +
                static_cast<std::uint32_t>(payload.size());
            uvif::store_be16(frame, headers.l4_offset + std::size_t{4}, static_cast<std::uint16_t>(sequence >> 16));
            uvif::store_be16(frame, headers.l4_offset + std::size_t{6}, static_cast<std::uint16_t>(sequence));
        }
        if ((wishes & 8) != 0) {
            complete_checksum(frame, headers);
        }
        const std::size_t front = front_of(headers, frame);
        if (gro.append(frame, headers, (wishes & 4) != 0)) {
            ++joined;
        } else {
            finish();
            payload.clear();
            joined = 1;
            memory.assign(std::max(room, frame.size()), std::byte{0});
            std::ranges::copy(frame, memory.begin());
            packet.length = static_cast<std::uint32_t>(frame.size());
            packet.fragments[0] = {memory.data(), packet.length};
            packet.fragment_count = 1;
            packet.offload = {.checksum_blank = (wishes & 4) != 0};
            gro.begin(packet, static_cast<std::uint32_t>(memory.size()), headers);
        }
        payload.insert(payload.end(), frame.begin() + static_cast<std::ptrdiff_t>(front), frame.end());
    }
    finish();
    return 0;
}
