// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string_view>

#include "port/null.hpp"
#include "port/vxlan_config.hpp"
#include "uvif/error.hpp"

namespace uvif {

/// What a command line says of the port that every vif gets.
struct PortSpec {
    enum class Kind : std::uint8_t { tap, null, vxlan };
    Kind kind = Kind::tap;
    NullConfig null;    ///< when `kind` is null
    VxlanConfig vxlan;  ///< when it is vxlan
};

/// "tap", "null:sink", "null:generate,SIZE" (octets, Ethernet header included), "null:reflect", or "vxlan:" and what
/// parse_vxlan_config() reads.
[[nodiscard]] Result<PortSpec> parse_port_spec(std::string_view text);

[[nodiscard]] constexpr std::string_view name_of(PortSpec::Kind kind) noexcept {
    switch (kind) {
        case PortSpec::Kind::tap:
            return "tap";
        case PortSpec::Kind::vxlan:
            return "vxlan";
        case PortSpec::Kind::null:
            break;
    }
    return "null";
}

}  // namespace uvif
