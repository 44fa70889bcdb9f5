// SPDX-License-Identifier: MIT
#include "port/vxlan_runs.hpp"

#include <algorithm>

namespace uvif {

bool VxlanRuns::has_room(std::size_t datagrams, std::size_t octets) const noexcept {
    // A run ends when it has either 64 datagrams or, since its datagrams are equal, more than half of what fits.
    const std::size_t runs = 2 + datagrams / datagrams_max + 2 * (octets / octets_max);
    return used_ + octets <= limits::vxlan_buffer_octets && count_ + runs <= runs_max;
}

bool VxlanRuns::has_room_for_fronts(std::size_t datagrams, std::size_t pieces) const noexcept {
    const std::size_t for_copies = runs_max - count_;
    return used_ + datagrams * front_octets_max <= limits::vxlan_buffer_octets && count_ + datagrams <= runs_max &&
           piece_count_ + datagrams + pieces + for_copies <= all_pieces_max;
}

bool VxlanRuns::extends_last(const std::optional<UnderlayAddress>& to, std::size_t octets,
                             std::size_t pieces_elsewhere) const noexcept {
    if (count_ == 0) {
        return false;
    }
    const VxlanRun& run = runs_[count_ - 1];
    const bool elsewhere = pieces_elsewhere != 0;
    return !run.complete && octets <= run.each && run.datagrams < datagrams_max && run.octets + octets <= octets_max &&
           run.at == to && elsewhere == (run.packets.count != 0) &&
           (!elsewhere || run.page_pieces + 1 + pieces_elsewhere <= pieces_max);
}

/// To the last run, or to a new one.
VxlanRun& VxlanRuns::add_datagram(const std::optional<UnderlayAddress>& to, std::size_t octets,
                                  std::size_t pieces_elsewhere, bool begins_packet) noexcept {
    if (!extends_last(to, octets, pieces_elsewhere)) {
        VxlanRun& fresh = runs_[count_++];
        fresh = {};
        fresh.begin = staged_;
        fresh.first_piece = piece_count_;
        fresh.each = octets;
        fresh.at = to;
        if (to) {
            fresh.to = SocketAddress(*to, port_);
        }
    }
    VxlanRun& run = runs_[count_ - 1];
    run.complete = octets < run.each;
    run.begins |= std::uint64_t{begins_packet} << run.datagrams;
    run.octets += octets;
    ++run.datagrams;
    staged_ += octets;
    return run;
}

void VxlanRuns::add_piece(VxlanRun& run, std::byte* data, std::size_t octets) noexcept {
    pieces_[piece_count_++] = {.iov_base = data, .iov_len = octets};
    ++run.pieces;
}

std::span<std::byte> VxlanRuns::stage(const std::optional<UnderlayAddress>& to, std::size_t octets,
                                      bool begins_packet) noexcept {
    VxlanRun& run = add_datagram(to, octets, 0, begins_packet);
    std::byte* const place = buffers_.current() + used_;
    used_ += octets;
    if (run.pieces == 0) {
        add_piece(run, place, octets);
    } else {
        pieces_[run.first_piece].iov_len += octets;
    }
    return {place, octets};
}

std::span<std::byte> VxlanRuns::stage_front(LentPackets::Place packet, const UnderlayAddress& to, std::size_t front,
                                            std::span<const Fragment> rest, bool begins_packet) noexcept {
    std::size_t octets = front;
    for (const Fragment& piece : rest) {
        octets += piece.length;
    }
    VxlanRun& run = add_datagram(to, octets, rest.size(), begins_packet);
    buffers_.packets().use(packet, run.packets);
    if (used_ % page_octets + front > page_octets) {
        used_ += page_octets - used_ % page_octets;  // or it would be two pieces
    }
    std::byte* const place = buffers_.current() + used_;
    used_ += front;
    add_piece(run, place, front);
    std::byte* end = nullptr;
    for (const Fragment& piece : rest) {
        if (piece.data == end) {  // neighbours are pinned by one look at the page table
            pieces_[piece_count_ - 1].iov_len += piece.length;
        } else {
            add_piece(run, piece.data, piece.length);
        }
        end = piece.data + piece.length;
    }
    run.page_pieces += 1 + rest.size();
    return {place, front};
}

std::span<iovec> VxlanRuns::pieces_of(const VxlanRun& run, std::uint32_t datagram, iovec& own) noexcept {
    const std::span<iovec> all = pieces_of(run);
    std::size_t skip = datagram * run.each;
    const std::size_t octets = std::min(run.each, run.octets - skip);
    if (run.packets.count == 0) {
        own = {.iov_base = static_cast<std::byte*>(all[0].iov_base) + skip, .iov_len = octets};
        return std::span(&own, 1);
    }
    std::size_t first = 0;
    for (; skip != 0; ++first) {
        skip -= all[first].iov_len;
    }
    std::size_t count = 0;
    for (std::size_t found = 0; found < octets; ++count) {
        found += all[first + count].iov_len;
    }
    return all.subspan(first, count);
}

void VxlanRuns::clear() noexcept {
    used_ = staged_ = 0;
    piece_count_ = 0;
    count_ = 0;
}

}  // namespace uvif
