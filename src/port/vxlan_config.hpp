// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "port/vxlan_address.hpp"
#include "uvif/error.hpp"

namespace uvif {

struct VxlanConfig {
    struct Static {
        Mac mac;
        UnderlayAddress at;
    };

    std::uint32_t vni = 0;      ///< 24 bits
    std::uint16_t port = 4789;  ///< UDP, here and there (RFC 7348)
    UnderlayAddress local;
    std::vector<UnderlayAddress> remotes;  ///< get what is for many, and what has no known endpoint
    std::vector<Static> fdb;               ///< where guests are known to be
};

/// What stands behind "vxlan:": "vni=42,local=192.0.2.1,remote=192.0.2.2[,remote=..][,port=4789][,fdb=MAC@ADDRESS..]".
[[nodiscard]] Result<VxlanConfig> parse_vxlan_config(std::string_view text);

}  // namespace uvif
