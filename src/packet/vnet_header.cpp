// SPDX-License-Identifier: MIT
#include "packet/vnet_header.hpp"

#include <algorithm>

#include "packet/headers.hpp"

// Theory of operation
//
//   netif (the wire)                      virtio-net header (the TAP)
//   nothing                               flags 0
//   data_validated                        DATA_VALID
//   csum_blank (data_validated or not)    NEEDS_CSUM, csum_start and csum_offset from the parsed headers
//   GSO type, size                        gso_type, gso_size, hdr_len from the parsed headers; always NEEDS_CSUM
//
// and back:
//   NEEDS_CSUM                            csum_blank and data_validated: the data never left this host, and guests
//                                         take a GSO packet without data_validated for a suspect one
//   DATA_VALID                            data_validated
//   GSO TCPV4, TCPV6                      GSO type, size; the ECN bit has no place on the wire

namespace uvif {

namespace {

/// The packet is a TCP packet of the IP version that its GSO type says, with room for its whole header.
bool can_segment(GsoType type, std::uint16_t size, const Headers& headers, std::uint32_t packet_length) noexcept {
    const unsigned version = type == GsoType::tcpv4 ? 4 : type == GsoType::tcpv6 ? 6 : 0;
    return size != 0 && headers.is_tcp() && headers.ip_version == version &&
           headers.l4_header_length >= tcp_header_min &&
           std::uint32_t{headers.l4_offset} + headers.l4_header_length <= packet_length;
}

}  // namespace

std::optional<VnetTranslation> to_vnet(const Offload& offload, std::span<const std::byte> headers,
                                       std::uint32_t packet_length) noexcept {
    VnetTranslation translation;
    const bool gso = offload.gso_type != GsoType::none;
    if (!offload.checksum_blank && !gso) {
        translation.header.flags = offload.data_validated ? VnetHeader::data_valid : std::uint8_t{0};
        return translation;
    }
    const Headers parsed = parse_headers(headers.first(std::min<std::size_t>(headers.size(), packet_length)));
    if (parsed.depth != HeaderDepth::transport) {
        return std::nullopt;
    }
    VnetHeader& header = translation.header;
    if (gso) {
        if (!can_segment(offload.gso_type, offload.gso_size, parsed, packet_length)) {
            return std::nullopt;
        }
        header.gso_type = offload.gso_type == GsoType::tcpv4 ? VnetHeader::gso_tcpv4 : VnetHeader::gso_tcpv6;
        header.gso_size = offload.gso_size;
        header.hdr_len = static_cast<std::uint16_t>(parsed.l4_offset + parsed.l4_header_length);
        translation.gso_fixup = !offload.checksum_blank;
    }
    header.flags = VnetHeader::needs_csum;
    header.csum_start = parsed.l4_offset;
    header.csum_offset = static_cast<std::uint16_t>(parsed.checksum_offset() - parsed.l4_offset);
    return translation;
}

std::optional<Offload> from_vnet(const VnetHeader& header) noexcept {
    Offload offload;
    offload.checksum_blank = (header.flags & VnetHeader::needs_csum) != 0;
    offload.data_validated = (header.flags & (VnetHeader::needs_csum | VnetHeader::data_valid)) != 0;
    switch (header.gso_type & ~VnetHeader::gso_ecn) {
        case VnetHeader::gso_none:
            return offload;
        case VnetHeader::gso_tcpv4:
            offload.gso_type = GsoType::tcpv4;
            break;
        case VnetHeader::gso_tcpv6:
            offload.gso_type = GsoType::tcpv6;
            break;
        default:
            return std::nullopt;
    }
    offload.gso_size = header.gso_size;
    return header.gso_size != 0 ? std::optional(offload) : std::nullopt;
}

}  // namespace uvif
