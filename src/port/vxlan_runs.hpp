// SPDX-License-Identifier: MIT
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "packet/packet.hpp"
#include "port/port.hpp"
#include "port/vxlan_address.hpp"
#include "port/vxlan_buffers.hpp"
#include "port/vxlan_header.hpp"
#include "port/vxlan_lent.hpp"
#include "runtime/limits.hpp"

// Theory of operation
//
// Datagrams are staged one behind the other in a buffer (vxlan_buffers.hpp). Those that follow each other, go to the
// same endpoint and are of one length (the last may be shorter) are a run, which becomes one message. What goes to
// every remote is staged once.
//
// A run may also be of datagrams of which only the headers are staged, and which go on where their packet is: in pages
// of a guest's. It then has as many pieces as a message can be sent from without a copy, and keeps its packets until it
// is done with.

namespace uvif {

/// Datagrams that follow each other.
struct VxlanRun {
    std::size_t begin = 0;  ///< of all octets that are staged, here and there
    std::size_t octets = 0;
    std::size_t first_piece = 0;
    std::size_t pieces = 0;
    std::size_t page_pieces = 0;  ///< the kernel's: those that follow each other in memory are one of ours
    LentPackets::List packets;    ///< where they go on; none: all of it is here
    std::size_t each = 0;         ///< octets of all datagrams but the last
    std::uint32_t datagrams = 0;
    std::uint64_t begins = 0;  ///< a bit for each datagram: a packet begins there
    std::uint64_t sent = 0;    ///< and: it was sent, to one endpoint at least
    bool complete = false;     ///< its last datagram is a shorter one
    bool split = false;        ///< its datagrams go alone
    std::optional<UnderlayAddress> at;
    SocketAddress to;  ///< the same for the kernel
    std::uint64_t PortCounters::* reason = nullptr;
};

/// What is staged. Thread rule: one thread.
class VxlanRuns {
public:
    /// To be sent to this UDP port. The buffers outlive it.
    VxlanRuns(std::uint16_t port, VxlanBuffers& buffers) noexcept : port_(port), buffers_(buffers) {}

    /// Whether so many datagrams of so many octets in all can be staged before clear().
    [[nodiscard]] bool has_room(std::size_t datagrams, std::size_t octets) const noexcept;
    /// Where the next datagram is to be written; to every remote without `to`. A packet's first is to say so: by
    /// its fate the packet is counted.
    [[nodiscard]] std::span<std::byte> stage(const std::optional<UnderlayAddress>& to, std::size_t octets,
                                             bool begins_packet) noexcept;

    /// The same for datagrams that go on where their packet is, with so many pieces there.
    [[nodiscard]] bool has_room_for_fronts(std::size_t datagrams, std::size_t pieces) const noexcept;
    /// Where the first `front` octets (limits::header_octets and a VXLAN header at most) of the next one are to be
    /// written; `rest`, of pieces_max pieces less one at most, are the others. The packet was entered into
    /// VxlanBuffers::packets(); all of its datagrams are staged before anything is sent.
    [[nodiscard]] std::span<std::byte> stage_front(LentPackets::Place packet, const UnderlayAddress& to,
                                                   std::size_t front, std::span<const Fragment> rest,
                                                   bool begins_packet) noexcept;
    /// Of a message that is sent without a copy: MAX_SKB_FRAGS of the kernel, unless that was configured to be larger.
    static constexpr std::size_t pieces_max = 17;

    [[nodiscard]] std::size_t count() const noexcept { return count_; }
    [[nodiscard]] VxlanRun& operator[](std::size_t index) noexcept { return runs_[index]; }
    /// Where its octets are.
    [[nodiscard]] std::span<iovec> pieces_of(const VxlanRun& run) noexcept {
        return std::span(pieces_).subspan(run.first_piece, run.pieces);
    }
    /// Where one datagram's are: pieces of the run's, or `own`, which then is a part of one.
    [[nodiscard]] std::span<iovec> pieces_of(const VxlanRun& run, std::uint32_t datagram, iovec& own) noexcept;

    /// Nothing is staged any more.
    void clear() noexcept;

private:
    static constexpr std::size_t runs_max = 192;
    static constexpr std::uint32_t datagrams_max = 64;  // UDP_MAX_SEGMENTS; newer kernels take more
    static constexpr std::size_t octets_max = 65507;    // a 16-bit length, less IPv4 and UDP headers
    /// Each run that is copied has one, and others may have the rest.
    static constexpr std::size_t all_pieces_max = 512;
    static constexpr std::size_t page_octets = 4096;
    /// Of a front, and what is left of a page before it.
    static constexpr std::size_t front_octets_max = 256;
    static_assert(vxlan_header::length + limits::header_octets <= front_octets_max);

    [[nodiscard]] bool extends_last(const std::optional<UnderlayAddress>& to, std::size_t octets,
                                    std::size_t pieces_elsewhere) const noexcept;
    VxlanRun& add_datagram(const std::optional<UnderlayAddress>& to, std::size_t octets, std::size_t pieces_elsewhere,
                           bool begins_packet) noexcept;
    void add_piece(VxlanRun& run, std::byte* data, std::size_t octets) noexcept;

    const std::uint16_t port_;
    VxlanBuffers& buffers_;
    std::size_t used_ = 0;  ///< of the buffer
    std::size_t staged_ = 0;
    std::array<iovec, all_pieces_max> pieces_;
    std::size_t piece_count_ = 0;
    std::array<VxlanRun, runs_max> runs_;
    std::size_t count_ = 0;
};

}  // namespace uvif
