// SPDX-License-Identifier: MIT
#include "port/vxlan_port.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "packet/checksum.hpp"
#include "packet/gather.hpp"
#include "packet/headers.hpp"
#include "packet/wire.hpp"
#include "port/vxlan_header.hpp"
#include "runtime/clock.hpp"

namespace uvif {

namespace {

/// A packet that becomes one datagram: its head, and the rest of it. nullopt: a checksum is blank, and has no place.
std::optional<Segmentation> plan_whole(const Packet& packet, std::span<const std::byte> head) noexcept {
    Segmentation plan;
    if (packet.offload.checksum_blank) {
        plan.headers = parse_headers(head);
        if (plan.headers.depth != HeaderDepth::transport) {
            return std::nullopt;
        }
    }
    plan.header_length = static_cast<std::uint32_t>(head.size());
    plan.payload_length = plan.size = packet.length - plan.header_length;
    plan.count = 1;
    return plan;
}

/// Completes the headers of a frame, which are contiguous, and ours.
void finish(const Offload& offload, const Segmentation& plan, std::uint32_t index,
            std::span<const Fragment> frame) noexcept {
    if (offload.gso_type != GsoType::none) {
        finish_segment(plan, index, frame);
    } else if (offload.checksum_blank) {
        store_be16(std::span(frame[0].data, frame[0].length), plan.headers.checksum_offset(),
                   completed_checksum(frame, plan.headers));
    }
}

}  // namespace

VxlanPort::VxlanPort(UniqueFd fd, VxlanNetwork& network, VxlanBuffers buffers, bool receives, bool pins,
                     const VxlanGuest& guest)
    : fd_(std::move(fd)),
      network_(network),
      pins_(pins),
      sender_(fd_.get(), network.port, network.remotes, std::move(buffers)) {
    if (receives) {
        receiver_ = std::make_unique<VxlanReceiver>(fd_.get(), network.vni, network.local, network.table, guest);
    }
}

VxlanPort::~VxlanPort() {
    flush(true);
}

void VxlanPort::submit(std::span<Packet* const> packets) noexcept {
    counters_.submitted += packets.size();
    begin_turn();
    transmit(packets);
}

void VxlanPort::flush(bool abandon) noexcept {
    begin_turn();
    sender_.send(counters_);
    const std::size_t count = std::exchange(held_count_, 0);
    std::copy_n(held_.begin(), count, retried_.begin());
    transmit(std::span(retried_).first(count));
    if (abandon) {
        sender_.abandon(counters_);
        for (Packet* packet : std::span(held_).first(std::exchange(held_count_, 0))) {
            drop(&PortCounters::dropped_held_up);
            complete(packet);
        }
    }
}

void VxlanPort::begin_turn() noexcept {
    now_s_ = static_cast<std::uint32_t>(monotonic_ns() / ns_per_s);
    sender_.begin_turn(now_s_, counters_);
}

/// The error queue of the socket is where the kernel says what it is done with.
bool VxlanPort::survives_error() noexcept {
    sender_.settle(static_cast<std::uint32_t>(monotonic_ns() / ns_per_s), counters_);
    return true;
}

/// Stages and sends in order until there is no room; what follows is held.
void VxlanPort::transmit(std::span<Packet* const> packets) noexcept {
    for (Packet* packet : packets) {
        if (!take(packet)) {
            hold(packet);
        }
    }
    if (!sender_.blocked()) {
        sender_.send(counters_);
    }
}

/// False: it has to wait.
bool VxlanPort::take(Packet* packet) noexcept {
    if (!writable()) {
        return false;
    }
    Outcome outcome = stage(packet);
    if (outcome == Outcome::no_room) {
        sender_.send(counters_);
        if (sender_.blocked()) {
            return false;
        }
        outcome = stage(packet);  // any packet fits into an empty buffer
    }
    if (outcome != Outcome::lent) {
        packet->copied = outcome == Outcome::copied;
        complete(packet);
    }
    sender_.send_complete(counters_);
    return true;
}

VxlanPort::Outcome VxlanPort::stage(Packet* packet) noexcept {
    Head head;
    head.length = std::min<std::size_t>(packet->length, head.octets.size());
    const bool whole = Gather(packet->pieces()).copy(std::span(head.octets).first(head.length));
    if (!whole || packet->length < limits::packet_length_min || packet->length > limits::packet_length) {
        return drop(&PortCounters::dropped_refused);
    }
    const bool gso = packet->offload.gso_type != GsoType::none;
    const auto plan =
        gso ? plan_segments(packet->offload, head.span(), packet->length) : plan_whole(*packet, head.span());
    if (!plan) {
        return drop(&PortCounters::dropped_metadata);
    }
    const auto to = destination(head.span());
    if (!to && network_.remotes.empty()) {
        return drop(&PortCounters::dropped_refused);
    }
    const Outcome outcome = to && goes_from_pages(*packet, *plan) ? stage_from_pages(packet, head, *plan, *to)
                                                                  : stage_copy(*packet, head, *plan, to);
    counters_.gso_fixups += gso && !packet->offload.checksum_blank && outcome != Outcome::no_room ? 1 : 0;
    return outcome;
}

VxlanPort::Outcome VxlanPort::stage_copy(const Packet& packet, const Head& head, const Segmentation& plan,
                                         const std::optional<UnderlayAddress>& to) noexcept {
    const std::size_t front = vxlan_header::length + plan.header_length;
    if (!sender_.runs().has_room(plan.count, plan.count * front + plan.payload_length)) {
        return Outcome::no_room;
    }
    Gather payload(packet.pieces());
    (void)payload.skip(plan.header_length);
    for (std::uint32_t i = 0; i < plan.count; ++i) {
        const std::span<std::byte> datagram = sender_.runs().stage(to, front + plan.payload_of(i), i == 0);
        vxlan_header::write(datagram, network_.vni);
        const std::span<std::byte> frame = datagram.subspan(vxlan_header::length);
        std::memcpy(frame.data(), head.octets.data(), plan.header_length);
        (void)payload.copy(frame.subspan(plan.header_length));
        const Fragment piece{frame.data(), static_cast<std::uint32_t>(frame.size())};
        finish(packet.offload, plan, i, std::span(&piece, 1));
    }
    return Outcome::copied;
}

/// It has pages beyond the head, of datagrams that are worth it, and none is in more pieces than a message has.
bool VxlanPort::goes_from_pages(const Packet& packet, const Segmentation& plan) noexcept {
    if (packet.fragment_count == 1 || !is_pinned_from(pins_from(), packet) || !sender_.lends_more()) {
        return false;
    }
    Gather payload(packet.pieces());
    (void)payload.skip(plan.header_length);
    std::size_t most = 0;
    for (std::uint32_t i = 0; i < plan.count; ++i) {
        std::size_t pieces = 1;
        (void)payload.walk(plan.payload_of(i), [&pieces](std::span<const std::byte>) { ++pieces; });
        most = std::max(most, pieces);
    }
    return most <= VxlanRuns::pieces_max;
}

VxlanPort::Outcome VxlanPort::stage_from_pages(Packet* packet, const Head& head, const Segmentation& plan,
                                               const UnderlayAddress& to) noexcept {
    if (!sender_.runs().has_room_for_fronts(plan.count, packet->fragment_count + plan.count)) {
        return Outcome::no_room;
    }
    const LentPackets::Place lent = sender_.lend(packet);
    Gather payload(packet->pieces());
    (void)payload.skip(head.length);
    for (std::uint32_t i = 0; i < plan.count; ++i) {
        // The first datagram has all that was copied apart, and the others' headers.
        const std::size_t in_front = i == 0 ? head.length : plan.header_length;
        const std::size_t elsewhere = plan.header_length + plan.payload_of(i) - in_front;
        std::array<Fragment, VxlanRuns::pieces_max> pieces;
        std::size_t count = 1;
        (void)payload.walk(elsewhere, [&pieces, &count](std::span<std::byte> octets) {
            pieces[count++] = {octets.data(), static_cast<std::uint32_t>(octets.size())};
        });
        const std::span<std::byte> front = sender_.runs().stage_front(lent, to, vxlan_header::length + in_front,
                                                                      std::span(pieces).subspan(1, count - 1), i == 0);
        vxlan_header::write(front, network_.vni);
        pieces[0] = {front.data() + vxlan_header::length, static_cast<std::uint32_t>(in_front)};
        std::memcpy(pieces[0].data, head.octets.data(), in_front);
        finish(packet->offload, plan, i, std::span(pieces).first(count));
    }
    return Outcome::lent;
}

std::optional<UnderlayAddress> VxlanPort::destination(std::span<const std::byte> head) const noexcept {
    Mac mac;
    std::memcpy(mac.data(), head.data(), mac.size());
    const bool for_many = (mac[0] & 1) != 0;
    return for_many ? std::nullopt : network_.table.find(mac, now_s_);
}

VxlanPort::Outcome VxlanPort::drop(std::uint64_t PortCounters::* reason) noexcept {
    ++counters_.submit_dropped;
    ++(counters_.*reason);
    return Outcome::dropped;
}

void VxlanPort::hold(Packet* packet) noexcept {
    if (held_count_ == held_.size()) {
        drop(&PortCounters::dropped_held_up);
        complete(packet);
        return;
    }
    held_[held_count_++] = packet;
}

std::size_t VxlanPort::receive(std::span<Packet*> packets) noexcept {
    return receiver_ ? receiver_->receive(packets, counters_) : 0;
}

}  // namespace uvif
