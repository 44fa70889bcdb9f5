// SPDX-License-Identifier: MIT
//
// The wire of xen/io/netif.h under C++ names. Everything here is a value: private copies of what
// stands in a shared ring. Asserted against the header in netif_layout.cpp.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "uvif/offload.hpp"

namespace uvif::ring {

inline constexpr std::uint32_t ethernet_header_size = 14;

/// Flags of a TX request (NETTXF_*). Not RxFlags: bits 0 and 1 mean the opposite there.
struct TxFlags {
    static constexpr std::uint16_t checksum_blank = 1;
    static constexpr std::uint16_t data_validated = 2;
    static constexpr std::uint16_t more_data = 4;
    static constexpr std::uint16_t extra_info = 8;

    std::uint16_t bits = 0;
    [[nodiscard]] constexpr bool has(std::uint16_t flag) const noexcept { return (bits & flag) != 0; }
    bool operator==(const TxFlags&) const = default;
};

/// Flags of an RX response (NETRXF_*). Not TxFlags.
struct RxFlags {
    static constexpr std::uint16_t data_validated = 1;
    static constexpr std::uint16_t checksum_blank = 2;
    static constexpr std::uint16_t more_data = 4;
    static constexpr std::uint16_t extra_info = 8;

    std::uint16_t bits = 0;
    [[nodiscard]] constexpr bool has(std::uint16_t flag) const noexcept { return (bits & flag) != 0; }
    bool operator==(const RxFlags&) const = default;
};

struct TxRequest {
    std::uint32_t gref = 0;
    std::uint16_t offset = 0;
    TxFlags flags;
    std::uint16_t id = 0;
    std::uint16_t size = 0;  ///< of the whole packet in its first request, of the slot in the others
};

enum class TxStatus : std::int16_t { dropped = -2, error = -1, okay = 0, null = 1 };

struct TxResponse {
    std::uint16_t id = 0;
    std::int16_t status = 0;
};

struct RxRequest {
    std::uint16_t id = 0;
    std::uint16_t pad = 0;
    std::uint32_t gref = 0;
};

struct RxResponse {
    std::uint16_t id = 0;
    std::uint16_t offset = 0;
    RxFlags flags;
    std::int16_t status = 0;  ///< >= 0: octets in this page; below 0: error
};

enum class ExtraType : std::uint8_t { none = 0, gso = 1, mcast_add = 2, mcast_del = 3, hash = 4 };
inline constexpr std::uint8_t extra_type_count = 5;  // XEN_NETIF_EXTRA_TYPE_MAX

/// struct netif_extra_info: overlays a TX request or an RX response.
struct ExtraInfo {
    static constexpr std::uint8_t more = 1;

    std::uint8_t type = 0;
    std::uint8_t flags = 0;
    std::array<std::uint8_t, 6> data{};

    /// u.gso: u16 size, u8 type, u8 pad, u16 features (all 0 beside size and type).
    static constexpr ExtraInfo gso(GsoType gso_type, std::uint16_t size) noexcept {
        ExtraInfo extra;
        extra.type = static_cast<std::uint8_t>(ExtraType::gso);
        extra.data[0] = static_cast<std::uint8_t>(size & 0xff);
        extra.data[1] = static_cast<std::uint8_t>(size >> 8);
        extra.data[2] = static_cast<std::uint8_t>(gso_type);
        return extra;
    }
    [[nodiscard]] constexpr std::uint16_t gso_size() const noexcept {
        return static_cast<std::uint16_t>(data[0] | (data[1] << 8));
    }
    [[nodiscard]] constexpr std::uint8_t gso_type() const noexcept { return data[2]; }

    /// u.mcast: u8 addr[6]. `type` is mcast_add or mcast_del.
    static constexpr ExtraInfo multicast(ExtraType type, const std::array<std::uint8_t, 6>& group) noexcept {
        return {.type = static_cast<std::uint8_t>(type), .flags = 0, .data = group};
    }

