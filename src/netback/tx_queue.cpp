// SPDX-License-Identifier: MIT
#include "netback/tx_queue.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "runtime/clock.hpp"
#include "runtime/limits.hpp"

namespace uvif::netback {

using ring::TxRequest;
using ring::TxStatus;

Result<std::unique_ptr<TxQueue>> TxQueue::create(ring::TxBackRing ring, xen::DomainId domain, xen::GrantTable& grants,
                                                 Port& port, FetchStrategy strategy, TxCredit& credit) {
    auto buffers = BufferPool::create(packets_in_flight_max, xen::page_size - 1 + limits::packet_length + 1);
    if (!buffers) {
        return propagate(buffers);
    }
    return std::unique_ptr<TxQueue>(new TxQueue(ring, domain, grants, port, strategy, credit, std::move(*buffers)));
}

TxQueue::TxQueue(ring::TxBackRing ring, xen::DomainId domain, xen::GrantTable& grants, Port& port,
                 FetchStrategy strategy, TxCredit& credit, BufferPool buffers)
    : ring_(ring),
      domain_(domain),
      port_(port),
      strategy_(strategy),
      credit_(credit),
      grants_(grants),
      packets_(packets_in_flight_max),
      buffers_(std::move(buffers)),
      regions_(grants, strategy == FetchStrategy::map_each) {
    free_packets_.reserve(packets_.size());
    for (TxPacket& packet : packets_) {
        packet.home = &home_;
        free_packets_.push_back(&packet);
    }
}

bool TxQueue::gather(CopyBatch& copies) noexcept {
    if (rogue_ != Rogue::none) {
        return false;
    }
    bool worked = false;
    if (!home_.empty()) {
        collect_completions();
        worked = true;
    }
    // Back-pressure: what the port cannot take stays in the ring, and the guest sees it fill.
    if (port_.writable() && take()) {
        parse();
        worked |= slots_begin_ != 0;
        fetch(copies);
    }
    return worked;
}

/// The guest's pages first, its answers second.
bool TxQueue::publish(const CopyBatch& copies) noexcept {
    settle(copies);
    return answer();
}

bool TxQueue::sends_little() const noexcept {
    std::size_t octets = 0;
    for (const TxPacket* packet : std::span(batch_.data(), batch_count_)) {
        octets += packet->length;
    }
    return octets <= xen::page_size;
}

bool TxQueue::abandon() noexcept {
    port_.flush(true);
    collect_completions();
    if (rogue_ != Rogue::none) {
        answer_count_ = 0;
    }
    return answer();
}

/// True when there are slots to parse. Takes all that the ring has: a packet's slots are published together, so
/// what has been taken ends with the end of a packet, or the guest is at fault.
bool TxQueue::take() noexcept {
    if (slots_begin_ != 0) {
        std::copy(slots_.begin() + slots_begin_, slots_.begin() + slots_end_, slots_.begin());
        slots_end_ -= slots_begin_;
        slots_begin_ = 0;
    }
    const ring::Taken taken = ring_.take(std::span(slots_).subspan(slots_end_));
    if (taken.impossible) {
        rogue_ = Rogue::impossible_producer;
        return false;
    }
    slots_end_ += taken.count;
    counters_.slots += taken.count;
    return unparsed() != 0;
}

void TxQueue::parse() noexcept {
    std::size_t bytes = 0;
    resume_ns_ = 0;
    while (unparsed() != 0 && batch_count_ < packets_per_turn && bytes < bytes_per_turn && !free_packets_.empty()) {
        const auto rest = std::span<const ring::TxSlot>(slots_).subspan(slots_begin_, unparsed());
        const TxFrame frame = parse_tx_frame(rest);
        switch (frame.verdict) {
            case TxFrame::Verdict::rogue:
                // What came before it in this turn was honest and goes out; nothing is taken any more.
                rogue_ = frame.rogue;
                return;
            case TxFrame::Verdict::drop:
                ++counters_.drops[static_cast<std::size_t>(frame.drop)];
                owe_frame(slots_begin_, frame, TxStatus::error);
                break;
            case TxFrame::Verdict::accept:
                resume_ns_ = credit_.pay(frame.length);
                if (resume_ns_ != 0) {
                    ++counters_.held_back;
                    return;
                }
                begin_packet(frame);
                bytes += frame.length;
                break;
        }
        slots_begin_ += frame.slots();
    }
}

void TxQueue::begin_packet(const TxFrame& frame) noexcept {
    TxPacket& packet = *free_packets_.back();
    free_packets_.pop_back();
    packet.frame = frame;
    packet.slot = slots_begin_;
    packet.length = frame.length;
    packet.offload = frame.offload;
    packet.region = Regions::none;
    packet.left = false;
    packet.granted = nullptr;
    packet.route = nullptr;
    packet.failed_slots = 0;
    packet.buffer = buffers_.take();  // as many buffers as packets: never empty-handed
    batch_[batch_count_++] = &packet;
}

/// Leaves or maps what is to be, and copies all else: headers, and whole packets.
void TxQueue::fetch(CopyBatch& copies) noexcept {
    if (port_.prefers_granted()) {
        for (TxPacket* packet : std::span(batch_.data(), batch_count_)) {
            leave(*packet);
        }
    } else if (strategy_ != FetchStrategy::copy) {
        map_payloads();
    }
    for (TxPacket* packet : std::span(batch_.data(), batch_count_)) {
        plan_copy(*packet, copies);
    }
}

/// Packets of more than a header are mapped, in calls of up to 64 pages.
void TxQueue::map_payloads() noexcept {
    std::array<TxPacket*, packets_per_turn> group;
    std::size_t count = 0;
    std::size_t pages = 0;
    for (TxPacket* packet : std::span(batch_.data(), batch_count_)) {
        if (packet->length <= header_size) {
            continue;
        }
        const bool alone = strategy_ == FetchStrategy::map_each && count != 0;
        if (alone || pages + packet->frame.data_slots > Regions::pages_max) {
            map_region(std::span(group.data(), count));
            count = pages = 0;
        }
        group[count++] = packet;
        pages += packet->frame.data_slots;
    }
    if (count != 0) {
        map_region(std::span(group.data(), count));
    }
}

/// When the call fails the packets simply stay unmapped, and the copy that follows finds the bad slot.
void TxQueue::map_region(std::span<TxPacket* const> packets) noexcept {
    std::array<xen::GrantRef, Regions::pages_max> refs;
    std::array<std::byte*, Regions::pages_max> pages;
    std::size_t count = 0;
    for (const TxPacket* packet : packets) {
        for (std::uint32_t n = 0; n < packet->frame.data_slots; ++n) {
            const TxRequest request = data_slot(*packet, n);
            if (data_size(*packet, n, request) != 0) {
                refs[count++] = xen::GrantRef{request.gref};
            }
        }
    }
    const Regions::Handle region = regions_.map(domain_, std::span(refs.data(), count), pages);
    if (region == Regions::none) {
        return;
    }
    std::size_t page = 0;
    for (TxPacket* packet : packets) {
        packet->region = region;
        regions_.use(region);
        packet->fragment_count = 1;  // the header, which plan_copy fills in
        remember_ids(*packet);
        // Every slot that is not empty has a page, also those that are all header.
        each_part(*packet, 0, packet->length, [&](const Part& part) {
            const std::uint32_t in_header = std::min(header_size - std::min(header_size, part.at), part.size);
            if (in_header < part.size) {
                packet->fragments[packet->fragment_count++] = {pages[page] + part.offset + in_header,
                                                               part.size - in_header};
            }
            ++page;
        });
    }
}

/// The packet's slots are answered when this turn's are gone.
void TxQueue::remember_ids(TxPacket& packet) noexcept {
    for (std::uint32_t n = 0; n < packet.frame.data_slots; ++n) {
        packet.ids[n] = data_slot(packet, n).id;
    }
}

/// Leaves all but the header where it is.
void TxQueue::leave(TxPacket& packet) noexcept {
    if (packet.length <= header_size) {
        return;
    }
    packet.left = true;
    packet.owner = domain_;
    packet.granted = packet.places.data();
    packet.fragment_count = 1;  // the header, which plan_copy fills in
    remember_ids(packet);
    each_part(packet, header_size, packet.length, [&packet](const Part& part) {
        packet.places[packet.fragment_count] = {part.ref, part.offset};
        packet.fragments[packet.fragment_count++] = {nullptr, part.size};
    });
}

/// Calls visit(Part) for each data slot that has some of the packet's octets [begin, end).
template <class Visit>
void TxQueue::each_part(const TxPacket& packet, std::uint32_t begin, std::uint32_t end, Visit visit) const noexcept {
    std::uint32_t at = 0;
    for (std::uint32_t n = 0; n < packet.frame.data_slots && at < end; ++n) {
        const TxRequest request = data_slot(packet, n);
        const std::uint32_t next = at + data_size(packet, n, request);
        const std::uint32_t from = std::max(at, begin);
        const std::uint32_t to = std::min(next, end);
        if (from < to) {  // XSA-448: the reference of an empty slot is not looked at
            visit(Part{.slot = n,
                       .at = from,
                       .size = to - from,
                       .ref = xen::GrantRef{request.gref},
                       .offset = static_cast<std::uint16_t>(request.offset + (from - at))});
        }
        at = next;
    }
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

/// Judges the copies. Copied packets have left the guest's pages: their slots are answered now. Mapped ones, and those
/// left in the guest's pages, are answered when they come home.
void TxQueue::settle(const CopyBatch& copies) noexcept {
    std::size_t good = 0;
    for (TxPacket* packet : std::span(batch_.data(), batch_count_)) {
        if (!copied_well(*packet, copies)) {
            fail_packet(*packet, copies);
            continue;
        }
        if (packet->region != Regions::none) {
            ++counters_.by_map;
        } else if (!packet->left) {
            owe_frame(packet->slot, packet->frame, TxStatus::okay);
            ++counters_.by_copy;
        }
        counters_.bytes += packet->length;
        counters_.gso_packets += packet->offload.gso_type != GsoType::none ? 1 : 0;
        batch_[good++] = packet;
    }
    counters_.packets += good;
    batch_count_ = good;
}

/// The slots whose copy failed are answered with an error, the others are not: as Linux does.
void TxQueue::fail_packet(TxPacket& packet, const CopyBatch& copies) noexcept {
    ++counters_.drops[static_cast<std::size_t>(TxDrop::grant_failed)];
    remember_ids(packet);
    std::uint32_t segment = packet.first_segment;
    each_part(packet, packet.copied_from, packet.copied_to,
              [&](const Part& part) { packet.failed_slots |= copies.ok(segment++) ? 0 : 1U << part.slot; });
    if (packet.region == Regions::none) {
        owe_late(packet);
    } else {
        let_go(packet);
    }
}

/// A mapped packet is done with. Its slots are answered when its region goes, which other packets may still hold.
void TxQueue::let_go(TxPacket& packet) noexcept {
    TxPacket*& done = done_[packet.region];
    packet.next = done;
    done = &packet;
    if (!regions_.drop(packet.region)) {
        return;
    }
    for (Packet* next = std::exchange(done, nullptr); next != nullptr;) {
        auto& finished = static_cast<TxPacket&>(*next);
        next = next->next;
        owe_late(finished);
    }
}

/// Answers a packet from what it remembers of its slots, and gives it back.
void TxQueue::owe_late(TxPacket& packet) noexcept {
    for (std::uint32_t n = 0; n < packet.frame.data_slots; ++n) {
        owe(packet.ids[n], (packet.failed_slots >> n & 1U) != 0 ? TxStatus::error : TxStatus::okay);
        if (n == 0) {
            owe_nulls(packet.frame.extra_slots);
        }
    }
    recycle(packet);
}

void TxQueue::send(CopyBatch& copies) noexcept {
    if (batch_count_ == 0) {
        return;
    }
    // The array is one of pointers to a derived type with a single base: hand the port its own.
    std::array<Packet*, packets_per_turn> packets;
    std::copy_n(batch_.begin(), batch_count_, packets.begin());
    port_.classify(std::span<Packet* const>(packets.data(), batch_count_));
    for (TxPacket* packet : std::span(batch_.data(), batch_count_)) {
        if (packet->region != Regions::none) {
            packet->route = nullptr;  // a page mapped from one guest cannot be copied from to another (gntdev)
        }
    }
    fetch_rest(copies);
    std::copy_n(batch_.begin(), batch_count_, packets.begin());
    port_.submit(std::span<Packet* const>(packets.data(), batch_count_));
    batch_count_ = 0;
    collect_completions();  // most ports finish inside the call
    watch_hold();
}

/// The clock is looked at only while the port holds packets.
void TxQueue::watch_hold() noexcept {
    if (port_.writable() || regions_.held() == 0) {
        hold_ends_ns_ = 0;
    } else if (hold_ends_ns_ == 0) {
        hold_ends_ns_ = monotonic_ns() + limits::hold_ns;
    }
}

void TxQueue::release_held() noexcept {
    hold_ends_ns_ = 0;
    for (Packet* packet : port_.held()) {
        auto& mapped = static_cast<TxPacket&>(*packet);
        if (mapped.region == Regions::none) {
            continue;
        }
        if (free_packets_.empty()) {
            hold_ends_ns_ = monotonic_ns() + limits::hold_ns;
            return;
        }
        copy_apart(mapped);
    }
}

/// The packet goes on without its region. What is owed for its slots, another packet remembers until the region goes.
void TxQueue::copy_apart(TxPacket& packet) noexcept {
    std::byte* to = packet.fragments[0].data + packet.fragments[0].length;
    for (const Fragment& piece : packet.pieces().subspan(1)) {
        std::memcpy(to, piece.data, piece.length);
        to += piece.length;
    }
    packet.fragment_count = 1;
    packet.fragments[0].length = packet.length;
    counters_.copied_bytes += packet.length - header_size;
    ++counters_.lazy_copies;

    TxPacket& debtor = *free_packets_.back();
    free_packets_.pop_back();
    debtor.frame = packet.frame;
    debtor.ids = packet.ids;
    debtor.failed_slots = packet.failed_slots;
    debtor.region = std::exchange(packet.region, Regions::none);
    debtor.buffer = buffers_.take();
    let_go(debtor);
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

void TxQueue::collect_completions() noexcept {
    for (Packet* next = home_.take_all(); next != nullptr;) {
        auto& packet = static_cast<TxPacket&>(*next);
        next = next->next;
        if (packet.left) {
            owe_late(packet);
        } else if (packet.region == Regions::none) {
            recycle(packet);
        } else {
            let_go(packet);
        }
    }
}

bool TxQueue::answer() noexcept {
    regions_.unmap_released();
    if (answer_count_ == 0) {
        return false;
    }
    ring_.respond(std::span(answers_.data(), answer_count_));
    answer_count_ = 0;
    return ring_.push_and_check_notify();
}

void TxQueue::owe_nulls(std::uint32_t count) noexcept {
    for (; count != 0; --count) {
        owe(0, TxStatus::null);
    }
}

void TxQueue::owe_frame(std::uint32_t slot, const TxFrame& frame, TxStatus status) noexcept {
    for (std::uint32_t n = 0; n < frame.data_slots; ++n) {
        owe(slots_[slot + frame.data_at(n)].request().id, status);
        if (n == 0) {
            owe_nulls(frame.extra_slots);
        }
    }
}

void TxQueue::recycle(TxPacket& packet) noexcept {
    buffers_.give(packet.buffer);
    packet.buffer = nullptr;
    free_packets_.push_back(&packet);
}

TxCounters TxQueue::counters() const noexcept {
    TxCounters counters = counters_;
    counters.map_calls = regions_.map_calls;
    counters.unmap_calls = regions_.unmap_calls;
    counters.unmap_errors = regions_.unmap_errors;
    return counters;
}

}  // namespace uvif::netback
