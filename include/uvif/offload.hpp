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

/// What a hash over a packet's flow was made of: XEN_NETIF_CTRL_HASH_TYPE_* of xen/io/netif.h. A set of them is a sum.
struct HashTypes {
    static constexpr std::uint32_t ipv4 = 1;      ///< addresses
    static constexpr std::uint32_t ipv4_tcp = 2;  ///< addresses and ports
    static constexpr std::uint32_t ipv6 = 4;
    static constexpr std::uint32_t ipv6_tcp = 8;
    static constexpr std::uint32_t all = 15;
};

/// The hash of a packet's flow.
struct FlowHash {
    std::uint32_t value = 0;
    std::uint32_t type = 0;  ///< one of HashTypes; 0: the packet has none

    bool operator==(const FlowHash&) const = default;
};

}  // namespace uvif
