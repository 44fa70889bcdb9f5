// SPDX-License-Identifier: MIT
#include "netback/tx_queue.hpp"

#include <algorithm>
#include <utility>

#include "packet/pieces.hpp"
#include "runtime/clock.hpp"
#include "runtime/limits.hpp"

namespace uvif::netback {

using ring::TxRequest;
using ring::TxStatus;

Result<std::unique_ptr<TxQueue>> TxQueue::create(ring::TxBackRing ring, xen::DomainId domain, xen::GrantTable& grants,
                                                 Port& port, const FetchPolicy& fetch, TxCredit& credit,
                                                 HeldSlots& vif_held) {
    auto buffers = CopyBuffers::create(grants, packets_in_flight_max, limits::self_granted_tx_buffers,
                                       xen::page_size - 1 + limits::packet_length + 1);
    if (!buffers) {
        return propagate(buffers);
    }
    return std::unique_ptr<TxQueue>(
        new TxQueue(ring, domain, grants, port, fetch, credit, vif_held, std::move(*buffers)));
}

TxQueue::TxQueue(ring::TxBackRing ring, xen::DomainId domain, xen::GrantTable& grants, Port& port,
                 const FetchPolicy& fetch, TxCredit& credit, HeldSlots& vif_held, CopyBuffers buffers)
    : ring_(ring),
      domain_(domain),
      port_(port),
      fetch_(fetch),
      may_map_(fetch.strategy == FetchStrategy::map ||
               (fetch.strategy == FetchStrategy::automatic && fetch.terms.frame_octets != 0)),
      credit_(credit),
      vif_held_(vif_held),
      grants_(grants),
      packets_(packets_in_flight_max),
      buffers_(std::move(buffers)),
      regions_(grants, fetch.unmap == UnmapStrategy::each) {}

TxQueue::~TxQueue() {
    vif_held_.change(-static_cast<std::int32_t>(told_slots_));
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
    if (!stopped_ && port_.writable() && take()) {
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

void TxQueue::stop() noexcept {
    stopped_ = true;
    port_.flush(true);
}

bool TxQueue::drained() noexcept {
    collect_completions();
    return in_flight() == 0;
}

bool TxQueue::abandon() noexcept {
    stop();
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
        std::copy(lines_.begin() + slots_begin_, lines_.begin() + slots_end_, lines_.begin());
        slots_end_ -= slots_begin_;
        slots_begin_ = 0;
    }
    const ring::Taken taken = ring_.take(std::span(slots_).subspan(slots_end_), std::span(lines_).subspan(slots_end_));
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
    while (unparsed() != 0 && batch_count_ < packets_per_turn && bytes < bytes_per_turn && !packets_.empty()) {
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
            case TxFrame::Verdict::join:
            case TxFrame::Verdict::leave:
                answer_group(frame);
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
    TxPacket& packet = packets_.take();
    packet.home = &home_;
    packet.frame = frame;
    packet.slot = slots_begin_;
    packet.length = frame.length;
    packet.offload = frame.offload;
    packet.region = Regions::none;
    packet.fetched = packet.in_place = packet.left = false;
    packet.granted = nullptr;
    packet.route = nullptr;
    packet.copied = false;
    packet.owed = true;
    packet.failed_slots = 0;
    packet.buffer = buffers_.pool.take();  // as many buffers as packets: never empty-handed
    batch_[batch_count_++] = &packet;
}

/// As Linux netback: whether or not the guest's groups are filtered now, and what is not there is left all the same.
void TxQueue::answer_group(const TxFrame& frame) noexcept {
    const MacNumber group = mac_number(std::as_bytes(std::span(frame.group)));
    bool done = groups_ != nullptr;
    if (done && frame.verdict == TxFrame::Verdict::join) {
        done = groups_->add(group);
    } else if (done) {
        groups_->remove(group);
    }
    counters_.drops[static_cast<std::size_t>(TxDrop::too_many_groups)] += done ? 0 : 1;
    owe_frame(slots_begin_, frame, done ? TxStatus::okay : TxStatus::error);
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
        } else if (packet->in_place) {
            ++counters_.by_static;
        } else if (!packet->left) {
            owe_frame(packet->slot, packet->frame, TxStatus::okay);
            ++(packet->fetched ? counters_.by_static : counters_.by_copy);
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
    remember_slots(packet);
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
    release_slots(packet);
    owe_slots(packet);
    recycle(packet);
}

void TxQueue::owe_slots(const TxPacket& packet) noexcept {
    for (std::uint32_t n = 0; n < packet.frame.data_slots; ++n) {
        owe(packet.lines[packet.frame.data_at(n)], packet.ids[n],
            (packet.failed_slots >> n & 1U) != 0 ? TxStatus::error : TxStatus::okay);
        if (n == 0) {
            owe_nulls(std::span(packet.lines).subspan(1, packet.frame.extra_slots));
        }
    }
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
        if (packet->region != Regions::none || packet->in_place) {
            packet->route = nullptr;  // a page mapped from one guest cannot be copied from to another (gntdev)
        }
    }
    fetch_rest(copies);
    std::copy_n(batch_.begin(), batch_count_, packets.begin());
    const auto sent = std::span<Packet* const>(packets.data(), std::exchange(batch_count_, 0));
    for (const Packet* packet : sent) {
        counters_.zerocopy_sent += uses_pages(static_cast<const TxPacket&>(*packet)) ? 1 : 0;
    }
    port_.submit(sent);
    collect_completions();  // most ports finish inside the call
    watch_hold();
    if (held_slots_ != 0) {
        watch_pages(sent);
    }
}

/// The clock is looked at only when pages stay in use beyond the turn.
void TxQueue::watch_pages(std::span<Packet* const> sent) noexcept {
    const std::int64_t now = monotonic_ns();
    for (Packet* packet : sent) {
        static_cast<TxPacket&>(*packet).sent_ns = now;  // also of those that are home: nobody asks
    }
}

/// The clock is looked at only while the port holds packets.
void TxQueue::watch_hold() noexcept {
    if (port_.writable() || (regions_.held() == 0 && in_place_ == 0) || port_.held().empty()) {
        hold_ends_ns_ = 0;
    } else if (hold_ends_ns_ == 0) {
        hold_ends_ns_ = monotonic_ns() + limits::hold_ns;
    }
}

void TxQueue::release_held() noexcept {
    hold_ends_ns_ = 0;
    for (Packet* packet : port_.held()) {
        auto& mapped = static_cast<TxPacket&>(*packet);
        if (mapped.in_place) {
            counters_.copied_bytes += mapped.length - mapped.fragments[0].length;
            bring_together(mapped);
            mapped.in_place = false;
            --in_place_;
            release_slots(mapped);
            ++counters_.lazy_copies;
            ++counters_.zerocopy_fail;
            owe_slots(mapped);
            continue;
        }
        if (mapped.region == Regions::none) {
            continue;
        }
        if (packets_.empty()) {
            hold_ends_ns_ = monotonic_ns() + limits::hold_ns;
            return;
        }
        copy_apart(mapped);
    }
}

/// The packet goes on without its region. What is owed for its slots, another packet remembers until the region goes.
void TxQueue::copy_apart(TxPacket& packet) noexcept {
    bring_together(packet);
    counters_.copied_bytes += packet.length - header_size;
    ++counters_.lazy_copies;
    ++counters_.zerocopy_fail;

    TxPacket& debtor = packets_.take();
    debtor.frame = packet.frame;
    debtor.ids = packet.ids;
    debtor.failed_slots = packet.failed_slots;
    std::copy_n(packet.lines.begin(), packet.frame.slots(), debtor.lines.begin());
    debtor.held_slots = std::exchange(packet.held_slots, 0);
    debtor.region = std::exchange(packet.region, Regions::none);
    debtor.buffer = buffers_.pool.take();
    let_go(debtor);
}

void TxQueue::collect_completions() noexcept {
    for (Packet* next = home_.take_all(); next != nullptr;) {
        auto& packet = static_cast<TxPacket&>(*next);
        next = next->next;
        if (uses_pages(packet)) {
            ++(packet.copied ? counters_.zerocopy_fail : counters_.zerocopy_success);
        }
        if (packet.left) {
            owe_late(packet);
        } else if (packet.in_place) {
            packet.in_place = false;
            --in_place_;
            owe_late(packet);
        } else if (packet.region == Regions::none) {
            recycle(packet);
        } else {
            let_go(packet);
        }
    }
    if (held_slots_ != told_slots_) {
        vif_held_.change(static_cast<std::int32_t>(held_slots_) - static_cast<std::int32_t>(told_slots_));
        told_slots_ = held_slots_;
    }
}

bool TxQueue::answer() noexcept {
    regions_.unmap_released();
    if (answer_count_ == 0) {
        return false;
    }
    ring_.respond(std::span(answers_.data(), answer_count_), std::span(answered_lines_.data(), answer_count_));
    answer_count_ = 0;
    return ring_.push_and_check_notify();
}

void TxQueue::owe_nulls(std::span<const ring::Line> lines) noexcept {
    for (const ring::Line line : lines) {
        owe(line, 0, TxStatus::null);
    }
}

void TxQueue::owe_frame(std::uint32_t slot, const TxFrame& frame, TxStatus status) noexcept {
    for (std::uint32_t n = 0; n < frame.data_slots; ++n) {
        const std::uint32_t at = slot + frame.data_at(n);
        owe(lines_[at], slots_[at].request().id, status);
        if (n == 0) {
            owe_nulls(std::span(lines_).subspan(slot + 1, frame.extra_slots));
        }
    }
}

void TxQueue::recycle(TxPacket& packet) noexcept {
    packet.owed = false;
    buffers_.pool.give(packet.buffer);
    packet.buffer = nullptr;
    packets_.give(packet);
}

TxCounters TxQueue::counters() const noexcept {
    TxCounters counters = counters_;
    counters.map_calls = regions_.map_calls;
    counters.unmap_calls = regions_.unmap_calls;
    counters.unmap_errors = regions_.unmap_errors;
    counters.held_pages = regions_.pages();
    counters.held_slots = held_slots_;
    counters.regions = regions_.held();
    std::int64_t oldest = 0;
    for (const TxPacket& packet : packets_.made()) {
        if (packet.owed && uses_pages(packet)) {
            oldest = oldest == 0 ? packet.sent_ns : std::min(oldest, packet.sent_ns);
            counters.held_pages += packet.left || packet.in_place ? packet.frame.data_slots : 0;
        }
    }
    counters.oldest_hold_us = oldest == 0 ? 0 : static_cast<std::uint64_t>((monotonic_ns() - oldest) / ns_per_us);
    return counters;
}

}  // namespace uvif::netback
