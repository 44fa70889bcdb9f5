// SPDX-License-Identifier: MIT
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "port/port.hpp"
#include "port/vxlan_address.hpp"
#include "port/vxlan_buffers.hpp"
#include "port/vxlan_lent.hpp"
#include "port/vxlan_runs.hpp"
#include "runtime/limits.hpp"

// Theory of operation
//
// A run of datagrams (vxlan_runs.hpp) is one message, which the kernel or the network card cuts (UDP_SEGMENT). That is
// worth more than anything else here, and bulk data is all runs. What goes to every remote is one message for each. All
// messages of a batch share system calls.
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

    /// Where datagrams are staged, while nothing is blocked().
    [[nodiscard]] VxlanRuns& runs() noexcept { return runs_; }
    /// A packet of which datagrams are to be staged that go on where it is: what to call it. It is completed when all
    /// of them are done with.
    [[nodiscard]] LentPackets::Place lend(Packet* packet) noexcept { return buffers_.packets().enter(packet); }
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

private:
    static constexpr std::size_t messages_max = 64;
    /// Shorter messages are copied faster than their pages are pinned (docs/vxlan.md).
    static constexpr std::size_t long_octets = std::size_t{48} * 1024;
    /// Of guests' pages, which are pinned where that was asked for, only those that are far from worth it.
    static constexpr std::size_t long_octets_of_pages = std::size_t{8} * 1024;

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

    [[nodiscard]] bool goes_whole(const VxlanRun& run) const noexcept;
    [[nodiscard]] bool goes_zerocopy(const Position& at, PortCounters& counters) noexcept;
    std::size_t prepare(bool zerocopy, std::size_t end, PortCounters& counters) noexcept;
    bool send_up_to(std::size_t end, PortCounters& counters) noexcept;
    void clear() noexcept;
    Position prepare_message(std::size_t index, const Position& at) noexcept;
    static void count_dropped(const VxlanRun& run, std::uint64_t PortCounters::* reason,
                              PortCounters& counters) noexcept;
    void settle(std::size_t index, int error, PortCounters& counters) noexcept;

    const int fd_;
    const std::span<const SocketAddress> remotes_;
    bool cuts_runs_ = true;  ///< the kernel does, as far as known
    bool blocked_ = false;
    std::uint32_t allowance_ = 0;  ///< datagrams that may still be sent in this turn

    VxlanBuffers buffers_;
    VxlanRuns runs_;
    std::uint32_t now_s_ = 0;
    Position next_;
    std::array<Message, messages_max> messages_;
    std::array<mmsghdr, messages_max> headers_{};
};

}  // namespace uvif
