// SPDX-License-Identifier: MIT
#include "port/null.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "packet/checksum.hpp"
#include "packet/pieces.hpp"
#include "packet/wire.hpp"

namespace uvif {

namespace {

constexpr std::size_t cache_line = 64;
constexpr std::size_t mac_length = 6;
constexpr std::size_t ethernet_length = 14;
constexpr std::size_t ipv4_length = 20;
constexpr std::uint16_t discard_port = 9;

/// Sum of the first cache line's whole 64-bit words.
std::uint64_t inspect(const Packet& packet) noexcept {
    const Fragment& first = packet.fragments[0];
    const std::size_t octets = std::min<std::size_t>(first.length, cache_line);
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i + sizeof sum <= octets; i += sizeof sum) {
        std::uint64_t word = 0;
        std::memcpy(&word, first.data + i, sizeof word);
        sum += word;
    }
    return sum;
}

void store(std::span<std::byte> octets, std::size_t offset, std::initializer_list<unsigned> values) noexcept {
    for (const unsigned value : values) {
        octets[offset++] = static_cast<std::byte>(value);
    }
}

}  // namespace

Result<std::unique_ptr<NullPort>> NullPort::create(const NullConfig& config) {
    if (config.mode == NullMode::generate &&
        (config.packet_length < NullConfig::packet_length_min || config.packet_length > limits::packet_length)) {
        return fail(EINVAL, fmt::format("cannot generate packets of {} octets: choose {} to {}", config.packet_length,
                                        NullConfig::packet_length_min, limits::packet_length));
    }
    std::unique_ptr<NullPort> port(new NullPort(config));
    if (config.mode == NullMode::reflect) {
        auto buffers = BufferPool::create(limits::reflected_packets, limits::packet_length + 1);
        if (!buffers) {
            return propagate(buffers);
        }
        port->buffers_ = std::make_unique<BufferPool>(std::move(*buffers));
    }
    return port;
}

NullPort::NullPort(const NullConfig& config) noexcept : mode_(config.mode), packet_length_(config.packet_length) {
    if (mode_ != NullMode::generate) {
        return;
    }
    const std::span<std::byte> octets(template_);
    std::memcpy(octets.data(), config.destination.data(), mac_length);
    store(octets, mac_length, {0x02, 0, 0, 0, 0, 0x01, 0x08, 0x00});  // a locally administered source; IPv4

    const auto ip = octets.subspan(ethernet_length, ipv4_length);
    store(ip, 0, {0x45, 0});
    store_be16(ip, 2, static_cast<std::uint16_t>(packet_length_ - ethernet_length));
    store(ip, 6, {0x40, 0, 64, protocol_udp});  // do not fragment; 64 hops
    store(ip, 12, {192, 0, 2, 1});              // TEST-NET-1, RFC 5737
    store(ip, 16, {192, 0, 2, 2});
    store_be16(ip, 10, static_cast<std::uint16_t>(~checksum_sum(ip)));

    const auto udp = octets.subspan(ethernet_length + ipv4_length);
    store_be16(udp, 0, discard_port);
    store_be16(udp, 2, discard_port);
    store_be16(udp, 4, static_cast<std::uint16_t>(packet_length_ - ethernet_length - ipv4_length));
    // Checksum 0: none, which UDP over IPv4 allows. The payload is whatever the buffer holds.
}

void NullPort::submit(std::span<Packet* const> packets) noexcept {
    counters_.submitted += packets.size();
    for (Packet* packet : packets) {
        inspected_ += inspect(*packet);
        if (mode_ == NullMode::reflect) {
            reflect(*packet);
            packet->copied = true;
        }
        complete(packet);
    }
}

std::size_t NullPort::receive(std::span<Packet*> packets) noexcept {
    std::size_t count = 0;
    if (mode_ == NullMode::generate) {
        count = generate(packets);
    } else if (mode_ == NullMode::reflect) {
        count = take_reflected(packets);
    }
    counters_.received += count;
    return count;
}

std::size_t NullPort::generate(std::span<Packet* const> packets) noexcept {
    for (Packet* packet : packets) {
        std::byte* const to = packet->fragments[0].data;
        std::memcpy(to, template_.data(), template_length);
        std::memcpy(to + template_length, &sequence_, sizeof sequence_);
        ++sequence_;
        cut_to(*packet, packet_length_);
        packet->offload = {.checksum_blank = false, .data_validated = true};
    }
    return packets.size();
}

void NullPort::reflect(const Packet& packet) noexcept {
    std::byte* buffer =
        packet.length > limits::packet_length || packet.length < limits::packet_length_min ? nullptr : buffers_->take();
    if (buffer == nullptr) {
        ++counters_.submit_dropped;
        ++counters_.dropped_held_up;
        return;
    }
    std::byte* end = buffer;
    for (const Fragment& piece : packet.pieces()) {
        std::memcpy(end, piece.data, piece.length);
        end += piece.length;
    }
    std::swap_ranges(buffer, buffer + mac_length, buffer + mac_length);
    ring_[ring_end_++ % ring_.size()] = {buffer, packet.length, packet.offload};
}

std::size_t NullPort::take_reflected(std::span<Packet* const> packets) noexcept {
    const std::size_t count = std::min<std::size_t>(packets.size(), ring_end_ - ring_begin_);
    for (Packet* packet : packets.first(count)) {
        const Reflected& reflected = ring_[ring_begin_++ % ring_.size()];
        Fragment& room = packet->fragments[0];
        std::memcpy(room.data, reflected.buffer, reflected.length);
        room.length = reflected.length;
        packet->length = reflected.length;
        packet->offload = reflected.offload;
        buffers_->give(reflected.buffer);
    }
    return count;
}

}  // namespace uvif
