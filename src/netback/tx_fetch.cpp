// SPDX-License-Identifier: MIT
//
// The stage of TxQueue that fetches packets from the guest's pages.
#include <algorithm>
#include <cstring>
#include <utility>

#include "netback/tx_queue.hpp"
#include "packet/headers.hpp"

namespace uvif::netback {

using ring::TxRequest;
using ring::TxStatus;

namespace {

/// These first octets of a packet, an Ethernet header at least, are all that a port parses of it.
bool holds_headers(const Offload& offload, std::span<const std::byte> octets) noexcept {
    if (!offload.checksum_blank && offload.gso_type == GsoType::none) {
        return true;
    }
    const Headers headers = parse_headers(octets);
    return headers.depth == HeaderDepth::transport &&
           std::size_t{headers.l4_offset} + headers.l4_header_length <= octets.size();
}

}  // namespace

/// Leaves or maps what is to be, and copies all else: headers, and whole packets.
void TxQueue::fetch(CopyBatch& copies) noexcept {
    const std::span<TxPacket* const> packets(batch_.data(), batch_count_);
    if (port_.prefers_granted()) {
        leave_payloads(packets);
    } else {
        if (statics_ != nullptr) {
            take_statics(packets);
        }
        if (may_map_) {
            map_payloads(packets);
        }
    }
    for (TxPacket* packet : packets) {
        if (!packet->fetched) {
            plan_copy(*packet, copies);
        }
    }
}

void TxQueue::leave_payloads(std::span<TxPacket* const> packets) noexcept {
    HoldRoom room = room_to_hold();
    for (TxPacket* packet : packets) {
        if (packet->length > header_size && room.has(*packet)) {
            room.take(*packet);
            leave(*packet);
        }
    }
}

void TxQueue::take_statics(std::span<TxPacket* const> packets) noexcept {
    HoldRoom room = room_to_hold();
    for (TxPacket* packet : packets) {
        packet->fetched = take_static(*packet, room);
        if (packet->in_place) {
            room.take(*packet);
        }
    }
}

/// True when all of the packet's pages stay mapped: then it has been fetched, and its payload stays there if its slots
/// may be held. It is not even looked at where the guest has put the headers apart.
bool TxQueue::take_static(TxPacket& packet, const HoldRoom& room) noexcept {
    const bool in_place = packet.length > header_size && room.has(packet);
    std::uint32_t octets = in_place ? header_size : packet.length;
    std::byte* const copy = packet.buffer + start_in_page(packet);
    std::uint16_t fragments = 1;  // the copy
    bool all = true;
    each_part(packet, 0, packet.length, [&](const Part& part) {
        std::byte* const page = statics_->find(std::to_underlying(part.ref));
        if (page == nullptr) {
            all = false;
            if (learner_ != nullptr) {
                learner_->miss(std::to_underlying(part.ref), xen::Access::read_only);
            }
            return;
        }
        std::byte* const data = page + part.offset;
        const std::uint32_t copied = std::min(octets - std::min(octets, part.at), part.size);
        std::memcpy(copy + part.at, data, copied);
        if (in_place && part.at == 0 && holds_headers(packet.offload, {copy, copied})) {
            octets = copied;
        }
        if (copied < part.size) {
            packet.fragments[fragments++] = {data + copied, part.size - copied};
        }
    });
    if (!all) {
        counters_.static_misses += packet.frame.data_slots;
        return false;
    }
    counters_.static_hits += packet.frame.data_slots;
    packet.fragments[0] = {copy, octets};
    packet.fragment_count = fragments;
    packet.segments = 0;
    counters_.copied_bytes += octets;
    if (in_place) {
        packet.in_place = true;
        ++in_place_;
        hold_slots(packet);
        remember_slots(packet);
    }
    return true;
}

bool TxQueue::uses(const std::byte* page) const noexcept {
    return in_place_ != 0 && std::ranges::any_of(packets_.made(), [page](const TxPacket& packet) {
               return packet.in_place && std::ranges::any_of(packet.pieces().subspan(1), [page](const Fragment& piece) {
                          return piece.data >= page && piece.data < page + xen::page_size;
                      });
           });
}

/// Packets of more than a header are mapped, in calls of up to 64 pages; with `auto` those that are worth it, in calls
/// that are worth it.
void TxQueue::map_payloads(std::span<TxPacket* const> packets) noexcept {
    const bool automatic = fetch_.strategy == FetchStrategy::automatic;
    std::array<TxPacket*, packets_per_turn> group;
    std::size_t count = 0;
    std::size_t pages = 0;
    std::int64_t gain = 0;
    HoldRoom room = room_to_hold();
    const auto map_group = [&] {
        if (count != 0 && (!automatic || gain > fetch_.terms.call)) {
            map_region(std::span(group.data(), count));
        }
        count = pages = 0;
        gain = 0;
    };
    for (TxPacket* packet : packets) {
        const TxFrame& frame = packet->frame;
        if (packet->fetched || frame.length <= header_size || !room.has(*packet)) {
            continue;
        }
        const std::uint32_t to_map = frame.data_slots - (frame.first_size <= header_size ? 1U : 0U);
        const std::int64_t own_gain = fetch_.terms.gain(frame.length - header_size, frame.data_slots, to_map);
        if (automatic && own_gain <= 0) {
            continue;
        }
        if (pages + to_map > Regions::pages_max || fetch_.unmap == UnmapStrategy::each) {
            map_group();
        }
        room.take(*packet);
        group[count++] = packet;
        pages += to_map;
        gain += own_gain;
    }
    map_group();
}

/// When the call fails the packets simply stay unmapped, and the copy that follows finds the bad slot.
void TxQueue::map_region(std::span<TxPacket* const> packets) noexcept {
    std::array<xen::GrantRef, Regions::pages_max> refs;
    std::array<std::byte*, Regions::pages_max> pages;
    std::size_t count = 0;
    for (const TxPacket* packet : packets) {
        each_part(*packet, header_size, packet->length, [&](const Part& part) { refs[count++] = part.ref; });
    }
    const Regions::Handle region = regions_.map(domain_, std::span(refs.data(), count), pages);
    if (region == Regions::none) {
        return;
    }
    std::size_t page = 0;
    for (TxPacket* packet : packets) {
        packet->region = region;
        hold_slots(*packet);
        regions_.use(region);
        packet->fragment_count = 1;  // the header, which plan_copy fills in
        remember_slots(*packet);
        each_part(*packet, header_size, packet->length, [&](const Part& part) {
            packet->fragments[packet->fragment_count++] = {pages[page++] + part.offset, part.size};
        });
    }
}

TxQueue::HoldRoom TxQueue::room_to_hold() const noexcept {
    HoldRoom room{.pins_from = port_.pins_from()};
    if (!vif_held_.full()) {
        constexpr std::uint32_t pinned = limits::pinned_slots_per_queue;
        room.slots = std::uint32_t{ring::TxBackRing::size} - held_slots_;
        room.pinned = fetch_.may_pin ? pinned - std::min(pinned, held_slots_) : 0;
    }
    return room;
}

void TxQueue::hold_slots(TxPacket& packet) noexcept {
    packet.held_slots = packet.frame.slots();
    held_slots_ += packet.held_slots;
}

void TxQueue::release_slots(TxPacket& packet) noexcept {
    held_slots_ -= std::exchange(packet.held_slots, 0);
}

/// The packet's slots are answered when this turn's are gone.
void TxQueue::remember_slots(TxPacket& packet) noexcept {
    for (std::uint32_t n = 0; n < packet.frame.data_slots; ++n) {
        packet.ids[n] = data_slot(packet, n).id;
    }
    std::copy_n(lines_.begin() + packet.slot, packet.frame.slots(), packet.lines.begin());
}

/// Leaves all but the header where it is.
void TxQueue::leave(TxPacket& packet) noexcept {
    packet.left = true;
    hold_slots(packet);
    packet.owner = domain_;
    packet.granted = packet.places.data();
    packet.fragment_count = 1;  // the header, which plan_copy fills in
    remember_slots(packet);
    each_part(packet, header_size, packet.length, [&packet](const Part& part) {
        packet.places[packet.fragment_count] = {part.ref, part.offset};
        packet.fragments[packet.fragment_count++] = {nullptr, part.size};
    });
}

/// Where in its page the packet's copy begins. A copy whose local side crosses a page is two to the kernel (gntdev), so
/// the pages of a packet's payload are copied to the places that they have in the guest's pages.
std::uint32_t TxQueue::start_in_page(const TxPacket& packet) const noexcept {
    const TxRequest first = data_slot(packet, 0);
    if (packet.frame.data_slots == 1) {
        return first.offset;
    }
    return (data_slot(packet, 1).offset - packet.frame.first_size) % xen::page_size;
}

/// Adds the copies of the packet's header, or of all of it, to the batch.
void TxQueue::plan_copy(TxPacket& packet, CopyBatch& copies) noexcept {
    const bool whole = packet.region == Regions::none && !packet.left;
    const std::uint32_t octets = whole ? packet.length : std::min(packet.length, header_size);
    packet.fragments[0] = {packet.buffer + start_in_page(packet), octets};
    if (whole) {
        packet.fragment_count = 1;
    }
    plan_octets(packet, 0, octets, copies);
}

/// Octets [begin, end) of the packet, to behind those before them.
void TxQueue::plan_octets(TxPacket& packet, std::uint32_t begin, std::uint32_t end, CopyBatch& copies) noexcept {
    packet.copied_from = begin;
    packet.copied_to = end;
    packet.first_segment = copies.size();
    each_part(packet, begin, end, [&](const Part& part) {
        copies.add(xen::CopySegment::from_guest(domain_, part.ref, part.offset, packet.fragments[0].data + part.at,
                                                static_cast<std::uint16_t>(part.size)));
    });
    packet.segments = copies.size() - packet.first_segment;
    counters_.copied_bytes += end - begin;
}

bool TxQueue::copied_well(const TxPacket& packet, const CopyBatch& copies) const noexcept {
    bool ok = true;
    for (std::uint32_t s = 0; s < packet.segments; ++s) {
        ok &= copies.ok(packet.first_segment + s);
    }
    return ok;
}

/// Of packets left in the guest's pages that are not passed on from there.
void TxQueue::fetch_rest(CopyBatch& copies) noexcept {
    copies.clear();
    for (TxPacket* packet : std::span(batch_.data(), batch_count_)) {
        if (packet->left && packet->route == nullptr) {
            plan_octets(*packet, header_size, packet->length, copies);
        }
    }
    if (copies.empty()) {
        return;
    }
    ++counters_.copy_calls;
    copies.flush(grants_);
    std::size_t good = 0;
    for (TxPacket* packet : std::span(batch_.data(), batch_count_)) {
        if (packet->left && packet->route == nullptr) {
            packet->left = false;
            release_slots(*packet);
            if (!copied_well(*packet, copies)) {
                --counters_.packets;
                counters_.bytes -= packet->length;
                fail_packet(*packet, copies);
                continue;
            }
            owe_frame(packet->slot, packet->frame, TxStatus::okay);
            ++counters_.by_copy;
            packet->granted = nullptr;
            packet->fragment_count = 1;
            packet->fragments[0].length = packet->length;
        }
        batch_[good++] = packet;
    }
    batch_count_ = good;
}

}  // namespace uvif::netback
