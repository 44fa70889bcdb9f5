// SPDX-License-Identifier: MIT
#include "netfront/discovery.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>

#include "runtime/limits.hpp"
#include "runtime/printable.hpp"
#include "xen/store_path.hpp"

namespace uvif::netfront {
namespace {

constexpr std::string_view device_directory = "device/vif";
constexpr std::uint32_t largest_device_id = 0xffffff;  // what fits a xenbus device number

/// Whatever must be there, or there is no device to speak of.
template <class T>
Result<T> required(Result<std::optional<T>> value, const std::string& path) {
    if (!value) {
        return propagate(value);
    }
    if (!*value) {
        return fail(EPROTO,
                    fmt::format("{} is missing: the toolstack did not finish the device, attach it again", path));
    }
    return std::move(**value);
}

}  // namespace

Result<std::vector<unsigned>> list_devices(xen::Store& store) {
    std::vector<unsigned> ids;
    auto names = store.list(device_directory);
    if (!names) {
        if (names.error().code == ENOENT) {
            return ids;
        }
        return propagate(names);
    }
    for (const std::string& name : *names) {
        if (const auto id = xen::parse_decimal(name, largest_device_id)) {
            ids.push_back(*id);
        }
    }
    std::ranges::sort(ids);
    return ids;
}

std::string no_such_device(const std::vector<unsigned>& present, const unsigned* wanted) {
    const std::string what = wanted != nullptr ? fmt::format("there is no vif {}", *wanted) : "there is no vif";
    const std::string there = present.empty() ? "is empty" : fmt::format("has only {}", fmt::join(present, ", "));
    return fmt::format(
        "{}: this domain's xenstore directory {} {}; attach one with 'xl network-attach' or, on an "
        "emulated machine, 'uvif-machine attach'",
        what, device_directory, there);
}

Result<DeviceInfo> read_device(xen::Store& store, unsigned id) {
    DeviceInfo info{};
    info.frontend = fmt::format("{}/{}", device_directory, id);
    const auto path_of = [&](std::string_view key) { return fmt::format("{}/{}", info.frontend, key); };

    auto backend = required(xen::read_text(store, path_of("backend")), path_of("backend"));
    if (!backend) {
        return propagate(backend);
    }
    if (backend->size() > limits::backend_path || !backend->starts_with('/')) {
        return fail(EPROTO, fmt::format("{} is \"{}\", which is not a directory of xenstore", path_of("backend"),
                                        printable(*backend)));
    }
    info.backend = std::move(*backend);
    auto domain = required(xen::read_decimal(store, path_of("backend-id"), xen::first_reserved_domain_id - 1),
                           path_of("backend-id"));
    if (!domain) {
        return propagate(domain);
    }
    info.backend_domain = static_cast<xen::DomainId>(*domain);
    auto mac = required(xen::read_mac(store, path_of("mac")), path_of("mac"));
    if (!mac) {
        return propagate(mac);
    }
    info.mac = *mac;
    return info;
}

unsigned read_mtu(xen::Store& store, const std::string& frontend) {
    auto value = xen::read_decimal(store, frontend + "/mtu", limits::mtu_max);
    return value && value->value_or(0) >= limits::mtu_min ? **value : limits::mtu_default;
}

}  // namespace uvif::netfront
