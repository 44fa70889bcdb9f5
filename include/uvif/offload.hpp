// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

namespace uvif {

/// Values as on the wire: XEN_NETIF_GSO_TYPE_* of xen/io/netif.h.
enum class GsoType : std::uint8_t { none = 0, tcpv4 = 1, tcpv6 = 2 };

/// What the netif protocol says of a packet beside its bytes. The wire carries no checksum
/// offsets: whoever needs them (virtio-net headers, checksum completion) parses the headers.
struct Offload {
    bool checksum_blank = false;  ///< the L4 checksum field holds only the pseudo-header sum
    bool data_validated = false;  ///< the checksum is known to be right, or the data never left this host
    GsoType gso_type = GsoType::none;
    std::uint16_t gso_size = 0;  ///< MSS in octets; 0 exactly when gso_type is none

    bool operator==(const Offload&) const = default;
};

}  // namespace uvif
