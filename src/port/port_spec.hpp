// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string_view>

#include "port/null.hpp"
#include "uvif/error.hpp"

namespace uvif {

/// What a command line says of the port that every vif gets.
struct PortSpec {
    enum class Kind : std::uint8_t { tap, null };
    Kind kind = Kind::tap;
    NullConfig null;  ///< when `kind` is null
};

/// "tap", "null:sink", "null:generate,SIZE" (octets, Ethernet header included) or "null:reflect".
[[nodiscard]] Result<PortSpec> parse_port_spec(std::string_view text);

}  // namespace uvif
