// SPDX-License-Identifier: MIT
#include "netback/tx_parser.hpp"

#include <array>
#include <cassert>

#include "xen/types.hpp"

namespace uvif::netback {
namespace {

using ring::ExtraInfo;
using ring::ExtraType;
using ring::TxFlags;
using ring::TxRequest;
using ring::TxSlot;

TxFrame rogue(TxFrame frame, Rogue reason) noexcept {
    frame.verdict = TxFrame::Verdict::rogue;
    frame.rogue = reason;
    return frame;
}

TxFrame drop(TxFrame frame, TxDrop reason) noexcept {
    frame.verdict = TxFrame::Verdict::drop;
    frame.drop = reason;
    return frame;
}

/// Of each type the last one counts, as in Linux.
struct Extras {
    std::array<ExtraInfo, ring::extra_type_count> by_type;  // type 0: there is none

    [[nodiscard]] const ExtraInfo* find(ExtraType type) const noexcept {
        const ExtraInfo& extra = by_type[static_cast<std::size_t>(type)];
        return extra.type != 0 ? &extra : nullptr;
    }
};

/// Walks the chain behind the first request. Rogue::none when it is sound.
Rogue read_extras(std::span<const TxSlot> slots, TxFrame& frame, Extras& extras) noexcept {
    for (bool more = true; more;) {
        const std::uint32_t at = 1U + frame.extra_slots;
        if (at >= slots.size()) {
            return Rogue::extra_chain_open;
        }
        const ExtraInfo extra = slots[at].extra();
        ++frame.extra_slots;
        if (extra.type == 0 || extra.type >= ring::extra_type_count) {
            return Rogue::extra_type_invalid;
        }
        extras.by_type[extra.type] = extra;
        more = (extra.flags & ExtraInfo::more) != 0;
    }
    return Rogue::none;
}

/// Walks the data slots behind the extras. The first fault that only costs the packet is kept in `fault`; the walk goes
/// on, since all of its slots are owed an answer.
Rogue read_data(std::span<const TxSlot> slots, TxFrame& frame, TxDrop& fault) noexcept {
    std::uint32_t left = frame.length;
    for (bool more = true; more;) {
        const std::uint32_t at = frame.slots();
        if (at >= slots.size()) {
            return Rogue::data_chain_open;
        }
        if (frame.data_slots >= tx_data_slots_absurd) {
            return Rogue::absurd_slot_count;
        }
        if (frame.data_slots >= tx_data_slots_max && fault == TxDrop::count) {
            fault = TxDrop::too_many_slots;
        }
        const TxRequest request = slots[at].request();
        if (request.size > left) {
            if (fault == TxDrop::count) {
                fault = TxDrop::size_mismatch;
            }
            left = 0;
        } else {
            left -= request.size;
        }
        if (std::uint32_t{request.offset} + request.size > xen::page_size) {
            return Rogue::crosses_page;
        }
        ++frame.data_slots;
        more = request.flags.has(TxFlags::more_data);
    }
    frame.first_size = left;
    return Rogue::none;
}

}  // namespace

TxFrame parse_tx_frame(std::span<const TxSlot> slots) noexcept {
    assert(!slots.empty());
    const TxRequest first = slots[0].request();
    TxFrame frame;
    frame.data_slots = 1;
    frame.length = first.size;
    frame.first_size = first.size;
    frame.offload.checksum_blank = first.flags.has(TxFlags::checksum_blank);
    frame.offload.data_validated = first.flags.has(TxFlags::data_validated);

    Extras extras{};
    if (first.flags.has(TxFlags::extra_info)) {
        if (const Rogue reason = read_extras(slots, frame, extras); reason != Rogue::none) {
            return rogue(frame, reason);
        }
    }
    const ExtraInfo* const joins = extras.find(ExtraType::mcast_add);
    if (const ExtraInfo* const group = joins != nullptr ? joins : extras.find(ExtraType::mcast_del)) {
        // Carries no data: only the first request and its extras belong to it.
        frame.verdict = joins != nullptr ? TxFrame::Verdict::join : TxFrame::Verdict::leave;
        frame.group = group->data;
        return frame;
    }
    if (first.flags.has(TxFlags::more_data)) {
        TxDrop fault = TxDrop::count;
        if (const Rogue reason = read_data(slots, frame, fault); reason != Rogue::none) {
            return rogue(frame, reason);
        }
        if (fault != TxDrop::count) {
            return drop(frame, fault);
        }
    }
    if (frame.first_size < ring::ethernet_header_size) {
        return drop(frame, TxDrop::too_short);
    }
    if (first.offset + frame.first_size > xen::page_size) {
        return rogue(frame, Rogue::crosses_page);
    }
    if (const ExtraInfo* gso = extras.find(ExtraType::gso)) {
        const std::uint8_t type = gso->gso_type();
        if (gso->gso_size() == 0 || type == 0 || type > static_cast<std::uint8_t>(GsoType::tcpv6)) {
            return rogue(frame, Rogue::gso_invalid);
        }
        frame.offload.gso_type = static_cast<GsoType>(type);
        frame.offload.gso_size = gso->gso_size();
    }
    frame.verdict = TxFrame::Verdict::accept;
    return frame;
}

}  // namespace uvif::netback
