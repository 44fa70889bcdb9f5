// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "packet/segment.hpp"
#include "port/port.hpp"
#include "port/vxlan_receiver.hpp"
#include "port/vxlan_sender.hpp"
#include "port/vxlan_table.hpp"
#include "runtime/limits.hpp"
#include "runtime/unique_fd.hpp"

// Theory of operation
//
// A guest's packet is copied once, behind a VXLAN header, and is then done with. A blank checksum is completed in the
// copy. A GSO packet becomes its segments there, which are all of one length and so one message to the kernel
// (vxlan_sender.hpp).
//
// Where that is wanted (`pins`), of what becomes long datagrams only the headers are copied. The kernel sends the rest
// from the guest's pages, which are never written to, and says when it is done with them: then the packet is.
//
// A packet goes to where its destination was heard of, or is said to be (vxlan_table.hpp); all others, and what is for
// many, go to every remote endpoint (head-end replication).
//
// Back-pressure is the socket's: while it has no room, packets are held in order until its descriptor is writable. So
// are those that are left when a turn's datagrams are spent: the descriptor is writable then, and the next turn comes
// at once.

namespace uvif {

/// What the ports of one endpoint share; outlives them.
struct VxlanNetwork {
    std::uint32_t vni;
    std::uint16_t port;
    UnderlayAddress local;
    std::vector<SocketAddress> remotes;
    VxlanTable table;
};

/// One queue of a VXLAN endpoint. Made by VxlanEndpoint.
class VxlanPort final : public Port {
public:
    /// With `receives` it is the one that hands packets to the guest.
    VxlanPort(UniqueFd fd, VxlanNetwork& network, VxlanBuffers buffers, bool receives, bool pins,
              const VxlanGuest& guest);
    ~VxlanPort() override;

    [[nodiscard]] bool writable() const noexcept override { return !sender_.blocked() && held_count_ == 0; }
    [[nodiscard]] std::uint32_t pins_from() const noexcept override {
        return pins_ && sender_.lends() ? pinned_octets_min : 0;
    }
    void submit(std::span<Packet* const> packets) noexcept override;
    void flush(bool abandon) noexcept override;
    [[nodiscard]] std::span<Packet* const> held() const noexcept override {
        return std::span(held_).first(held_count_);
    }
    std::size_t receive(std::span<Packet*> packets) noexcept override;
    [[nodiscard]] int fd() const noexcept override { return fd_.get(); }
    [[nodiscard]] bool survives_error() noexcept override;
    [[nodiscard]] const PortCounters& counters() const noexcept override { return counters_; }

private:
    /// A private copy of a packet's first octets: what is judged is what is sent.
    struct Head {
        std::array<std::byte, limits::header_octets> octets;
        std::size_t length = 0;
        [[nodiscard]] std::span<const std::byte> span() const noexcept { return std::span(octets).first(length); }
    };
    enum class Outcome : std::uint8_t { copied, lent, dropped, no_room };

    /// From shorter ones no kernel gains (docs/vxlan.md).
    static constexpr std::uint32_t pinned_octets_min = 4096;

    void begin_turn() noexcept;
    void transmit(std::span<Packet* const> packets) noexcept;
    [[nodiscard]] bool take(Packet* packet) noexcept;
    Outcome stage(Packet* packet) noexcept;
    Outcome stage_copy(const Packet& packet, const Head& head, const Segmentation& plan,
                       const std::optional<UnderlayAddress>& to) noexcept;
    [[nodiscard]] bool goes_from_pages(const Packet& packet, const Segmentation& plan) noexcept;
    Outcome stage_from_pages(Packet* packet, const Head& head, const Segmentation& plan,
                             const UnderlayAddress& to) noexcept;
    [[nodiscard]] std::optional<UnderlayAddress> destination(std::span<const std::byte> head) const noexcept;
    Outcome drop(std::uint64_t PortCounters::* reason) noexcept;
    void hold(Packet* packet) noexcept;

    UniqueFd fd_;
    VxlanNetwork& network_;
    const bool pins_;
    PortCounters counters_;
    std::uint32_t now_s_ = 0;
    VxlanSender sender_;
    std::unique_ptr<VxlanReceiver> receiver_;
    std::array<Packet*, limits::port_held_packets> held_{};
    std::array<Packet*, limits::port_held_packets> retried_{};  ///< held_ as it was when flush() began
    std::size_t held_count_ = 0;
};

}  // namespace uvif
