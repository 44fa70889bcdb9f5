// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

#include "uvif/error.hpp"
#include "xen/store.hpp"
#include "xen/types.hpp"

/// Theory of operation
///
/// Whatever stands in a xenstore node was put there by somebody, often by the guest itself: any bytes, any length.
/// So values are read strictly, by what the whole text is, and never by what a lenient conversion makes of its
/// beginning. Each reader tells three cases apart: the key is missing (a default may hold), it is well formed, or
/// it is garbage (an error that names key, value and what was expected, safe to log).
namespace uvif::xen {

using MacAddress = std::array<std::uint8_t, 6>;

/// One to ten digits and nothing else, at most `max`. Leading zeros are digits.
[[nodiscard]] std::optional<std::uint32_t> parse_decimal(
    std::string_view text, std::uint32_t max = std::numeric_limits<std::uint32_t>::max()) noexcept;

/// A feature key: decimal, and true when it is not 0 (as Linux reads them).
[[nodiscard]] std::optional<bool> parse_flag(std::string_view text) noexcept;

/// Exactly six pairs of hexadecimal digits with colons between them.
[[nodiscard]] std::optional<MacAddress> parse_mac(std::string_view text) noexcept;

/// "/local/domain/<guest>/device/vif/<handle>"
[[nodiscard]] std::string frontend_path(DomainId guest, std::uint32_t handle);
/// "/local/domain/<backend>/backend/vif/<guest>/<handle>"
[[nodiscard]] std::string backend_path(DomainId backend, DomainId guest, std::uint32_t handle);

/// Where a backend says what is wrong with the device of `backend_path`, as Linux's xenbus does: below `error` in its
/// own domain's folder, which guests can seldom read.
[[nodiscard]] std::string error_path(DomainId backend, std::string_view backend_path);

/// Readers of one key. nullopt: the key is missing (ENOENT). Errors: EINVAL for a malformed value, and whatever
/// the store says otherwise (EACCES: the guest may make its own keys unreadable).
Result<std::optional<std::string>> read_text(Store& store, const std::string& path, Transaction t = Transaction::none);
Result<std::optional<std::uint32_t>> read_decimal(Store& store, const std::string& path, std::uint32_t max,
                                                  Transaction t = Transaction::none);
Result<std::optional<bool>> read_flag(Store& store, const std::string& path, Transaction t = Transaction::none);
Result<std::optional<MacAddress>> read_mac(Store& store, const std::string& path, Transaction t = Transaction::none);

}  // namespace uvif::xen
