// SPDX-License-Identifier: MIT
#include "xen/store_path.hpp"

#include <fmt/format.h>

#include <charconv>
#include <system_error>
#include <utility>

#include "runtime/printable.hpp"

namespace uvif::xen {

namespace {

bool is_digit(char c) noexcept {
    return c >= '0' && c <= '9';
}

/// Applies `parse` to the key's value, and turns its refusal into an error that says what was expected.
template <class T, class Parse>
Result<std::optional<T>> read_as(Store& store, const std::string& path, Transaction t, Parse&& parse,
                                 const std::string& expected) {
    auto text = read_text(store, path, t);
    if (!text) {
        return propagate(text);
    }
    if (!*text) {
        return std::optional<T>{};
    }
    std::optional<T> value = parse(**text);
    if (!value) {
        return fail(EINVAL, fmt::format("xenstore key {} is \"{}\", expected {}", path, printable(**text), expected));
    }
    return value;
}

}  // namespace

std::optional<std::uint32_t> parse_decimal(std::string_view text, std::uint32_t max) noexcept {
    // from_chars alone would take a minus sign and stop quietly at the first other character.
    if (text.empty() || text.size() > 10 || !is_digit(text.front())) {
        return std::nullopt;
    }
    std::uint32_t value = 0;
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    if (error != std::errc{} || stop != end || value > max) {
        return std::nullopt;
    }
    return value;
}

std::optional<bool> parse_flag(std::string_view text) noexcept {
    const auto value = parse_decimal(text);
    return value ? std::optional<bool>(*value != 0) : std::nullopt;
}

std::optional<MacAddress> parse_mac(std::string_view text) noexcept {
    MacAddress mac{};
    if (text.size() != mac.size() * 3 - 1) {
        return std::nullopt;
    }
    for (std::size_t i = 0; i < mac.size(); ++i) {
        const char* const pair = text.data() + i * 3;
        const auto [stop, error] = std::from_chars(pair, pair + 2, mac[i], 16);
        if (error != std::errc{} || stop != pair + 2 || (i + 1 < mac.size() && pair[2] != ':')) {
            return std::nullopt;
        }
    }
    return mac;
}

std::string frontend_path(DomainId guest, std::uint32_t handle) {
    return fmt::format("/local/domain/{}/device/vif/{}", std::to_underlying(guest), handle);
}

std::string backend_path(DomainId backend, DomainId guest, std::uint32_t handle) {
    return fmt::format("/local/domain/{}/backend/vif/{}/{}", std::to_underlying(backend), std::to_underlying(guest),
                       handle);
}

std::string error_path(DomainId backend, std::string_view backend_path) {
    const std::string home = fmt::format("/local/domain/{}/", std::to_underlying(backend));
    return fmt::format("{}error/{}/error", home, backend_path.substr(backend_path.starts_with(home) ? home.size() : 0));
}

Result<std::optional<std::string>> read_text(Store& store, const std::string& path, Transaction t) {
    auto value = store.read(path, t);
    if (value) {
        return std::optional<std::string>(std::move(*value));
    }
    if (value.error().code == ENOENT) {
        return std::optional<std::string>{};
    }
    return propagate(value);
}

Result<std::optional<std::uint32_t>> read_decimal(Store& store, const std::string& path, std::uint32_t max,
                                                  Transaction t) {
    return read_as<std::uint32_t>(
        store, path, t, [max](std::string_view text) { return parse_decimal(text, max); },
        fmt::format("a decimal number of at most {}", max));
}

Result<std::optional<bool>> read_flag(Store& store, const std::string& path, Transaction t) {
    return read_as<bool>(store, path, t, parse_flag, "0 or 1");
}

Result<std::optional<MacAddress>> read_mac(Store& store, const std::string& path, Transaction t) {
    return read_as<MacAddress>(store, path, t, parse_mac, "an address like 00:16:3e:01:02:03");
}

}  // namespace uvif::xen
