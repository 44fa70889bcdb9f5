// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "packet/headers.hpp"
#include "packet/packet.hpp"

// Theory of operation
//
// Generic receive offload, segment.hpp turned round: TCP packets of one flow that follow each other become one GSO
// packet, which costs its receiver what one packet costs. By Linux's rules (tcp_gro_receive): cut again it is what
// came, but for identifications that nobody may rely on (RFC 6864). So all that the headers say has to be the same,
// options of TCP included; nothing but ACK and PSH is flagged; all have the size of the first, except the last, which
// may be shorter; and every checksum was right. A packet with PSH is the last.
//
// Nothing is kept waiting for more: only packets that are at hand are joined.

namespace uvif {

/// Of which IP a receiver takes GSO packets.
struct GsoFeatures {
    bool tcpv4 = false;
    bool tcpv6 = false;

    [[nodiscard]] bool takes(unsigned ip_version) const noexcept { return ip_version == 4 ? tcpv4 : tcpv6; }
};

/// Linux's netfront drops a GSO packet with a VLAN tag, as any with a blank checksum; and none that it forwards may
/// have options or extension headers of IP.
[[nodiscard]] bool can_be_gso(const Headers& headers) noexcept;

/// Thread rule: one thread.
class Gro {
public:
    /// Makes no others than `taken`.
    explicit Gro(const GsoFeatures& taken) noexcept : taken_(taken) {}

    /// Others may follow `packet`, whose frame stands whole in fragment 0, where there is room for `room` octets in
    /// all. `headers` are the frame's. Its offload says whether its checksum is blank.
    void begin(Packet& packet, std::uint32_t room, const Headers& headers) noexcept;

    /// True: the frame follows the begun packet, and was added to it.
    bool append(std::span<const std::byte> frame, const Headers& headers, bool checksum_blank) noexcept;

    /// The begun packet, if there is one, has all that it gets: makes its headers and its offload say so.
    void end() noexcept;

private:
    [[nodiscard]] bool may_be_joined(std::span<const std::byte> frame, const Headers& headers) const noexcept;
    [[nodiscard]] bool follows(std::span<const std::byte> frame, const Headers& headers) const noexcept;
    [[nodiscard]] std::span<std::byte> joined() const noexcept;

    const GsoFeatures taken_;

    Packet* packet_ = nullptr;
    Headers headers_;
    std::uint32_t room_ = 0;
    std::uint32_t header_length_ = 0;  ///< Ethernet, IP and TCP
    std::uint32_t size_ = 0;           ///< payload of the first
    std::uint32_t count_ = 0;
    bool open_ = false;  ///< for more
};

}  // namespace uvif
