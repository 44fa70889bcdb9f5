// SPDX-License-Identifier: MIT
#include "port/vxlan_receiver.hpp"

#include <netinet/udp.h>

#include <algorithm>
#include <cstring>

#include "packet/checksum.hpp"
#include "packet/headers.hpp"
#include "packet/wire.hpp"
#include "port/vxlan_header.hpp"
#include "runtime/clock.hpp"
#include "runtime/limits.hpp"

namespace uvif {

namespace {

/// What the kernel says of how a message is cut; 0: not at all.
std::size_t gathered_length(msghdr& header) noexcept {
    for (cmsghdr* control = CMSG_FIRSTHDR(&header); control != nullptr; control = CMSG_NXTHDR(&header, control)) {
        if (control->cmsg_level == SOL_UDP && control->cmsg_type == UDP_GRO) {
            int length = 0;
            std::memcpy(&length, CMSG_DATA(control), sizeof length);
            return length > 0 ? static_cast<std::size_t>(length) : 0;
        }
    }
    return 0;
}

/// The checksum field holds no more than the pseudo header's sum. A frame from this very machine may come so, through
/// a veth pair whose ends leave checksums to each other. To complete one that is whole and has the same value by chance
/// would change nothing, so that nothing is lost by taking it for blank.
bool has_blank_checksum(std::span<const std::byte> frame, const Headers& headers) noexcept {
    if (headers.depth != HeaderDepth::transport) {
        return false;
    }
    const std::size_t ip_length = headers.ip_version == 4
                                      ? load_be16(frame, headers.l3_offset + 2U)
                                      : ipv6_header_length + load_be16(frame, headers.l3_offset + 4U);
    const std::size_t field = headers.checksum_offset();
    return frame.size() == headers.l3_offset + ip_length && field + 2 <= frame.size() &&
           load_be16(frame, field) == pseudo_header_sum(frame, headers, static_cast<std::uint32_t>(frame.size()));
}

}  // namespace

VxlanReceiver::VxlanReceiver(int fd, std::uint32_t vni, const UnderlayAddress& local, VxlanTable& table,
                             const VxlanGuest& guest)
    : fd_(fd),
      vni_(vni),
      local_(local),
      table_(table),
      guest_(guest),
      gro_(guest.gso),
      buffers_(std::make_unique_for_overwrite<std::byte[]>(messages_max * buffer_octets)) {}

std::size_t VxlanReceiver::receive(std::span<Packet* const> packets, PortCounters& counters) noexcept {
    now_s_ = static_cast<std::uint32_t>(monotonic_ns() / ns_per_s);
    std::size_t count = 0;
    std::size_t octets = 0;
    bool more = true;
    for (unsigned calls = 0;;) {
        while (plan_ || current_ < filled_) {
            // Without room for another packet there may be some in the last.
            Packet* const room = count < packets.size() ? packets[count] : nullptr;
            if (plan_) {
                if (room == nullptr) {
                    break;
                }
                take_segment(*room);
                ++count;
                continue;
            }
            const std::span<const std::byte> datagram = next_datagram();
            const Fate fate = accept(room, datagram, counters);
            if (fate == Fate::waits) {
                break;
            }
            count += fate == Fate::packet ? 1 : 0;
            pass(datagram.size());
        }
        if (count == packets.size() || !more || calls == calls_max ||
            octets >= limits::vxlan_received_octets_per_turn) {
            break;
        }
        more = fetch(counters, octets);
        ++calls;
    }
    gro_.end();
    counters.received += count;
    return count;
}

/// True: there may be more. Adds what came to `octets`.
bool VxlanReceiver::fetch(PortCounters& counters, std::size_t& octets) noexcept {
    for (std::size_t i = 0; i < messages_max; ++i) {
        Message& message = messages_[i];
        message.piece = {.iov_base = buffers_.get() + i * buffer_octets, .iov_len = buffer_octets};
        msghdr header{};
        header.msg_name = &message.from;
        header.msg_namelen = sizeof message.from;
        header.msg_iov = &message.piece;
        header.msg_iovlen = 1;
        header.msg_control = message.control.data();
        header.msg_controllen = message.control.size();
        headers_[i].msg_hdr = header;
    }
    ++counters.system_calls;
    const int got = ::recvmmsg(fd_, headers_.data(), messages_max, MSG_DONTWAIT, nullptr);
    filled_ = got > 0 ? static_cast<std::size_t>(got) : 0;
    for (std::size_t i = 0; i < filled_; ++i) {
        octets += headers_[i].msg_len;
    }
    current_ = 0;
    open_message();
    return filled_ == messages_max;
}

void VxlanReceiver::open_message() noexcept {
    if (current_ == filled_) {
        return;
    }
    mmsghdr& header = headers_[current_];
    const std::size_t octets = std::min<std::size_t>(header.msg_len, buffer_octets);
    const bool whole = (header.msg_hdr.msg_flags & MSG_TRUNC) == 0;
    left_ = std::span<const std::byte>(buffers_.get() + current_ * buffer_octets, whole ? octets : 0);
    each_ = gathered_length(header.msg_hdr);
    sender_ = underlay_address(messages_[current_].from);
    if (sender_ && (!sender_->is_one_host() || *sender_ == local_)) {
        sender_.reset();
    }
}

/// Of the current message; an empty one, too, is one.
std::span<const std::byte> VxlanReceiver::next_datagram() const noexcept {
    return left_.first(each_ == 0 ? left_.size() : std::min(each_, left_.size()));
}

void VxlanReceiver::pass(std::size_t octets) noexcept {
    left_ = left_.subspan(octets);
    if (left_.empty()) {
        ++current_;
        open_message();
    }
}

/// 0, or how much payload packets of such a frame are to have: it is longer than any that comes from a real underlay.
std::uint16_t VxlanReceiver::super_size(std::span<const std::byte> frame, const Headers& headers) const noexcept {
    const std::uint32_t in_front = std::uint32_t{headers.l4_offset} - headers.l3_offset + headers.l4_header_length;
    return headers.is_tcp() && frame.size() > headers.l3_offset + guest_.mtu && in_front < guest_.mtu
               ? static_cast<std::uint16_t>(guest_.mtu - in_front)
               : 0;
}

void VxlanReceiver::take_segment(Packet& packet) noexcept {
    Fragment& room = packet.fragments[0];
    const std::size_t front = plan_->header_length;
    const auto payload = super_.subspan(front + std::size_t{segment_} * plan_->size, plan_->payload_of(segment_));
    room.length = static_cast<std::uint32_t>(front + payload.size());
    packet.length = room.length;
    packet.offload = {};
    std::memcpy(room.data, super_.data(), front);
    std::memcpy(room.data + front, payload.data(), payload.size());
    finish_segment(*plan_, segment_, std::span(&room, 1));
    if (++segment_ == plan_->count) {
        plan_.reset();
    }
}

/// Makes a packet of it in `packet`, or adds it to the one before. It waits when it needs the former, and there is
/// none.
VxlanReceiver::Fate VxlanReceiver::accept(Packet* packet, std::span<const std::byte> datagram,
                                          PortCounters& counters) noexcept {
    const auto vni = vxlan_header::read_vni(datagram);
    if (!vni || *vni != vni_) {
        ++counters.receive_foreign;
        ++counters.receive_dropped;
        return Fate::gone;
    }
    const std::span<const std::byte> frame = datagram.subspan(vxlan_header::length);
    if (frame.size() < limits::packet_length_min || (packet != nullptr && frame.size() > packet->fragments[0].length)) {
        ++counters.receive_dropped;
        return Fate::gone;
    }
    if (sender_) {
        Mac source;
        std::memcpy(source.data(), frame.data() + source.size(), source.size());
        table_.learn(source, *sender_, now_s_);
    }
    const Headers headers = parse_headers(frame.first(std::min(frame.size(), limits::header_octets)));
    const bool blank = has_blank_checksum(frame, headers);
    if (gro_.append(frame, headers, blank)) {
        return Fate::gone;
    }
    if (packet == nullptr) {
        return Fate::waits;
    }
    Offload offload{.checksum_blank = blank, .data_validated = blank};
    if (const std::uint16_t size = blank ? super_size(frame, headers) : 0; size != 0) {
        const bool ipv4 = headers.ip_version == 4;
        offload.gso_type = ipv4 ? GsoType::tcpv4 : GsoType::tcpv6;
        offload.gso_size = size;
        plan_ = plan_segments(offload, frame, static_cast<std::uint32_t>(frame.size()));
        if (!plan_) {
            offload = {.checksum_blank = true, .data_validated = true};
        } else if (can_be_gso(headers) && guest_.gso.takes(headers.ip_version)) {
            plan_.reset();
        } else {
            gro_.end();
            super_ = frame;
            segment_ = 0;
            return Fate::gone;  // the packets are its segments
        }
    }
    Fragment& room = packet->fragments[0];
    const std::uint32_t space = room.length;
    std::memcpy(room.data, frame.data(), frame.size());
    room.length = static_cast<std::uint32_t>(frame.size());
    packet->length = room.length;
    packet->offload = offload;
    gro_.begin(*packet, space, headers);
    return Fate::packet;
}

}  // namespace uvif
