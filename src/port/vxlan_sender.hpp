// SPDX-License-Identifier: MIT
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "packet/packet.hpp"
#include "port/port.hpp"
#include "port/vxlan_address.hpp"
#include "port/vxlan_buffers.hpp"
#include "runtime/limits.hpp"

// Theory of operation
//
// Datagrams are staged one behind the other in a buffer (vxlan_buffers.hpp). Those that follow each other, go to the
// same endpoint and are of one length (the last may be shorter) are a run: one message, which the kernel or the network
// card cuts (UDP_SEGMENT). That is worth more than anything else here, and bulk data is all runs. What goes to every
// remote is staged once, and is one message for each. All messages of a batch share system calls.
//
// A run may also be of datagrams of which only the headers are staged, and which go on where their packet is: in pages
// of a guest's. It then has as many pieces as a message can be sent from without a copy, and keeps its packets until it
// is done with.
//
// A run that is long goes with MSG_ZEROCOPY where that is worth it, in a system call of its own. Long runs are sent as
// soon as they are complete, while they are in the cache.
//
// Where a run cannot be sent whole its datagrams are sent alone: those of a device that computes no checksums for ever
// (EIO), others that once (EINVAL, EMSGSIZE: at least one is too long).
//
// When the socket has no room (EAGAIN), what is staged stays, and nothing more may be staged until it has gone. The
// same when a turn's datagrams are spent: one GSO packet for many may be a thousand of them to each remote, and
// meanwhile the other queues of the worker wait.

namespace uvif {

/// Thread rule: one thread.
class VxlanSender {
public:
    /// The descriptor and the remotes outlive it.
    VxlanSender(int fd, std::uint16_t port, std::span<const SocketAddress> remotes, VxlanBuffers buffers);

    /// Whether so many datagrams of so many octets in all can be staged before the next send().
    [[nodiscard]] bool has_room(std::size_t datagrams, std::size_t octets) const noexcept;
    /// Where the next datagram is to be written; to every remote without `to`. A packet's first is to say so: by
    /// its fate the packet is counted.
    [[nodiscard]] std::span<std::byte> stage(const std::optional<UnderlayAddress>& to, std::size_t octets,
                                             bool begins_packet) noexcept;
    /// The same for datagrams that go on where their packet is, with so many pieces there.
    [[nodiscard]] bool has_room_for_fronts(std::size_t datagrams, std::size_t pieces) const noexcept;
    /// A packet of which such datagrams are to be made, one after the other, before anything is sent: what to call it.
    /// It is completed when all of them are done with.
    [[nodiscard]] LentPackets::Place lend(Packet* packet) noexcept { return buffers_.packets().enter(packet); }
    /// Where the first `front` octets (limits::header_octets and a VXLAN header at most) of the next one are to be
    /// written; `rest`, of run_pieces_max pieces less one at most, are the others.
    [[nodiscard]] std::span<std::byte> stage_front(LentPackets::Place packet, const UnderlayAddress& to,
                                                   std::size_t front, std::span<const Fragment> rest,
                                                   bool begins_packet) noexcept;
    /// Whether the kernel can be asked to send from there at all, and may have another packet.
    [[nodiscard]] bool lends() const noexcept { return buffers_.enabled(); }
    [[nodiscard]] bool lends_more() noexcept { return buffers_.packets().has_room(); }

    /// From here on limits::vxlan_datagrams_per_turn may be sent.
    void begin_turn(std::uint32_t now_s, PortCounters& counters) noexcept;
    /// Sends what is staged, or as much as there is room for and the turn allows.
    void send(PortCounters& counters) noexcept;
    /// Sends runs that are complete, when they are long.
    void send_complete(PortCounters& counters) noexcept;
    /// What is staged waits for room, or for the next turn.
    [[nodiscard]] bool blocked() const noexcept { return blocked_; }
    void abandon(PortCounters& counters) noexcept;
    /// Hears what the kernel is done with.
    void settle(std::uint32_t now_s, PortCounters& counters) noexcept { buffers_.settle(now_s, true, counters); }

    /// Of a message that is sent without a copy: MAX_SKB_FRAGS of the kernel, unless that was configured to be larger.
    static constexpr std::size_t run_pieces_max = 17;

private:
    static constexpr std::size_t runs_max = 192;
    static constexpr std::size_t messages_max = 64;
    static constexpr std::uint32_t run_datagrams_max = 64;  // UDP_MAX_SEGMENTS; newer kernels take more
    static constexpr std::size_t run_octets_max = 65507;    // a 16-bit length, less IPv4 and UDP headers
    /// Shorter messages are copied faster than their pages are pinned (docs/vxlan.md).
    static constexpr std::size_t long_octets = std::size_t{48} * 1024;
    /// Of guests' pages, which are pinned where that was asked for, only those that are far from worth it.
    static constexpr std::size_t long_octets_of_pages = std::size_t{8} * 1024;
    /// Each run that is copied has one, and others may have the rest.
    static constexpr std::size_t pieces_max = 512;
    static constexpr std::size_t front_octets_max = 256;
    static constexpr std::size_t page_octets = 4096;

    struct Run {
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

    /// What is to be sent next.
    struct Position {
        std::size_t run = 0;
        std::size_t copy = 0;  ///< to which remote
        std::uint32_t datagram = 0;
    };

    struct Message {
        Position next;            ///< when this one is done with
        std::uint32_t count;      ///< of its datagrams
        std::uint64_t datagrams;  ///< a bit for each that it has of its run
        iovec piece;              ///< of a datagram that is cut from its run
        alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(std::uint16_t))> control;
    };

    [[nodiscard]] bool extends_run(const std::optional<UnderlayAddress>& to, std::size_t octets,
                                   std::size_t pieces_elsewhere) const noexcept;
    Run& add_datagram(const std::optional<UnderlayAddress>& to, std::size_t octets, std::size_t pieces_elsewhere,
                      bool begins_packet) noexcept;
    void add_piece(Run& run, std::byte* data, std::size_t octets) noexcept;
    [[nodiscard]] bool goes_whole(const Run& run) const noexcept;
    [[nodiscard]] bool goes_zerocopy(const Position& at, PortCounters& counters) noexcept;
    std::size_t prepare(bool zerocopy, std::size_t end, PortCounters& counters) noexcept;
    [[nodiscard]] std::span<iovec> pieces_of(const Run& run, const Position& at, Message& message) noexcept;
    bool send_up_to(std::size_t end, PortCounters& counters) noexcept;
    void clear() noexcept;
    Position prepare_message(std::size_t index, const Position& at) noexcept;
    static void count_dropped(const Run& run, std::uint64_t PortCounters::* reason, PortCounters& counters) noexcept;
    void settle(std::size_t index, int error, PortCounters& counters) noexcept;

    const int fd_;
    const std::uint16_t port_;
    const std::span<const SocketAddress> remotes_;
    bool cuts_runs_ = true;  ///< the kernel does, as far as known
    bool blocked_ = false;
    std::uint32_t allowance_ = 0;  ///< datagrams that may still be sent in this turn

    VxlanBuffers buffers_;
    std::uint32_t now_s_ = 0;
    std::size_t used_ = 0;  ///< of the buffer
    std::size_t staged_ = 0;
    std::array<iovec, pieces_max> pieces_;
    std::size_t piece_count_ = 0;
    std::array<Run, runs_max> runs_;
    std::size_t run_count_ = 0;
    Position next_;
    std::array<Message, messages_max> messages_;
    std::array<mmsghdr, messages_max> headers_{};
};

}  // namespace uvif
