// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "packet/segment.hpp"
#include "unit/packet/frames.hpp"

namespace uvif::frames {

/// The segments of a packet; none when it cannot be cut so.
inline std::vector<Octets> cut(const Octets& packet, GsoType type, std::uint16_t size) {
    const auto plan = plan_segments({.checksum_blank = true, .gso_type = type, .gso_size = size}, packet,
                                    static_cast<std::uint32_t>(packet.size()));
    std::vector<Octets> segments;
    if (!plan) {
        return segments;
    }
    auto from = packet.begin() + plan->header_length;
    for (std::uint32_t i = 0; i < plan->count; ++i) {
        Octets segment(packet.begin(), packet.begin() + plan->header_length);
        const auto to = from + plan->payload_of(i);
        segment.insert(segment.end(), from, to);
        from = to;
        const Fragment whole{segment.data(), static_cast<std::uint32_t>(segment.size())};
        finish_segment(*plan, i, std::span(&whole, 1));
        segments.push_back(std::move(segment));
    }
    return segments;
}

}  // namespace uvif::frames
