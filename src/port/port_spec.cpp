// SPDX-License-Identifier: MIT
#include "port/port_spec.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <charconv>
#include <utility>

#include "runtime/limits.hpp"
#include "runtime/log.hpp"

namespace uvif {

Result<PortSpec> parse_port_spec(std::string_view text) {
    constexpr std::string_view generate = "null:generate,";
    constexpr std::string_view vxlan = "vxlan:";
    PortSpec spec;
    if (text == "tap") {
        return spec;
    }
    if (text.starts_with(vxlan)) {
        auto config = parse_vxlan_config(text.substr(vxlan.size()));
        if (!config) {
            return propagate(config);
        }
        spec.kind = PortSpec::Kind::vxlan;
        spec.vxlan = std::move(*config);
        return spec;
    }
    spec.kind = PortSpec::Kind::null;
    if (text == "null:sink") {
        spec.null.mode = NullMode::sink;
        return spec;
    }
    if (text == "null:reflect") {
        spec.null.mode = NullMode::reflect;
        return spec;
    }
    if (text.starts_with(generate)) {
        const std::string_view size = text.substr(generate.size());
        std::uint32_t octets = 0;
        const auto [end, problem] = std::from_chars(size.data(), size.data() + size.size(), octets);
        if (problem != std::errc() || end != size.data() + size.size() || octets < NullConfig::packet_length_min ||
            octets > limits::packet_length) {
            return fail(EINVAL, fmt::format("cannot generate packets of \"{}\" octets: choose a number from {} to {}",
                                            printable(size), NullConfig::packet_length_min, limits::packet_length));
        }
        spec.null.mode = NullMode::generate;
        spec.null.packet_length = octets;
        return spec;
    }
    return fail(EINVAL, fmt::format("unknown port \"{}\": choose tap, vxlan:vni=N,local=ADDRESS,remote=ADDRESS, "
                                    "null:sink, null:generate,SIZE or null:reflect",
                                    printable(text)));
}

}  // namespace uvif
