// SPDX-License-Identifier: MIT
#include "xen/emulated/vif_spec.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <random>
#include <set>
#include <sstream>

#include "runtime/limits.hpp"
#include "xen/store_path.hpp"

namespace uvif::xen {
namespace {

constexpr unsigned max_devid = 65535;
// xl's unit of time when a rate names none.
constexpr std::uint32_t default_interval_us = 50'000;

/// Takes a decimal number off the front of `text`.
template <class T>
std::optional<T> take_number(std::string_view& text) {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{}) {
        return std::nullopt;
    }
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    return value;
}

std::optional<unsigned> whole_number(std::string_view text, unsigned least, unsigned most) {
    const auto value = take_number<unsigned>(text);
    return value && text.empty() && *value >= least && *value <= most ? value : std::nullopt;
}

bool take(std::string_view& text, std::string_view prefix) {
    if (!text.starts_with(prefix)) {
        return false;
    }
    text.remove_prefix(prefix.size());
    return true;
}

std::optional<std::uint32_t> interval_of(std::string_view text) {
    const auto count = take_number<std::uint32_t>(text);
    if (!count || *count == 0) {
        return std::nullopt;
    }
    const std::uint64_t unit = text == "us" ? 1 : text == "ms" ? 1'000 : text == "s" ? 1'000'000 : 0;
    const std::uint64_t interval = unit * *count;
    if (interval == 0 || interval > UINT32_MAX) {
        return std::nullopt;
    }
    return static_cast<std::uint32_t>(interval);
}

/// NUMBER[GMK](B|b)/s[@NUMBER(s|ms|us)], with decimal multiples and b for bits.
std::optional<VifSpec::Rate> rate_of(std::string_view text) {
    constexpr std::uint64_t most = 1'000'000'000;
    const auto count = take_number<std::uint64_t>(text);
    if (!count || *count == 0 || *count > most) {
        return std::nullopt;
    }
    const std::uint64_t multiple = take(text, "G")   ? 1'000'000'000
                                   : take(text, "M") ? 1'000'000
                                   : take(text, "K") ? 1'000
                                                     : 1;
    const bool bits = text.starts_with("b");
    if (!take(text, "b/s") && !take(text, "B/s")) {
        return std::nullopt;
    }
    VifSpec::Rate rate{0, default_interval_us};
    if (take(text, "@")) {
        const auto interval = interval_of(text);
        if (!interval) {
            return std::nullopt;
        }
        rate.interval_us = *interval;
    } else if (!text.empty()) {
        return std::nullopt;
    }
    const auto per_second = static_cast<double>(*count * multiple) / (bits ? 8 : 1);
    rate.bytes = static_cast<std::uint64_t>(per_second * rate.interval_us / 1e6);
    return rate;
}

/// What a network card may have: not a group's address, nor none at all.
bool is_card_address(std::string_view text) {
    const auto mac = parse_mac(text);
    return mac && ((*mac)[0] & 1) == 0 && *mac != MacAddress{};
}

/// Addresses with spaces between them, as xl takes them; each may have the length of its prefix behind a slash.
bool are_ip_addresses(std::string_view text) {
    std::istringstream words{std::string(text)};
    bool any = false;
    for (std::string word; words >> word; any = true) {
        const std::string address = word.substr(0, word.find('/'));
        const bool has_prefix = address.size() < word.size();
        std::array<unsigned char, sizeof(in6_addr)> ignored{};
        const bool v4 = ::inet_pton(AF_INET, address.c_str(), ignored.data()) == 1;
        const bool v6 = ::inet_pton(AF_INET6, address.c_str(), ignored.data()) == 1;
        if ((!v4 && !v6) || (has_prefix && !parse_decimal(word.substr(address.size() + 1), v4 ? 32 : 128))) {
            return false;
        }
    }
    return any;
}

std::string random_mac() {
    // 00:16:3e is the Xen project's own prefix.
    std::random_device entropy;
    const unsigned random = entropy();
    return fmt::format("00:16:3e:{:02x}:{:02x}:{:02x}", random & 0x7f, random >> 8 & 0xff, random >> 16 & 0xff);
}

/// What the key's value has to be, or nothing when it was taken.
std::string set(VifSpec& spec, std::string_view key, std::string_view value) {
    const std::string text(value);
    if (key == "mac") {
        spec.mac = text;
        return is_card_address(value) ? "" : "six pairs of hexadecimal digits with colons, and no multicast address";
    }
    if (key == "devid") {
        spec.devid = whole_number(value, 0, max_devid);
        return spec.devid ? "" : "a number from 0 to 65535";
    }
    if (key == "mtu") {
        const auto mtu = whole_number(value, limits::mtu_min, limits::mtu_max);
        spec.mtu = mtu.value_or(spec.mtu);
        return mtu ? "" : fmt::format("a number from {} to {}", limits::mtu_min, limits::mtu_max);
    }
    if (key == "rate") {
        spec.rate = rate_of(value);
        return spec.rate ? "" : "like 10Mb/s or 1MB/s@20ms";
    }
    if (key == "type") {
        spec.type = value == "ioemu" ? "vif_ioemu" : text;
        return value == "vif" || value == "ioemu" ? "" : "vif or ioemu";
    }
    if (key == "script") {
        spec.script = value.starts_with('/') ? text : "/etc/xen/scripts/" + text;
        return value.empty() ? "a path" : "";
    }
    if (key == "ip") {
        spec.ip = text;
        return are_ip_addresses(value) ? "" : "an IP address, or several with spaces between them";
    }
    if (key == "bridge" || key == "vifname" || key == "backend") {
        (key == "bridge" ? spec.bridge : key == "vifname" ? spec.vifname : spec.backend) = text;
        return value.empty() ? "something" : "";
    }
    return "left out: the keys are mac, bridge, script, ip, rate, mtu, vifname, backend, devid and type";
}

}  // namespace

Result<VifSpec> VifSpec::parse(std::string_view text) {
    VifSpec spec;
    std::set<std::string_view> seen;
    while (!text.empty()) {
        const std::string_view entry = text.substr(0, text.find(','));
        text.remove_prefix(std::min(text.size(), entry.size() + 1));
        const std::string_view key = entry.substr(0, entry.find('='));
        if (key.size() == entry.size()) {
            return fail(EINVAL, fmt::format("vif entry '{}' is not of the form key=value", entry.substr(0, 64)));
        }
        if (!seen.insert(key).second) {
            return fail(EINVAL,
                        fmt::format("vif entry '{}' is the second of its key: leave one out", entry.substr(0, 64)));
        }
        const std::string wanted = set(spec, key, entry.substr(key.size() + 1));
        if (!wanted.empty()) {
            return fail(EINVAL, fmt::format("vif entry '{}' must be {}", entry.substr(0, 64), wanted));
        }
    }
    if (spec.mac.empty()) {
        spec.mac = random_mac();
    }
    return spec;
}

}  // namespace uvif::xen