    /// u.hash: u8 type (a HashType), u8 algorithm, u8 value[4], the least significant first.
    static constexpr ExtraInfo hash(std::uint8_t hash_type, std::uint32_t value) noexcept {
        ExtraInfo extra;
        extra.type = static_cast<std::uint8_t>(ExtraType::hash);
        extra.data = {hash_type,
                      1,  // Toeplitz
                      static_cast<std::uint8_t>(value),
                      static_cast<std::uint8_t>(value >> 8),
                      static_cast<std::uint8_t>(value >> 16),
                      static_cast<std::uint8_t>(value >> 24)};
        return extra;
    }
    [[nodiscard]] constexpr std::uint8_t hash_type() const noexcept { return data[0]; }
    [[nodiscard]] constexpr std::uint32_t hash_value() const noexcept {
        return std::uint32_t{data[2]} | std::uint32_t{data[3]} << 8 | std::uint32_t{data[4]} << 16 |
               std::uint32_t{data[5]} << 24;
    }
};

/// A TX slot as copied out of the ring: which of the two it is only its place in the chain tells.
struct TxSlot {
    std::array<std::uint32_t, 3> words{};

    static constexpr TxSlot from(const TxRequest& request) noexcept { return std::bit_cast<TxSlot>(request); }
    static constexpr TxSlot from(const ExtraInfo& extra) noexcept {
        const auto w = std::bit_cast<std::array<std::uint32_t, 2>>(extra);
        return TxSlot{{w[0], w[1], 0}};
    }
    [[nodiscard]] constexpr TxRequest request() const noexcept { return std::bit_cast<TxRequest>(*this); }
    [[nodiscard]] constexpr ExtraInfo extra() const noexcept {
        return std::bit_cast<ExtraInfo>(std::array<std::uint32_t, 2>{words[0], words[1]});
    }
};

/// An RX answer as it stands in the ring: a response, or the extra that follows one.
struct RxSlot {
    std::array<std::uint32_t, 2> words{};

    static constexpr RxSlot from(const RxResponse& response) noexcept { return std::bit_cast<RxSlot>(response); }
    static constexpr RxSlot from(const ExtraInfo& extra) noexcept { return std::bit_cast<RxSlot>(extra); }
    [[nodiscard]] constexpr RxResponse response() const noexcept { return std::bit_cast<RxResponse>(*this); }
    [[nodiscard]] constexpr ExtraInfo extra() const noexcept { return std::bit_cast<ExtraInfo>(*this); }
};

/// Requests of the control ring (XEN_NETIF_CTRL_TYPE_*).
enum class CtrlType : std::uint16_t {
    get_hash_flags = 1,
    set_hash_flags,
    set_hash_key,
    get_hash_mapping_size,
    set_hash_mapping_size,
    set_hash_mapping,
    set_hash_algorithm,
    get_gref_mapping_size,
    add_gref_mapping,
    del_gref_mapping,
};
enum class CtrlStatus : std::uint32_t { success = 0, not_supported = 1, invalid_parameter = 2, buffer_overflow = 3 };

enum class HashAlgorithm : std::uint32_t { none = 0, toeplitz = 1 };

/// An entry of the lists that static grants come in (struct xen_netif_gref).
struct GrefEntry {
    static constexpr std::uint16_t read_only = 1;

    std::uint32_t ref = 0;
    std::uint16_t flags = 0;
    std::uint16_t status = 0;  ///< out: a CtrlStatus
};

struct CtrlRequest {
    std::uint16_t id = 0;
    std::uint16_t type = 0;
    std::array<std::uint32_t, 3> data{};
};

struct CtrlResponse {
    std::uint16_t id = 0;
    std::uint16_t type = 0;
    std::uint32_t status = 0;
    std::uint32_t data = 0;
};

}  // namespace uvif::ring
