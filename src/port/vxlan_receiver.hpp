// SPDX-License-Identifier: MIT
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "packet/gro.hpp"
#include "packet/packet.hpp"
#include "packet/segment.hpp"
#include "port/port.hpp"
#include "port/vxlan_address.hpp"
#include "port/vxlan_table.hpp"

// Theory of operation
//
// The kernel gathers datagrams of one flow that follow each other into one (UDP_GRO) and says how long each is; several
// of these come in one call. They are cut here, and copied into the packets of whoever receives. What is cut off and
// has no packet yet waits for the next call. TCP that is cut so, and belongs together, becomes one GSO packet in the
// same copy, where the guest takes such (gro.hpp): its checksum has then been looked at, which spares the guest that.
//
// Through a veth pair of this machine a kernel's frames come as they were made: with blank checksums, and TCP in
// packets of up to 64 KiB. The former are passed on as blank; the latter as GSO packets, or in segments where the guest
// takes none.
//
// Everything in a datagram is a stranger's: its length, its header and its frame.

namespace uvif {

/// What may come by a VXLAN for its guest.
struct VxlanGuest {
    unsigned mtu;  ///< nothing on a real underlay is longer
    GsoFeatures gso;
};

/// Thread rule: one thread, the one that learns in `table`.
class VxlanReceiver {
public:
    /// The descriptor and the table outlive it.
    VxlanReceiver(int fd, std::uint32_t vni, const UnderlayAddress& local, VxlanTable& table, const VxlanGuest& guest);

    /// As Port::receive.
    std::size_t receive(std::span<Packet* const> packets, PortCounters& counters) noexcept;

private:
    static constexpr std::size_t messages_max = 8;
    static constexpr std::size_t buffer_octets = 65536;
    /// Strangers' datagrams, of which no packet comes, must not keep the worker here.
    static constexpr unsigned calls_max = 16;

    enum class Fate : std::uint8_t { packet, gone, waits };

    struct Message {
        sockaddr_storage from;
        iovec piece;
        alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control;
    };

    bool fetch(PortCounters& counters, std::size_t& octets) noexcept;
    void open_message() noexcept;
    [[nodiscard]] std::span<const std::byte> next_datagram() const noexcept;
    void pass(std::size_t octets) noexcept;
    [[nodiscard]] std::uint16_t super_size(std::span<const std::byte> frame, const Headers& headers) const noexcept;
    void take_segment(Packet& packet) noexcept;
    Fate accept(Packet* packet, std::span<const std::byte> datagram, PortCounters& counters) noexcept;

    const int fd_;
    const std::uint32_t vni_;
    const UnderlayAddress local_;
    VxlanTable& table_;
    const VxlanGuest guest_;
    Gro gro_;
    std::uint32_t now_s_ = 0;

    std::unique_ptr<std::byte[]> buffers_;
    std::array<Message, messages_max> messages_;
    std::array<mmsghdr, messages_max> headers_{};
    std::size_t filled_ = 0;                 ///< messages that came with the last call
    std::size_t current_ = 0;                ///< the one that is being cut
    std::span<const std::byte> left_;        ///< of it
    std::size_t each_ = 0;                   ///< octets of its datagrams
    std::optional<UnderlayAddress> sender_;  ///< of it, when it may be learned

    std::optional<Segmentation> plan_;  ///< of a frame that is handed out in segments
    std::span<const std::byte> super_;  ///< that frame
    std::uint32_t segment_ = 0;         ///< the next of them
};

}  // namespace uvif
