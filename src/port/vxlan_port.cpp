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

VxlanPort::VxlanPort(UniqueFd fd, VxlanNetwork& network, VxlanBuffers buffers, bool receives, const VxlanGuest& guest)
    : fd_(std::move(fd)), network_(network), sender_(fd_.get(), network.port, network.remotes, std::move(buffers)) {
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
    Outcome outcome = stage(*packet);
    if (outcome == Outcome::no_room) {
        sender_.send(counters_);
        if (sender_.blocked()) {
            return false;
        }
        outcome = stage(*packet);  // any packet fits into an empty buffer
    }
    packet->copied = outcome == Outcome::staged;
    complete(packet);
    sender_.send_complete(counters_);
    return true;
}

VxlanPort::Outcome VxlanPort::stage(const Packet& packet) noexcept {
    Head head;
    head.length = std::min<std::size_t>(packet.length, head.octets.size());
    const bool whole = Gather(packet.pieces()).copy(std::span(head.octets).first(head.length));
    if (!whole || packet.length < limits::packet_length_min || packet.length > limits::packet_length) {
        return drop(&PortCounters::dropped_refused);
    }
    return packet.offload.gso_type == GsoType::none ? stage_whole(packet, head) : stage_segments(packet, head);
}

VxlanPort::Outcome VxlanPort::stage_whole(const Packet& packet, const Head& head) noexcept {
    const std::size_t octets = vxlan_header::length + packet.length;
    const Headers headers = packet.offload.checksum_blank ? parse_headers(head.span()) : Headers{};
    if (packet.offload.checksum_blank && headers.depth != HeaderDepth::transport) {
        return drop(&PortCounters::dropped_metadata);
    }
    const auto to = destination(head);
    if (!to && network_.remotes.empty()) {
        return drop(&PortCounters::dropped_refused);
    }
    if (!sender_.has_room(1, octets)) {
        return Outcome::no_room;
    }
    const std::span<std::byte> datagram = sender_.stage(to, octets, true);
    vxlan_header::write(datagram, network_.vni);
    const std::span<std::byte> frame = datagram.subspan(vxlan_header::length);
    std::memcpy(frame.data(), head.octets.data(), head.length);
    Gather rest(packet.pieces());
    (void)(rest.skip(head.length) && rest.copy(frame.subspan(head.length)));
    if (packet.offload.checksum_blank) {
        const Fragment piece{frame.data(), packet.length};
        store_be16(frame, headers.checksum_offset(), completed_checksum(std::span(&piece, 1), headers));
    }
    return Outcome::staged;
}

VxlanPort::Outcome VxlanPort::stage_segments(const Packet& packet, const Head& head) noexcept {
    const auto plan = plan_segments(packet.offload, head.span(), packet.length);
    if (!plan) {
        return drop(&PortCounters::dropped_metadata);
    }
    const auto to = destination(head);
    if (!to && network_.remotes.empty()) {
        return drop(&PortCounters::dropped_refused);
    }
    const std::size_t front = vxlan_header::length + plan->header_length;
    if (!sender_.has_room(plan->count, plan->count * front + plan->payload_length)) {
        return Outcome::no_room;
    }
    counters_.gso_fixups += packet.offload.checksum_blank ? 0 : 1;
    Gather payload(packet.pieces());
    (void)payload.skip(plan->header_length);
    for (std::uint32_t i = 0; i < plan->count; ++i) {
        const std::span<std::byte> datagram = sender_.stage(to, front + plan->payload_of(i), i == 0);
        vxlan_header::write(datagram, network_.vni);
        const std::span<std::byte> segment = datagram.subspan(vxlan_header::length);
        std::memcpy(segment.data(), head.octets.data(), plan->header_length);
        (void)payload.copy(segment.subspan(plan->header_length));
        finish_segment(*plan, i, segment);
    }
    return Outcome::staged;
}

std::optional<UnderlayAddress> VxlanPort::destination(const Head& head) const noexcept {
    Mac mac;
    std::memcpy(mac.data(), head.octets.data(), mac.size());
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
