// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace uvif::xen {

/// The page of the protocol, whatever the page of the operating system (xen/io/ring.h).
inline constexpr std::size_t page_size = 4096;

enum class DomainId : std::uint16_t {};
enum class GrantRef : std::uint32_t {};
enum class EventPort : std::uint32_t {};

inline constexpr DomainId dom0{0};

/// DOMID_FIRST_RESERVED of xen/xen.h: ids from here on name no ordinary domain.
inline constexpr std::uint16_t first_reserved_domain_id = 0x7ff0;

enum class Access : std::uint8_t { read_only, read_write };

}  // namespace uvif::xen
