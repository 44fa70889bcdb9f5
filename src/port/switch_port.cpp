// SPDX-License-Identifier: MIT
#include "port/switch_port.hpp"

#include <algorithm>
#include <utility>

#include "packet/headers.hpp"
#include "packet/vnet_header.hpp"

namespace uvif {
namespace {

constexpr std::uint64_t group_bit = std::uint64_t{1} << 40;  // of the first octet: multicast and broadcast
constexpr std::size_t mac_size = 6;

/// Whether the guest can be given the frame as it is.
bool takes(const SwitchFeatures& features, const Packet& packet, const Headers& headers) noexcept {
    const bool v6 = headers.ip_version == 6;
    const Offload& offload = packet.offload;
    if (offload.gso_type != GsoType::none) {
        return offload.gso_type == GsoType::tcpv4 ? features.gso_v4 : features.gso_v6;
    }
    return packet.length <= features.frame_max && (features.scatter_gather || packet.length <= xen::page_size) &&
           (!offload.checksum_blank || (v6 ? features.checksum_v6 : features.checksum_v4));
}

/// The same for all packets of a flow, whatever else: an FNV-1a of addresses and ports.
std::uint32_t flow_hash(std::span<const std::byte> octets, const Headers& headers) noexcept {
    std::uint32_t hash = 2166136261U;
    const auto add = [&hash, octets](std::size_t at, std::size_t count) {
        for (std::size_t i = at; i < at + count && i < octets.size(); ++i) {
            hash = (hash ^ std::to_integer<std::uint32_t>(octets[i])) * 16777619U;
        }
    };
    if (headers.ip_version == 4) {
        add(headers.l3_offset + 12U, 8);
    } else if (headers.ip_version == 6) {
        add(headers.l3_offset + 8U, 32);
    } else {
        add(0, 2 * mac_size);
    }
    if (headers.depth == HeaderDepth::transport && !headers.fragment) {
        add(headers.l4_offset, 4);
    }
    return hash;
}

}  // namespace

SwitchPort::~SwitchPort() {
    // Who destroys it has seen to it that nothing more comes.
    give_back([](const Packet&) { return true; });
}

void SwitchPort::classify(std::span<Packet* const> packets) noexcept {
    for (Packet* packet : packets) {
        packet->route = find(*packet);
        expect(packet->route != nullptr);
    }
}

void SwitchPort::expect(bool passes) noexcept {
    expected_ = passes ? expected_max : expected_ - (expected_ == 0 ? 0 : 1);
}

SwitchPort* SwitchPort::find(const Packet& packet) noexcept {
    const Fragment& first = packet.fragments[0];
    const std::span<const std::byte> octets(first.data, first.length);
    const Switch::MemberId id = seat_.id.load(std::memory_order_relaxed);
    if (octets.size() < limits::packet_length_min || id == Switch::no_member) {
        return nullptr;
    }
    const MacNumber to = mac_number(octets.first<mac_size>());
    const MacNumber from = mac_number(octets.subspan<mac_size, mac_size>());
    if (is_spoofed(packet)) {
        return nullptr;
    }
    if (from != seat_.member.mac && (from & group_bit) == 0) {
        seat_.table.learn(from, id);
    }
    if ((to & group_bit) != 0) {
        return nullptr;
    }
    const SwitchMember* const member = seat_.table.find(to);
    if (member == nullptr || member == &seat_.member) {
        return nullptr;
    }
    if (member->isolated.load(std::memory_order_relaxed) && seat_.member.isolated.load(std::memory_order_relaxed)) {
        return nullptr;  // the bridge knows as well, and drops it
    }
    const Headers headers = parse_headers(octets);
    if (!takes(member->features, packet, headers)) {
        return nullptr;
    }
    // The receiver believes the metadata: what does not fit the headers, the bridge's port mends or drops.
    if (const auto checked = to_vnet(packet.offload, octets, packet.length); !checked || checked->gso_fixup) {
        return nullptr;
    }
    const std::size_t queues = member->ports.size();
    const bool alike = queues == seat_.member.ports.size();
    SwitchPort* const port = member->ports[alike ? seat_.index : flow_hash(octets, headers) % queues];
    return port->crowded_.load(std::memory_order_relaxed) ? nullptr : port;
}

void SwitchPort::submit(std::span<Packet* const> packets) noexcept {
    const auto is_for_bridge = [this](const Packet* p) { return p->route == nullptr && !is_spoofed(*p); };
    // Runs of packets for the bridge are handed on as they are.
    while (!packets.empty()) {
        const auto run = static_cast<std::size_t>(std::ranges::find_if_not(packets, is_for_bridge) - packets.begin());
        if (run != 0) {
            bridge_->submit(packets.first(run));
        }
        packets = packets.subspan(run);
        for (; !packets.empty() && !is_for_bridge(packets.front()); packets = packets.subspan(1)) {
            Packet* const packet = packets.front();
            packet->copied = false;
            if (packet->route != nullptr) {
                ++passed_;
                packet->route->deliver(packet);
            } else {
                ++spoofed_;
                complete(packet);
            }
        }
    }
}

bool SwitchPort::is_spoofed(const Packet& packet) const noexcept {
    return seat_.member.own_address_only.load(std::memory_order_relaxed) &&
           mac_number(std::span(packet.fragments[0].data, packet.fragments[0].length).subspan<mac_size, mac_size>()) !=
               seat_.member.mac;
}

/// Who sends from behind the bridge is not behind a member, or no longer.
std::size_t SwitchPort::receive(std::span<Packet*> packets) noexcept {
    const std::size_t count = bridge_->receive(packets);
    for (const Packet* packet : packets.first(count)) {
        const std::span<const std::byte> octets(packet->fragments[0].data, packet->fragments[0].length);
        seat_.table.seen_outside(mac_number(octets.subspan<mac_size, mac_size>()));
    }
    return count;
}

std::size_t SwitchPort::take_passed(std::span<Packet*> packets) noexcept {
    return arrived_.take(packets);
}

void SwitchPort::give_back(const std::function<bool(const Packet&)>& concerns) noexcept {
    arrived_.give_back(concerns);
}

const PortCounters& SwitchPort::counters() const noexcept {
    counters_ = bridge_->counters();
    counters_.submitted += passed_ + spoofed_;
    counters_.passed = passed_;
    counters_.submit_dropped += spoofed_;
    counters_.dropped_spoofed = spoofed_;
    return counters_;
}

}  // namespace uvif
