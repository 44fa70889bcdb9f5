// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "uvif/offload.hpp"

namespace uvif {

/// struct virtio_net_hdr, legacy layout, native byte order: what a TAP with IFF_VNET_HDR speaks.
/// (linux/virtio_net.h does not compile as C++.)
struct VnetHeader {
    static constexpr std::uint8_t needs_csum = 1;
    static constexpr std::uint8_t data_valid = 2;
    static constexpr std::uint8_t gso_none = 0;
    static constexpr std::uint8_t gso_tcpv4 = 1;
    static constexpr std::uint8_t gso_tcpv6 = 4;
    static constexpr std::uint8_t gso_ecn = 0x80;

    std::uint8_t flags = 0;
    std::uint8_t gso_type = gso_none;
    std::uint16_t hdr_len = 0;
    std::uint16_t gso_size = 0;
    std::uint16_t csum_start = 0;
    std::uint16_t csum_offset = 0;
};
static_assert(sizeof(VnetHeader) == 10);

/// The netif metadata of a packet as a virtio-net header. `headers` are the packet's first octets,
/// contiguous (at least min(length, 128), XSA-423): the wire carries no offsets, so they are parsed.
/// A GSO packet without checksum_blank is treated as blank (Linux: rx_gso_checksum_fixup); `gso_fixup` is then
/// set and the caller must write the pseudo-header sum, see checksum.hpp.
/// nullopt: the metadata does not fit the packet (blank checksum on something that is not TCP or UDP,
/// GSO on something that is not that TCP, truncated headers): drop it.
struct VnetTranslation {
    VnetHeader header;
    bool gso_fixup = false;
};
std::optional<VnetTranslation> to_vnet(const Offload& offload, std::span<const std::byte> headers,
                                       std::uint32_t packet_length) noexcept;

/// The other way. nullopt: a GSO type that netif cannot carry (UDP, ...), which was never enabled on the TAP.
std::optional<Offload> from_vnet(const VnetHeader& header) noexcept;

}  // namespace uvif
