// SPDX-License-Identifier: MIT
//
// Theory of operation: packets received straight into the guest's pages
//
// Where the guest's next buffers are pages that stay mapped and that we may write to, the port can fill them itself: a
// read for each packet, whose pieces are those pages. How long the packet is and whether it has a GSO extra is known
// only afterwards, so the requests are looked at first, and consumed, as they were copied then, when it is known how
// many it takes. Those behind it stay where they are, for the next packet.
//
// The first octets of a packet go to memory of ours, and from there to the first page: nobody looks at a header that
// the guest can change meanwhile. What does not fit the pages goes to memory of ours too, at the place that it has in
// the packet's own buffer. So a packet that is not what it was taken for is brought together there, and goes the way of
// all others: with too few pages posted, with another place for its pages (the slot behind the first is the GSO
// extra's, if there is one), with a checksum to be completed, or to be dropped. The guest may change its octets before
// they are read back from its pages; they are for nobody but this guest.
//
// A daemon that is killed in between has written to buffers that the guest has posted and that are still posted: they
// are written to again. All reads end inside the turn: between turns a page can be taken back, or the whole queue.
//
// With one packet on its way at a time there is no reading ahead, so this pays only for long ones: see
// receive_choice.hpp.
#include <algorithm>
#include <cstring>

#include "netback/rx_queue.hpp"
#include "packet/pieces.hpp"
#include "runtime/limits.hpp"

namespace uvif::netback {

using ring::RxRequest;
using ring::RxSlot;

namespace {
constexpr std::uint32_t page_room = xen::page_size;
constexpr std::uint32_t header_room = limits::header_octets;  ///< what is looked at
}  // namespace

/// All octets of a packet are needed here if it may belong to another queue, or be one that the guest does not want.
/// The waits of a guest that does not announce its buffers are too short for a line of one.
void RxQueue::choose_way() noexcept {
    const bool direct = choice_.direct() && statics_ != nullptr && port_.scatters() && steering_ == nullptr &&
                        (groups_ == nullptr || !groups_->filters()) && features_.announces_buffers;
    if (direct != direct_) {
        direct_ = direct;
        port_.read_ahead(!direct);
    }
}

/// Nothing waits. Receives one packet after the other into the guest's pages, until one has to be put in the line. True
/// when the port had no more. `segment`: where copies of the turn stand.
bool RxQueue::receive_directly(std::uint32_t segment) noexcept {
    const std::uint64_t enough = counters_.bytes + bytes_per_turn;
    while (counters_.bytes < enough) {
        std::array<RxRequest, direct_slots> requests;
        const ring::Taken seen = ring_.peek(requests);
        if (seen.impossible) {
            rogue_ = Rogue::impossible_producer;
            return false;
        }
        if (seen.count == 0 && port_.always_ready()) {
            return false;
        }
        const std::span<const RxRequest> posted(requests.data(), seen.count);
        Packet* packet = free_.back();
        const std::uint32_t room = spread(*packet, posted);
        if (port_.receive(std::span(&packet, 1)) == 0) {
            packet->fragment_count = 1;
            return true;
        }
        const bool answered = answer_directly(*packet, room, posted, segment);
        choice_.note(answered ? packet->length : 0);
        if (!answered) {
            bring_together(*packet);
            free_.pop_back();
            waiting_.places().front() = packet;
            waiting_.add(1);
            return false;
        }
        packet->fragment_count = 1;
    }
    return false;
}

/// Has the room for a packet be the pages that the guest has posted, as far as we may write to them, and behind them
/// its own buffer. Returns the octets of the former.
std::uint32_t RxQueue::spread(Packet& packet, std::span<const RxRequest> posted) noexcept {
    std::uint32_t room = 0;
    std::uint16_t count = 1;
    for (std::size_t slot = 0; slot < posted.size() && room < room_of_packet(); ++slot) {
        if (slot == 1 && expects_extra_) {
            continue;
        }
        std::byte* const page = statics_->find_writable(posted[slot].gref);
        if (page == nullptr) {
            break;
        }
        const std::uint32_t apart = slot == 0 ? header_room : 0;
        packet.fragments[count++] = {page + apart, page_room - apart};
        room += page_room;
    }
    std::byte* const own = packet.fragments[0].data;
    packet.fragments[0].length = room == 0 ? room_of_packet() : header_room;
    if (room != 0 && room < room_of_packet()) {
        packet.fragments[count++] = {own + room, room_of_packet() - room};
    }
    packet.fragment_count = count;
    return room;
}

/// False: what the guest is to have does not lie in the pages as it should; nothing was consumed.
bool RxQueue::answer_directly(const Packet& packet, std::uint32_t room, std::span<const RxRequest> posted,
                              std::uint32_t segment) noexcept {
    const Fragment& header = packet.fragments[0];
    const Heading heading = heading_of(packet);
    const bool one_page = packet.length <= page_room;
    const bool foreseen = one_page || (heading.extra_count != 0) == expects_extra_;
    expects_extra_ = one_page ? expects_extra_ : heading.extra_count != 0;
    const std::uint32_t needed = slots_needed(packet);
    if (!foreseen || packet.length > room || needed > posted.size() || header.length > header_room ||
        !(one_page || features_.scatter_gather) || !takes_segments(packet.offload.gso_type) || lacks_checksum(packet)) {
        ++counters_.direct_missed;
        return false;
    }
    ring_.consume(posted.first(needed));
    std::memcpy(statics_->find_writable(posted[0].gref), header.data, header.length);
    std::uint32_t left = packet.length;
    for (std::uint32_t slot = 0; slot < needed; ++slot) {
        if (slot != 0 && slot <= heading.extra_count) {
            answer(RxSlot::from(heading.extras[slot - 1]), segment);
            continue;
        }
        const std::uint32_t size = std::min(left, page_room);
        left -= size;
        const std::uint16_t flags = slot == 0 ? heading.flags : std::uint16_t{0};
        answer(RxSlot::from(respond_to(posted[slot], size, flags, left != 0)), segment);
        ++counters_.static_hits;
    }
    count(packet, needed);
    counters_.copied_bytes += header.length;
    ++counters_.direct;
    return true;
}

}  // namespace uvif::netback
