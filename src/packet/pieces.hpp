// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "packet/packet.hpp"

namespace uvif {

/// Of pieces that tell the room, at least `length` octets, makes those that a packet of this length fills.
inline void cut_to(Packet& packet, std::uint32_t length) noexcept {
    packet.length = length;
    std::uint16_t count = 0;
    do {
        Fragment& piece = packet.fragments[count++];
        piece.length = std::min(piece.length, length);
        length -= piece.length;
    } while (length != 0);
    packet.fragment_count = count;
}

/// Copies a packet to where its first piece is, whose memory goes on with room for all of it. Another piece may stand
/// in its place there already.
inline void bring_together(Packet& packet) noexcept {
    Fragment& first = packet.fragments[0];
    for (const Fragment& piece : packet.pieces().subspan(1)) {
        std::byte* const to = first.data + first.length;
        if (piece.data != to) {
            std::memcpy(to, piece.data, piece.length);
        }
        first.length += piece.length;
    }
    packet.fragment_count = 1;
}

}  // namespace uvif
