// SPDX-License-Identifier: MIT
//
// Any octets as a packet: the parser, the offload translation and the checksums stay inside it, and agree.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "packet/checksum.hpp"
#include "packet/headers.hpp"
#include "packet/vnet_header.hpp"

namespace {

void require(bool holds) {
    if (!holds) {
        std::abort();
    }
}

uvif::Offload take_offload(const std::uint8_t* data) {
    uvif::Offload offload;
    offload.checksum_blank = (data[0] & 1) != 0;
    offload.data_validated = (data[0] & 2) != 0;
    offload.gso_type = static_cast<uvif::GsoType>(data[0] >> 2 & 3);
    std::memcpy(&offload.gso_size, data + 1, sizeof offload.gso_size);
    return offload;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    constexpr std::size_t control = 5;
    if (size < control || size - control > 65535) {
        return 0;
    }
    const uvif::Offload offload = take_offload(data);
    const std::size_t seen = data[3] * std::size_t{2};
    std::vector<std::byte> packet(size - control);
    std::transform(data + control, data + size, packet.begin(), [](std::uint8_t octet) { return std::byte{octet}; });
    const auto length = static_cast<std::uint32_t>(packet.size());

    // What is seen of a packet is a copy of its own, so that a read beyond it is found.
    const std::vector<std::byte> first(packet.begin(),
                                       packet.begin() + static_cast<std::ptrdiff_t>(std::min(seen, packet.size())));
    const uvif::Headers headers = uvif::parse_headers(first);
    require(headers.l3_offset <= first.size() && headers.l4_offset <= first.size());
    if (headers.depth == uvif::HeaderDepth::transport) {
        require(headers.checksum_offset() + 2U <= first.size());
        (void)uvif::pseudo_header_sum(first, headers, length);
    }
    if (const auto translation = uvif::to_vnet(offload, first, length)) {
        const uvif::VnetHeader& header = translation->header;
        const bool blank = (header.flags & uvif::VnetHeader::needs_csum) != 0;
        require(blank == (offload.checksum_blank || offload.gso_type != uvif::GsoType::none));
        require(!blank || header.csum_start + header.csum_offset + 2U <= length);
        require(header.hdr_len <= length);
        const auto back = uvif::from_vnet(header);
        require(back && back->gso_type == offload.gso_type);
    }

    // In two pieces, at any place.
    const std::size_t cut = std::min<std::size_t>(data[4], packet.size());
    const uvif::Fragment pieces[] = {{packet.data(), static_cast<std::uint32_t>(cut)},
                                     {packet.data() + cut, static_cast<std::uint32_t>(packet.size() - cut)}};
    (void)uvif::complete_checksum(pieces);
    return 0;
}
