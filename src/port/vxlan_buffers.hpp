// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "packet/buffer_pool.hpp"
#include "port/port.hpp"
#include "port/vxlan_address.hpp"
#include "port/vxlan_lent.hpp"
#include "runtime/limits.hpp"
#include "uvif/error.hpp"

// Theory of operation
//
// Datagrams are staged in a buffer. When all are sent the same buffer is taken again, unless the kernel still reads it:
// a long message is sent with MSG_ZEROCOPY, from where it stands, and its buffer is lent until the socket's error queue
// says that the message is done with. So are the packets whose pages the message goes on with (vxlan_lent.hpp).
// Messages are numbered by the kernel, and so here.
//
// What may go so is bounded: the last free buffer is never lent, so that there is always one to stage in; and no
// destination has more than a few messages at a time. One that answers no ARP holds what it was sent for three seconds,
// and nothing calls that back: what else is sent there is copied meanwhile, as everything was before.
//
// The kernel also says whether it copied after all: the destination is on this host, the device computes no checksums
// or gathers no fragments. That costs more than to let it copy at once, so such a destination has a pause, and then
// another trial.
//
// Our own memory may go while the kernel reads it: it keeps the pages. So do guests', where netback hands them out to
// be pinned.

namespace uvif {

/// Thread rule: one thread.
class VxlanBuffers {
public:
    /// Of a queue; their room is of limits::vxlan_buffer_octets. Fails when there is no address space.
    static Result<VxlanBuffers> create();

    /// To be sent from: `fd` outlives it.
    void attach(int fd) noexcept;

    /// Where to stage. Nobody reads it.
    [[nodiscard]] std::byte* current() const noexcept { return current_; }

    /// The kernel can be asked to send from where things stand.
    [[nodiscard]] bool enabled() const noexcept { return enabled_; }
    /// A message that has to do with the current buffer may be sent with MSG_ZEROCOPY.
    [[nodiscard]] bool lends(const UnderlayAddress& to, std::uint32_t now_s, PortCounters& counters) noexcept;
    /// It was, and has some of these packets.
    void lent(const UnderlayAddress& to, const LentPackets::List& packets) noexcept;
    /// The kernel would not have it: to be sent without, and whatever there is to complain about, heard then.
    void refused(const UnderlayAddress& to, std::uint32_t now_s, PortCounters& counters) noexcept;
    /// All that is staged was sent.
    void advance() noexcept;

    /// Packets that messages are made of.
    [[nodiscard]] LentPackets& packets() noexcept { return packets_; }

    /// Messages that the kernel may still read.
    [[nodiscard]] std::size_t outstanding() const noexcept { return outstanding_; }
    /// Hears what the kernel is done with; with `all` also what it says of messages that it refused.
    void settle(std::uint32_t now_s, bool all, PortCounters& counters) noexcept;

private:
    explicit VxlanBuffers(BufferPool pool) noexcept;

    struct Destination {
        UnderlayAddress at;
        std::uint32_t outstanding = 0;
        std::uint32_t paused_until_s = 0;
    };
    struct Message {
        std::byte* buffer = nullptr;  ///< where it stands, or its headers; nullptr: there is none
        LentPackets::List packets;
        std::uint32_t number = 0;
        std::size_t destination = 0;
    };
    static constexpr std::size_t destinations_max = 16;
    static constexpr std::size_t messages_max = 32;

    [[nodiscard]] Destination* find(const UnderlayAddress& at) noexcept;
    void pause(Destination& destination, std::uint32_t now_s) noexcept;
    void settle(Message& message, bool copied, std::uint32_t now_s, PortCounters& counters) noexcept;
    [[nodiscard]] bool is_lent(const std::byte* buffer) const noexcept;

    BufferPool pool_;
    LentPackets packets_;
    std::byte* current_;
    int fd_ = -1;
    bool enabled_ = false;
    std::uint32_t next_number_ = 0;
    std::size_t outstanding_ = 0;
    std::size_t replaced_ = 0;  ///< the destination that made room last
    std::array<Destination, destinations_max> destinations_{};
    std::array<Message, messages_max> messages_{};
};

}  // namespace uvif
