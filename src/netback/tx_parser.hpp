// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "netback/counters.hpp"
#include "ring/netif.hpp"

namespace uvif::netback {

inline constexpr std::uint32_t tx_data_slots_max = 19;     ///< 1 + XEN_NETBK_LEGACY_SLOTS_MAX: accepted
inline constexpr std::uint32_t tx_data_slots_absurd = 21;  ///< 1 + fatal_skb_slots: beyond it no mere bug

/// One packet of the TX ring as the guest described it, judged; or a request that came in the place of one. A dropped
/// one still says which slots are owed an answer: all `slots()` of them, whatever the verdict (but a rogue's ring is
/// never touched again).
struct TxFrame {
    enum class Verdict : std::uint8_t { accept, drop, rogue, join, leave };

    Verdict verdict = Verdict::rogue;
    TxDrop drop = TxDrop::count;
    Rogue rogue = Rogue::none;
    std::uint16_t data_slots = 0;  ///< first request included
    std::uint16_t extra_slots = 0;
    std::uint32_t length = 0;      ///< of the whole packet
    std::uint32_t first_size = 0;  ///< of the piece in the first slot
    Offload offload;
    std::array<std::uint8_t, 6> group{};  ///< to join or to leave: such a request has no data

    [[nodiscard]] std::uint32_t slots() const noexcept { return std::uint32_t{data_slots} + extra_slots; }
    /// Position, from the frame's first slot, of data slot n: the extras stand after the first.
    [[nodiscard]] std::uint32_t data_at(std::uint32_t n) const noexcept { return n == 0 ? 0 : n + extra_slots; }
};

/// Reads the packet that begins at slots[0] (at least one slot). `slots` is everything that the guest has published:
/// a chain that does not end inside it is a broken promise, since packets are published whole.
/// Pure: private copies in, a value out. Verdicts and their order follow Linux xen-netback.
[[nodiscard]] TxFrame parse_tx_frame(std::span<const ring::TxSlot> slots) noexcept;

}  // namespace uvif::netback
