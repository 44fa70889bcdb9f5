// SPDX-License-Identifier: MIT
#include "port/vxlan_config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <optional>
#include <string>

#include "runtime/limits.hpp"
#include "runtime/printable.hpp"

namespace uvif {

namespace {

constexpr std::uint32_t vni_max = 0xffffff;
constexpr std::string_view form =
    "vxlan:vni=42,local=ADDRESS,remote=ADDRESS, and where needed more remote=, port=4789, fdb=MAC@ADDRESS";

/// `why` ends with what to do.
std::unexpected<Error> refuse(std::string_view what, std::string_view why) {
    return fail(EINVAL, fmt::format("cannot use \"{}\" for the VXLAN port: {}", printable(what), why));
}

std::optional<std::uint32_t> parse_number(std::string_view text, std::uint32_t min, std::uint32_t max) {
    std::uint32_t value = 0;
    const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool whole = problem == std::errc() && end == text.data() + text.size();
    return whole && value >= min && value <= max ? std::optional(value) : std::nullopt;
}

Result<UnderlayAddress> parse_endpoint(std::string_view item, std::string_view text) {
    const auto address = parse_underlay_address(text);
    if (!address) {
        return refuse(item, "choose an IPv4 or IPv6 address, no name");
    }
    if (!address->is_one_host()) {
        return refuse(item,
                      "that is no address of a single host that routes lead to; instead of a multicast group choose a "
                      "remote= for each of its members");
    }
    return *address;
}

Result<void> read_fdb(VxlanConfig& config, std::string_view item, std::string_view value) {
    const std::size_t at = value.find('@');
    const auto mac = parse_mac(value.substr(0, at));
    if (at == std::string_view::npos || !mac) {
        return refuse(item, "choose fdb=MAC@ADDRESS, such as fdb=00:16:3e:00:00:02@192.0.2.2");
    }
    if (((*mac)[0] & 1) != 0 || *mac == Mac{}) {
        return refuse(item, "choose the MAC address of one machine: what is for many goes to every remote=");
    }
    auto address = parse_endpoint(item, value.substr(at + 1));
    if (!address) {
        return propagate(address);
    }
    if (std::any_of(config.fdb.begin(), config.fdb.end(), [&](const auto& entry) { return entry.mac == *mac; })) {
        return refuse(item, "that MAC address has an fdb= already; choose one of them");
    }
    if (config.fdb.size() == limits::vxlan_static_entries) {
        return refuse(item, fmt::format("there are {} fdb= before it; choose fewer, the port learns the others",
                                        limits::vxlan_static_entries));
    }
    config.fdb.push_back({*mac, *address});
    return {};
}

Result<void> read_remote(VxlanConfig& config, std::string_view item, std::string_view value) {
    auto address = parse_endpoint(item, value);
    if (!address) {
        return propagate(address);
    }
    if (std::find(config.remotes.begin(), config.remotes.end(), *address) != config.remotes.end()) {
        return refuse(item, "it is there twice, and packets would arrive twice; choose each remote= once");
    }
    if (config.remotes.size() == limits::vxlan_remotes) {
        return refuse(item, fmt::format("there are {} remote= before it; choose fewer, or a vxlan device of the "
                                        "kernel and --port tap",
                                        limits::vxlan_remotes));
    }
    config.remotes.push_back(*address);
    return {};
}

Result<void> read_item(VxlanConfig& config, std::string_view item) {
    const std::size_t equals = item.find('=');
    const std::string_view key = item.substr(0, equals);
    const std::string_view value = equals == std::string_view::npos ? "" : item.substr(equals + 1);
    if (key == "remote") {
        return read_remote(config, item, value);
    }
    if (key == "fdb") {
        return read_fdb(config, item, value);
    }
    if (key == "local") {
        auto address = parse_endpoint(item, value);
        if (!address) {
            return propagate(address);
        }
        config.local = *address;
        return {};
    }
    if (key == "vni") {
        const auto vni = parse_number(value, 1, vni_max);
        config.vni = vni.value_or(0);
        return vni ? Result<void>{} : refuse(item, fmt::format("choose a number from 1 to {}", vni_max));
    }
    if (key == "port") {
        const auto port = parse_number(value, 1, 0xffff);
        config.port = static_cast<std::uint16_t>(port.value_or(0));
        return port ? Result<void>{} : refuse(item, "choose a UDP port from 1 to 65535; the usual one is 4789");
    }
    return refuse(item, fmt::format("choose {}", form));
}

/// What no single item shows.
Result<void> check_whole(const VxlanConfig& config, std::string_view text) {
    if (config.vni == 0 || config.local == UnderlayAddress{}) {
        return refuse(text, fmt::format("{}= is missing; choose {}", config.vni == 0 ? "vni" : "local", form));
    }
    if (config.remotes.empty() && config.fdb.empty()) {
        return refuse(text, fmt::format("nobody would get a packet without a remote= or fdb=; choose {}", form));
    }
    const auto check = [&](const UnderlayAddress& remote) -> Result<void> {
        if (remote == config.local) {
            return refuse(to_string(remote),
                          "it is both ends of the tunnel; choose the other host's for remote= and fdb=");
        }
        if (remote.is_ipv4() != config.local.is_ipv4()) {
            return refuse(to_string(remote), "local= is of the other version of IP; choose addresses of one");
        }
        return {};
    };
    for (const UnderlayAddress& remote : config.remotes) {
        if (auto checked = check(remote); !checked) {
            return checked;
        }
    }
    for (const VxlanConfig::Static& entry : config.fdb) {
        if (auto checked = check(entry.at); !checked) {
            return checked;
        }
    }
    return {};
}

}  // namespace

Result<VxlanConfig> parse_vxlan_config(std::string_view text) {
    VxlanConfig config;
    for (std::string_view rest = text;;) {
        const std::size_t comma = rest.find(',');
        if (auto read = read_item(config, rest.substr(0, comma)); !read) {
            return propagate(read);
        }
        if (comma == std::string_view::npos) {
            break;
        }
        rest.remove_prefix(comma + 1);
    }
    if (auto checked = check_whole(config, text); !checked) {
        return propagate(checked);
    }
    return config;
}

}  // namespace uvif
