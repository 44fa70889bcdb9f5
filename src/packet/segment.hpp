// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "packet/headers.hpp"
#include "packet/packet.hpp"
#include "uvif/offload.hpp"

// Theory of operation
//
// A GSO packet is one TCP packet with the payload of many. Whoever cannot pass it on whole cuts it, as Linux does
// (tcp_gso_segment): each segment has a copy of the headers and the next `size` octets of payload, the last what is
// left. In the copy are changed: the length of the IP packet, with IPv4 its identification (counted up) and header
// checksum; the TCP sequence number and checksum. FIN and PSH are those of the last segment, CWR that of the first.

namespace uvif {

/// How a GSO packet is cut.
struct Segmentation {
    Headers headers;
    std::uint32_t header_length = 0;   ///< Ethernet, IP and TCP: what every segment begins with
    std::uint32_t payload_length = 0;  ///< of all segments
    std::uint32_t size = 0;            ///< payload of every segment but the last
    std::uint32_t count = 0;           ///< of segments

    [[nodiscard]] std::uint32_t payload_of(std::uint32_t index) const noexcept {
        return std::min(size, payload_length - index * size);
    }
};

/// `octets` are the packet's first, contiguous. nullopt: it is not the TCP packet that its GSO type says, its headers
/// are not whole in limits::header_octets, or it would fall into more than limits::segments_per_packet.
[[nodiscard]] std::optional<Segmentation> plan_segments(const Offload& offload, std::span<const std::byte> octets,
                                                        std::uint32_t packet_length) noexcept;

/// Makes a segment of what stands in `pieces`: a copy of the packet's headers, contiguous, and payload_of(index) octets
/// of payload behind it, which are only read.
void finish_segment(const Segmentation& plan, std::uint32_t index, std::span<const Fragment> pieces) noexcept;

/// Makes the IP header in `segment`, which begins with a packet's headers, that of its `index`th segment, which has
/// `length` octets from the Ethernet header on.
void finish_ip(const Headers& headers, std::uint32_t index, std::span<std::byte> segment, std::size_t length) noexcept;

}  // namespace uvif
