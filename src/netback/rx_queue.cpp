// SPDX-License-Identifier: MIT
#include "netback/rx_queue.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "packet/checksum.hpp"
#include "packet/headers.hpp"
#include "runtime/clock.hpp"
#include "runtime/limits.hpp"

namespace uvif::netback {

using ring::ExtraInfo;
using ring::RxFlags;
using ring::RxRequest;
using ring::RxResponse;
using ring::RxSlot;

namespace {
constexpr std::uint32_t cache_line = 64;
/// Starting lines over which packets are spread inside their pages: half a page, so that a common 1514 octets fit
/// behind it.
constexpr std::uint32_t rx_colours = 32;
/// A copy for each slot, and one more for each piece that does not end where a slot does.
constexpr std::uint32_t segments_of_packet_max = 17 + Packet::max_fragments;

/// On the wire a type is the number of its bit.
std::uint8_t hash_type_number(const FlowHash& hash) noexcept {
    return static_cast<std::uint8_t>(std::countr_zero(hash.type));
}

/// Walks over a packet's octets, wherever they are.
class PieceReader {
public:
    explicit PieceReader(const Packet& packet) noexcept : packet_(packet) {}

    /// Has the next `size` octets copied into the guest's page.
    void copy_to(CopyBatch& copies, xen::DomainId guest, xen::GrantRef ref, std::uint16_t offset,
                 std::uint32_t size) noexcept {
        each_piece(size, [&](const Fragment& piece, std::uint32_t octets) {
            const auto now = static_cast<std::uint16_t>(octets);
            if (piece.data != nullptr) {
                copies.add(xen::CopySegment::to_guest(piece.data + at_, guest, ref, offset, now));
            } else {
                const GrantedPiece& place = packet_.granted[piece_];
                copies.add(xen::CopySegment::between_guests(
                    packet_.owner, place.ref, static_cast<std::uint16_t>(place.offset + at_), guest, ref, offset, now));
            }
            offset += now;
        });
    }

    /// Copies the next `size` octets, of a packet that is in memory of ours, to where we can write.
    void copy_to(std::byte* to, std::uint32_t size) noexcept {
        each_piece(size, [&](const Fragment& piece, std::uint32_t octets) {
            std::memcpy(to, piece.data + at_, octets);
            to += octets;
        });
    }

private:
    /// Calls visit(piece, octets) for what each piece has of the next `size` octets, from at_ on.
    template <class Visit>
    void each_piece(std::uint32_t size, Visit visit) noexcept {
        while (size != 0) {
            const Fragment& piece = packet_.fragments[piece_];
            if (at_ == piece.length) {
                ++piece_;
                at_ = 0;
                continue;
            }
            const std::uint32_t now = std::min(size, piece.length - at_);
            visit(piece, now);
            at_ += now;
            size -= now;
        }
    }

