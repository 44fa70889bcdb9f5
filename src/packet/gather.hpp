// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>

#include "packet/packet.hpp"

namespace uvif {

/// Reads a packet's octets in order, wherever its pieces are cut. The pieces outlive it.
class Gather {
public:
    explicit Gather(std::span<const Fragment> pieces) noexcept : pieces_(pieces) {}

    /// Fills `out` with the next octets. False: the packet has fewer left.
    bool copy(std::span<std::byte> out) noexcept {
        return walk(out.size(), [&out](std::span<std::byte> octets) {
            std::memcpy(out.data(), octets.data(), octets.size());
            out = out.subspan(octets.size());
        });
    }

    bool skip(std::size_t octets) noexcept {
        return walk(octets, [](std::span<std::byte>) {});
    }

    /// Calls visit(std::span<std::byte>) with the next octets, piece by piece, where they are.
    template <class Visit>
    bool walk(std::size_t left, Visit visit) noexcept {
        while (left != 0 && !pieces_.empty()) {
            const Fragment& piece = pieces_.front();
            const std::size_t here = std::min<std::size_t>(left, piece.length - offset_);
            if (here != 0) {
                visit(std::span(piece.data + offset_, here));
            }
            left -= here;
            offset_ += here;
            if (offset_ == piece.length) {
                pieces_ = pieces_.subspan(1);
                offset_ = 0;
            }
        }
        return left == 0;
    }

private:
    std::span<const Fragment> pieces_;
    std::size_t offset_ = 0;  ///< into the first of them
};

}  // namespace uvif