    const Packet& packet_;
    std::size_t piece_ = 0;
    std::uint32_t at_ = 0;
};
}  // namespace

Result<std::unique_ptr<RxQueue>> RxQueue::create(ring::RxBackRing ring, xen::DomainId domain, xen::GrantTable& grants,
                                                 Port& port, RxFeatures features, RxPatience patience,
                                                 ReceiveStrategy strategy) {
    if (!features.announces_buffers) {
        patience.expiry_ns = std::min(patience.expiry_ns, limits::rx_unannounced_ns);
        patience.stall_ns = 0;  // as the reference: to post late is no fault of such a guest
    }
    auto buffers = CopyBuffers::create(grants, packets_per_turn + port.reads_ahead(), limits::self_granted_rx_buffers,
                                       limits::packet_length + 1);
    if (!buffers) {
        return propagate(buffers);
    }
    return std::unique_ptr<RxQueue>(new RxQueue(ring, domain, port, features, patience, strategy, std::move(*buffers)));
}

RxQueue::RxQueue(ring::RxBackRing ring, xen::DomainId domain, Port& port, RxFeatures features,
                 const RxPatience& patience, ReceiveStrategy strategy, CopyBuffers buffers)
    : ring_(ring),
      domain_(domain),
      port_(port),
      features_(features),
      buffers_(std::move(buffers)),
      packets_(buffers_.pool.count()),
      choice_(strategy),
      patience_(patience) {
    free_.reserve(packets_.size());
    for (Packet& packet : packets_) {
        packet.fragments[0] = {buffers_.pool.take(), room_of_packet()};
        packet.fragment_count = 1;
        free_.push_back(&packet);
    }
    std::ranges::reverse(free_);  // its end is used first, as the pool's first buffers are to be
}

RxQueue::~RxQueue() {
    for (Packet* packet : waiting_.packets()) {
        if (is_passed(*packet)) {
            complete_from_elsewhere(packet);
        }
    }
}

void RxQueue::read_ahead(ReadyHandler& handler) noexcept {
    const std::size_t count = port_.reads_ahead();
    port_.lend(std::span<Packet* const>(free_).last(count), handler);
    free_.resize(free_.size() - count);
}

void RxQueue::join(RxExchange& exchange, std::size_t index, Waker& waker) noexcept {
    exchange_ = &exchange;
    index_ = index;
    exchange.of(index).waker = &waker;
    home_.wake_by(waker);
}

void RxQueue::steer_by(std::shared_ptr<const RxSteering> steering) noexcept {
    steering_ = std::move(steering);
    for (Packet* packet : waiting_.packets()) {
        add_hash(*packet);
    }
}

void RxQueue::add_hash(Packet& packet) const noexcept {
    if (steering_ != nullptr) {
        const Fragment& first = packet.fragments[0];
        packet.hash = steering_->hash({first.data, std::min<std::size_t>(first.length, limits::header_octets)});
    }
}

/// Hands over what belongs to other queues; returns how many are left, at the beginning.
std::size_t RxQueue::steer(std::span<Packet*> packets) noexcept {
    std::size_t kept = 0;
    for (Packet* packet : packets) {
        add_hash(*packet);
        const std::size_t queue = steering_->queue_of(packet->hash);
        if (queue == index_) {
            packets[kept++] = packet;
            continue;
        }
        finish_checksum(*packet);
        packet->home = &home_;
        packet->owed = true;
        ++counters_.steered;
        exchange_->pass(packet, queue);
    }
    return kept;
}

/// Packets that were steered away are free again.
void RxQueue::take_home() noexcept {
    for (Packet* next = home_.take_all(); next != nullptr;) {
        Packet& packet = *next;
        next = next->next;
        packet.home = nullptr;
        free_.push_back(&packet);
    }
}

std::uint32_t RxQueue::slots_needed(const Packet& packet) const noexcept {
    constexpr std::uint32_t page = xen::page_size;
    const std::uint32_t pages = std::max(1U, (packet.length + page - 1) / page);
    return pages + (packet.offload.gso_type != GsoType::none ? 1 : 0) + (has_hash(packet) ? 1 : 0);
}

RxQueue::Gathered RxQueue::gather(bool may_receive, CopyBatch& copies) noexcept {
    Gathered result;
    if (rogue_ != Rogue::none) {
        return result;
    }
    if (!home_.empty()) {
        take_home();
    }
    result.worked = take_passed();
    const std::uint64_t& unwanted = counters_.drops[static_cast<std::size_t>(RxDrop::unwanted_group)];
    const std::uint64_t unwanted_before = unwanted;
    last_segment_ = copies.size();
    const std::uint64_t placed = counters_.packets;
    if (may_receive && wants_packets()) {
        choose_way();
        const bool direct = direct_ && waiting_.empty() && !port_.reading_ahead();
        result.port_empty = direct ? receive_directly(last_segment_) : receive();
        result.worked |= unwanted != unwanted_before;
    }
    bool moved = counters_.packets != placed;
    moved |= !waiting_.empty() && deliver(copies);
    result.worked |= moved;
    result.worked |= watch(moved, counters_.packets != placed);
    return result;
}

bool RxQueue::publish(const CopyBatch& copies) noexcept {
    if (answer_count_ == 0) {
        return false;
    }
    note_failures(copies);
    ring_.respond(std::span(answers_.data(), answer_count_));
    answer_count_ = 0;
    const bool notify = ring_.push_and_check_notify();
    std::for_each_n(copied_.begin(), std::exchange(copied_count_, 0), complete_from_elsewhere);
    return notify;
}

/// True when there were any.
bool RxQueue::take_passed() noexcept {
    if (!has_passed()) {
        return false;
    }
    if (held_too_long_) {
        std::array<Packet*, packets_per_turn> packets;
        discard_passed(std::span(packets).first(next_passed(packets)));
        return true;
    }
    const std::span<Packet*> places = waiting_.places();
    const std::size_t count = next_passed(places.first(std::min(places.size(), passed_waiting_max - passed_waiting())));
    waiting_.add(count);
    return count != 0;
}

/// What the port has of other guests, and what our other queues have steered here.
std::size_t RxQueue::next_passed(std::span<Packet*> packets) noexcept {
    std::size_t count = port_.take_passed(packets);
    for (Packet* packet : packets.first(count)) {
        add_hash(*packet);
    }
    if (exchange_ != nullptr) {
        count += exchange_->of(index_).packets.take(packets.subspan(count));
    }
    return count;
}

std::size_t RxQueue::passed_waiting() const noexcept {
    return static_cast<std::size_t>(
        std::ranges::count_if(waiting_.packets(), [](const Packet* p) { return is_passed(*p); }));
}

void RxQueue::discard_passed(std::span<Packet* const> packets) noexcept {
    counters_.drops[static_cast<std::size_t>(RxDrop::held_too_long)] += packets.size();
    std::ranges::for_each(packets, complete_from_elsewhere);
}

/// True when the port had less than what it was asked for.
bool RxQueue::receive() noexcept {
    std::size_t room = free_.size();
    if (port_.always_ready()) {
        // Such a port is asked only for what the guest has room for: it would fill the waiting line for nothing.
        room = waiting_.empty() ? std::min<std::size_t>(room, ring_.available()) : 0;
    }
    std::span<Packet*> packets = waiting_.places();
    packets = packets.first(std::min(packets.size(), room));
    if (packets.empty()) {
        return false;
    }
    // The last freed come first: their buffers are still in the cache.
    for (std::size_t i = 0; i < packets.size(); ++i) {
        packets[i] = free_[free_.size() - 1 - i];
        packets[i]->fragments[0].length = room_of_packet();
    }
    const std::size_t got = port_.receive(packets);
    free_.resize(free_.size() - got);
    std::size_t kept = got;
    if (groups_ != nullptr && groups_->filters()) {
        kept = discard_unwanted(packets.first(got));
    }
    waiting_.add(steering_ == nullptr ? kept : steer(packets.first(kept)));
    return got < packets.size();
}

/// Moves those that are wanted to the front; returns how many.
std::size_t RxQueue::discard_unwanted(std::span<Packet*> packets) noexcept {
    std::size_t kept = 0;
    for (Packet* packet : packets) {
        if (groups_->wanted(std::span<const std::byte, 6>(packet->fragments[0].data, 6))) {
            packets[kept++] = packet;
        } else {
            free_.push_back(packet);
        }
    }
    counters_.drops[static_cast<std::size_t>(RxDrop::unwanted_group)] += packets.size() - kept;
    return kept;
}

/// Moves packets from the waiting line to the ring until one does not fit, or enough for a turn have. True when any
/// moved.
bool RxQueue::deliver(CopyBatch& copies) noexcept {
    const std::size_t before = waiting_.packets().size();
    const std::uint64_t enough = counters_.bytes + bytes_per_turn;
    while (!waiting_.empty() && counters_.bytes < enough && copies.room() >= segments_of_packet_max) {
        Packet& packet = waiting_.front();
        if (packet.length > xen::page_size && !features_.scatter_gather) {
            discard(RxDrop::no_scatter_gather);
            continue;
        }
        if (!takes_segments(packet.offload.gso_type)) {
            discard(RxDrop::no_segments);
            continue;
        }
        finish_checksum(packet);
        if (!place(packet, copies)) {
            break;
        }
    }
    return waiting_.packets().size() != before;
}

/// What becomes of those that wait. True: some were discarded.
bool RxQueue::watch(bool moved, bool placed) noexcept {
    watch_hold();
    if (starved_slots_ != 0 && (placed || ring_.available() >= starved_slots_)) {
        starved_slots_ = 0;
        stalled_ = false;
    }
    if (moved || (waiting_.empty() && !has_passed())) {
        due_ns_ = 0;
        return false;
    }
    const std::int64_t now = patience_.clock();
    if (hold_ends_ns_ == 0 && (passed_waiting() != 0 || has_passed())) {
        hold_ends_ns_ = now + limits::hold_ns;
        hold_slots_ = counters_.slots;
    }
    waiting_.stand(now);
    const bool expired = discard_expired(now);
    due_ns_ = 0;
    if (!waiting_.empty()) {
        due_ns_ = waiting_.front_since_ns() + patience_.expiry_ns;
        watch_for_stall(now);
    }
    return expired;
}

/// Ends what has become needless.
void RxQueue::watch_hold() noexcept {
    if (hold_ends_ns_ != 0 &&
        (counters_.slots - hold_slots_ >= ring::RxBackRing::size || (passed_waiting() == 0 && !has_passed()))) {
        hold_ends_ns_ = 0;
    }
    if (held_too_long_ && (waiting_.empty() || ring_.available_seen() >= slots_needed(waiting_.front()))) {
        held_too_long_ = false;
        port_.crowd(false);
    }
}

bool RxQueue::discard_expired(std::int64_t now_ns) noexcept {
    bool any = false;
    for (; !waiting_.empty() && now_ns - waiting_.front_since_ns() >= patience_.expiry_ns; any = true) {
        discard(features_.announces_buffers ? RxDrop::expired : RxDrop::no_buffers);
    }
    return any;
}

/// The first of the line did not find the slots it needs.
void RxQueue::watch_for_stall(std::int64_t now_ns) noexcept {
    if (patience_.stall_ns == 0) {
        return;
    }
    if (starved_slots_ == 0) {
        starved_since_ns_ = now_ns;
    }
    starved_slots_ = slots_needed(waiting_.front());
    const std::int64_t stalls_ns = starved_since_ns_ + patience_.stall_ns;
    if (!stalled_ && now_ns >= stalls_ns) {
        stalled_ = true;
        ++counters_.stalls;
    } else if (!stalled_) {
        due_ns_ = std::min(due_ns_, stalls_ns);
    }
}

void RxQueue::release_held(xen::GrantTable& grants, CopyBatch& copies) noexcept {
    hold_ends_ns_ = 0;
    held_too_long_ = true;
    port_.crowd(true);
    waiting_.filter([&](Packet*& packet) {
        if (!is_passed(*packet)) {
            return true;
        }
        // There is one unless ours have been steered away: the line is no longer than they are many.
        if (free_.empty()) {
            discard_passed(std::span(&packet, 1));
            return false;
        }
        Packet& own = *free_.back();
        const bool good = copy_apart(*packet, own, grants, copies);
        own.hash = packet->hash;
        packet->copied = true;
        complete_from_elsewhere(packet);
        if (!good) {
            ++counters_.drops[static_cast<std::size_t>(RxDrop::tx_grant_failed)];
            return false;
        }
        ++counters_.lazy_copies;
        free_.pop_back();
        packet = &own;
        return true;
    });
}

bool RxQueue::copy_apart(Packet& passed, Packet& own, xen::GrantTable& grants, CopyBatch& copies) noexcept {
    copies.clear();
    std::byte* to = own.fragments[0].data;
    for (std::size_t i = 0; i < passed.fragment_count; ++i) {
        const Fragment& piece = passed.fragments[i];
        if (piece.data != nullptr) {
            std::memcpy(to, piece.data, piece.length);
        } else {
            copies.add(xen::CopySegment::from_guest(passed.owner, passed.granted[i].ref, passed.granted[i].offset, to,
                                                    static_cast<std::uint16_t>(piece.length)));
        }
        to += piece.length;
    }
    copies.flush(grants);
    own.length = own.fragments[0].length = passed.length;
    own.offload = passed.offload;
    for (std::uint32_t segment = 0; segment < copies.size(); ++segment) {
        if (!copies.ok(segment)) {
            return false;
        }
    }
    return true;
}

void RxQueue::give_back(const std::function<bool(const Packet&)>& concerns) noexcept {
    waiting_.filter([&concerns](Packet* packet) {
        const bool goes = is_passed(*packet) && concerns(*packet);
        if (goes) {
            complete_from_elsewhere(packet);
        }
        return !goes;
    });
    port_.give_back(concerns);
    if (exchange_ != nullptr) {
        exchange_->of(index_).packets.give_back(concerns);
    }
}

/// The port was told what the guest takes, but it may hold packets from before.
bool RxQueue::takes_segments(GsoType type) const noexcept {
    return type == GsoType::none || (type == GsoType::tcpv4 ? features_.gso_v4 : features_.gso_v6);
}

/// It has a blank checksum that the guest does not take; packets of other queues have none.
bool RxQueue::lacks_checksum(const Packet& packet) const noexcept {
    if (is_passed(packet) || !packet.offload.checksum_blank || (features_.checksum_v4 && features_.checksum_v6) ||
        packet.offload.gso_type != GsoType::none) {
        return false;
    }
    const Fragment& data = packet.fragments[0];
    const Headers headers =
        parse_headers(std::span(data.data, std::min<std::size_t>(data.length, limits::header_octets)));
    return !(headers.ip_version == 6 ? features_.checksum_v6 : features_.checksum_v4);
}

void RxQueue::finish_checksum(Packet& packet) noexcept {
    if (lacks_checksum(packet) && complete_checksum(packet.pieces())) {
        packet.offload.checksum_blank = false;
    }
}

void RxQueue::discard(RxDrop reason) noexcept {
    ++counters_.drops[static_cast<std::size_t>(reason)];
    Packet* const packet = &waiting_.front();
    waiting_.pop();
    if (is_passed(*packet)) {
        complete_from_elsewhere(packet);
    } else {
        free_.push_back(packet);
    }
}

RxQueue::Heading RxQueue::heading_of(const Packet& packet) const noexcept {
    Heading heading;
    const bool gso = packet.offload.gso_type != GsoType::none;
    if (gso) {
        heading.extras[heading.extra_count++] = ExtraInfo::gso(packet.offload.gso_type, packet.offload.gso_size);
    }
    if (has_hash(packet)) {
        heading.extras[0].flags = gso ? ExtraInfo::more : std::uint8_t{0};
        heading.extras[heading.extra_count++] = ExtraInfo::hash(hash_type_number(packet.hash), packet.hash.value);
    }
    heading.flags = heading.extra_count != 0 ? RxFlags::extra_info : std::uint16_t{0};
    heading.flags |= packet.offload.checksum_blank ? RxFlags::checksum_blank : std::uint16_t{0};
    heading.flags |= packet.offload.data_validated ? RxFlags::data_validated : std::uint16_t{0};
    return heading;
}

RxResponse RxQueue::respond_to(const RxRequest& request, std::uint32_t size, std::uint16_t flags, bool more) noexcept {
    RxResponse response;
    response.id = request.id;
    response.status = static_cast<std::int16_t>(size);
    response.flags.bits = static_cast<std::uint16_t>(flags | (more ? RxFlags::more_data : 0));
    return response;
}

void RxQueue::answer(const RxSlot& slot, std::uint32_t first_segment) noexcept {
    first_segment_[answer_count_] = first_segment;
    answers_[answer_count_++] = slot;
}

void RxQueue::count(const Packet& packet, std::uint32_t slots) noexcept {
    ++counters_.packets;
    counters_.bytes += packet.length;
    counters_.slots += slots;
    counters_.gso_packets += packet.offload.gso_type != GsoType::none ? 1 : 0;
}

/// Plans the copies and answers of one packet. False: the guest has not posted enough.
bool RxQueue::place(Packet& packet, CopyBatch& copies) noexcept {
    const std::uint32_t needed = slots_needed(packet);
    if (ring_.available_seen() < needed && ring_.available() < needed) {
        return false;
    }
    std::array<RxRequest, 18> requests;
    const ring::Taken taken = ring_.take(std::span(requests.data(), needed));
    if (taken.impossible || taken.count != needed) {
        rogue_ = Rogue::impossible_producer;
        return false;
    }
    const Heading heading = heading_of(packet);
    const StaticTable* const statics = packet.granted == nullptr ? statics_ : nullptr;
    PieceReader from(packet);
    std::uint32_t left = packet.length;
    std::uint32_t spared = 0;
    for (std::uint32_t slot = 0; slot < needed; ++slot) {
        if (slot != 0 && slot <= heading.extra_count) {
            answer(RxSlot::from(heading.extras[slot - 1]), copies.size());
            continue;
        }
        const RxRequest& request = requests[slot];
        const auto size = static_cast<std::uint16_t>(std::min<std::uint32_t>(left, xen::page_size));
        left -= size;
        RxResponse response = respond_to(request, size, slot == 0 ? heading.flags : std::uint16_t{0}, left != 0);
        // Page colouring: headers that all begin at a page's start compete for the same few cache sets, on both sides.
        const std::uint32_t colour = (ring_.consumed() - needed + slot) % rx_colours * cache_line;
        response.offset = size + colour <= xen::page_size ? static_cast<std::uint16_t>(colour) : std::uint16_t{0};
        answer(RxSlot::from(response), copies.size());
        if (std::byte* const page = statics != nullptr ? statics->find_writable(request.gref) : nullptr) {
            from.copy_to(page + response.offset, size);
            ++counters_.static_hits;
            spared += size;
        } else {
            from.copy_to(copies, domain_, xen::GrantRef{request.gref}, response.offset, size);
            if (statics != nullptr) {
                ++counters_.static_misses;
                if (learner_ != nullptr) {
                    learner_->miss(request.gref, xen::Access::read_write);
                }
            }
        }
    }
    last_segment_ = copies.size();
    count(packet, needed);
    counters_.copied_bytes += packet.length;
    if (statics != nullptr && !direct_) {
        choice_.note(spared);
    }
    if (is_passed(packet)) {
        ++counters_.passed;
        copied_[copied_count_++] = &packet;
    } else {
        // Its buffer is read by the copy call of this turn, and not written before the next.
        free_.push_back(&packet);
    }
    waiting_.pop();
    return true;
}

/// A slot whose copy failed says so in its status; the chain's flags stay, so that the packet's end stays where it is.
void RxQueue::note_failures(const CopyBatch& copies) noexcept {
    bool extra = false;
    bool in_packet = false;
    bool counted = false;
    for (std::uint32_t i = 0; i < answer_count_; ++i) {
        if (extra) {
            extra = (answers_[i].extra().flags & ExtraInfo::more) != 0;
            continue;
        }
        const std::uint32_t begin = first_segment_[i];
        const std::uint32_t end = i + 1 == answer_count_ ? last_segment_ : first_segment_[i + 1];
        RxResponse response = answers_[i].response();
        extra = response.flags.has(RxFlags::extra_info);
        counted = counted && in_packet;
        in_packet = response.flags.has(RxFlags::more_data);
        bool ok = true;
        for (std::uint32_t segment = begin; segment != end; ++segment) {
            ok &= copies.ok(segment);
        }
        if (ok) {
            continue;
        }
        response.status = static_cast<std::int16_t>(ring::TxStatus::error);
        answers_[i] = RxSlot::from(response);
        if (!std::exchange(counted, true)) {
            ++counters_.drops[static_cast<std::size_t>(RxDrop::rx_grant_failed)];
            --counters_.packets;
        }
    }
}

bool RxQueue::arm() noexcept {
    std::uint32_t needed = 0;
    if (!waiting_.empty()) {
        needed = slots_needed(waiting_.front());
    } else if (stalled_) {
        needed = starved_slots_;
    } else if (port_.always_ready()) {
        needed = 1;
    }
    if (needed == 0) {
        return true;
    }
    ++counters_.waits;
    return ring_.arm(needed);
}

}  // namespace uvif::netback
