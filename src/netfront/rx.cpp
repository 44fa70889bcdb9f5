// SPDX-License-Identifier: MIT
#include "netfront/rx.hpp"

#include <algorithm>

namespace uvif::netfront {
namespace {

/// Requests gathered before they are published: two cache lines of the ring.
constexpr std::uint32_t publish_batch = 16;
/// With fewer requests than this before the backend every one is published at once.
constexpr std::uint32_t publish_low = 64;

[[nodiscard]] constexpr bool fits_page(const ring::RxResponse& response) noexcept {
    return response.status >= 0 &&
           static_cast<std::uint32_t>(response.offset) + static_cast<std::uint32_t>(response.status) <= buffer_size;
}

[[nodiscard]] constexpr Offload offload_of(ring::RxFlags flags) noexcept {
    Offload offload;
    offload.checksum_blank = flags.has(ring::RxFlags::checksum_blank);
    offload.data_validated = flags.has(ring::RxFlags::data_validated);
    return offload;
}

constexpr std::uint8_t hash_type_count = 4;  // as bit numbers: see HashTypes
constexpr const char* wrong_id = "an RX answer whose id is not that of the request in its slot";

}  // namespace

RxQueue::RxQueue(std::byte* ring_page, std::byte* buffers, std::span<const xen::GrantRef> refs,
                 std::uint32_t first_buffer, const RxFeatures& features, ring::Index first_index) noexcept
    : ring_(ring_page, first_index),
      buffers_(buffers),
      buffer_count_(static_cast<std::uint32_t>(std::min(refs.size(), capacity))),
      first_buffer_(first_buffer),
      features_(features) {
    for (std::uint32_t i = buffer_count_; i-- != 0;) {
        refs_[i] = static_cast<std::uint32_t>(refs[i]);
        give_back(static_cast<std::uint16_t>(i));
    }
    post();
    // Nobody listens yet, so nobody is told: the backend looks when it connects.
    static_cast<void>(flush());
}

void RxQueue::post() noexcept {
    while (free_count_ != 0 && ring_.room() != 0) {
        const std::uint16_t buffer = free_[--free_count_];
        const std::uint32_t position = ring_.produced() & position_mask;
        posted_[position] = buffer;
        ring_.put(ring::RxRequest{static_cast<std::uint16_t>(position), 0, refs_[buffer]});
        ++unpublished_;
    }
}

bool RxQueue::flush() noexcept {
    unpublished_ = 0;
    return ring_.push_and_check_notify();
}

Fragment RxQueue::fragment(const ring::RxResponse& response, std::uint16_t buffer) const noexcept {
    return {buffers_ + buffer * buffer_size + response.offset, static_cast<std::uint32_t>(response.status),
            first_buffer_ + buffer};
}

void RxQueue::lend(std::uint16_t buffer) noexcept {
    lent_[buffer] = true;
    ++lent_count_;
}

RxQueue::Received RxQueue::receive(std::span<Packet> packets, QueueStatistics& statistics) noexcept {
    Received received{0, false, nullptr};
    bool dry = false;
    // A packet needs at least a slot, so what was taken always fits `packets`; chains may leave room for more.
    while (received.packets < packets.size() && !dry) {
        const std::size_t want = std::min(packets.size() - received.packets, capacity);
        const ring::Index at = ring_.consumed();
        const ring::Taken taken = ring_.take({slots_.data(), want});
        if (taken.impossible) {
            received.breach = "the RX ring claims more answers than there were requests";
            return received;
        }
        statistics.rx_slots += taken.count;
        for (ring::Index i = 0; i < taken.count; ++i) {
            received.breach = accept(at + i, slots_[i], packets, received.packets, statistics);
            if (received.breach != nullptr) {
                return received;
            }
        }
        dry = taken.count < want;
    }
    statistics.rx_packets += received.packets;
    if (free_count_ != 0) {
        post();
    }
    if (unpublished_ >= publish_batch || (dry && unpublished_ != 0)) {
        received.notify = flush();
    }
    return received;
}

/// One slot of the ring, as it was copied out of it.
const char* RxQueue::accept(ring::Index at, const ring::RxSlot& slot, std::span<Packet> packets, std::size_t& count,
                            QueueStatistics& statistics) noexcept {
    const std::uint32_t position = at & position_mask;
    const std::uint16_t buffer = posted_[position];
    const ring::RxResponse response = slot.response();
    if (chain_.stage == Stage::extra) {
        if (const char* breach = accept_extra(slot.extra(), buffer)) {
            return breach;
        }
    } else {
        if (response.id != position) {
            return wrong_id;
        }
        constexpr std::uint16_t chained = ring::RxFlags::more_data | ring::RxFlags::extra_info;
        if (chain_.stage == Stage::first && !response.flags.has(chained) && fits_page(response) &&
            response.status >= static_cast<std::int16_t>(ring::ethernet_header_size)) {
            // The ordinary packet of one slot never passes through chain_.
            Packet& packet = packets[count++];
            packet.length = static_cast<std::uint32_t>(response.status);
            packet.fragment_count = 1;
            packet.offload = offload_of(response.flags);
            packet.hash_type = 0;
            packet.fragments[0] = fragment(response, buffer);
            __builtin_prefetch(packet.fragments[0].data);
            lend(buffer);
            statistics.rx_bytes += packet.length;
            return nullptr;
        }
        if (const char* breach = accept_response(response, buffer)) {
            return breach;
        }
    }
    if (chain_.stage == Stage::first) {
        finish(packets, count, statistics);
    }
    return nullptr;
}

const char* RxQueue::accept_response(const ring::RxResponse& response, std::uint16_t buffer) noexcept {
    const bool extra = response.flags.has(ring::RxFlags::extra_info);
    if (chain_.stage == Stage::first) {
        chain_.packet.length = 0;
        chain_.packet.fragment_count = 0;
        chain_.packet.offload = offload_of(response.flags);
        chain_.packet.hash_type = 0;
        chain_.bad = false;
        chain_.slots = 0;
    } else if (extra) {
        return "an RX answer with extra info behind the first of its packet";
    }
    add(response, buffer);
    chain_.more_data = response.flags.has(ring::RxFlags::more_data);
    chain_.stage = extra ? Stage::extra : chain_.more_data ? Stage::data : Stage::first;
    return nullptr;
}

const char* RxQueue::accept_extra(const ring::ExtraInfo& extra, std::uint16_t buffer) noexcept {
    give_back(buffer);  // an extra stands where an answer would: the buffer was not used
    if (extra.type == 0 || extra.type >= ring::extra_type_count) {
        return "an RX extra of an unknown type";
    }
    if (extra.type == static_cast<std::uint8_t>(ring::ExtraType::gso)) {
        const auto type = static_cast<GsoType>(extra.gso_type());
        const bool offered = (type == GsoType::tcpv4 && features_.tcpv4) || (type == GsoType::tcpv6 && features_.tcpv6);
        if (offered && extra.gso_size() != 0) {
            chain_.packet.offload.gso_type = type;
            chain_.packet.offload.gso_size = extra.gso_size();
        } else {
            chain_.bad = true;
        }
    }
    if (extra.type == static_cast<std::uint8_t>(ring::ExtraType::hash) && extra.hash_type() < hash_type_count) {
        chain_.packet.hash_type = static_cast<std::uint8_t>(1U << extra.hash_type());
        chain_.packet.hash = extra.hash_value();
    }
    if ((extra.flags & ring::ExtraInfo::more) == 0) {
        chain_.stage = chain_.more_data ? Stage::data : Stage::first;
    }
    return nullptr;
}

/// Adds what one answer brought to the packet, or takes its buffer back when that is nothing.
void RxQueue::add(const ring::RxResponse& response, std::uint16_t buffer) noexcept {
    // Zero-length slots count too, or a chain could go on for ever without being too long.
    chain_.slots = std::min<std::uint32_t>(chain_.slots + 1, max_fragments + 1);
    if (!fits_page(response) || chain_.slots > max_fragments) {
        chain_.bad = true;
    }
    if (chain_.bad || response.status == 0) {
        give_back(buffer);
        return;
    }
    Packet& packet = chain_.packet;
    packet.fragments[packet.fragment_count++] = fragment(response, buffer);
    packet.length += static_cast<std::uint32_t>(response.status);
}

bool RxQueue::deliverable() const noexcept {
    const Packet& packet = chain_.packet;
    return !chain_.bad && packet.length >= ring::ethernet_header_size && packet.length <= max_packet_length;
}

void RxQueue::finish(std::span<Packet> packets, std::size_t& count, QueueStatistics& statistics) noexcept {
    const Packet& packet = chain_.packet;
    const std::span<const Fragment> fragments(packet.fragments.data(), packet.fragment_count);
    if (!deliverable()) {
        ++statistics.rx_errors;
        for (const Fragment& piece : fragments) {
            give_back(static_cast<std::uint16_t>(piece.buffer - first_buffer_));
        }
        return;
    }
    Packet& out = packets[count++];
    out.length = packet.length;
    out.fragment_count = packet.fragment_count;
    out.offload = packet.offload;
    out.hash_type = packet.hash_type;
    out.hash = packet.hash;
    std::ranges::copy(fragments, out.fragments.begin());
    for (const Fragment& piece : fragments) {
        lend(static_cast<std::uint16_t>(piece.buffer - first_buffer_));
    }
    __builtin_prefetch(out.fragments[0].data);
    statistics.rx_bytes += out.length;
}

bool RxQueue::release(std::span<const Packet> packets) noexcept {
    for (const Packet& packet : packets) {
        const std::size_t count = std::min<std::size_t>(packet.fragment_count, max_fragments);
        for (std::size_t i = 0; i < count; ++i) {
            const std::uint32_t buffer = packet.fragments[i].buffer - first_buffer_;
            // A buffer that is not the application's is left alone: posted twice it would be filled twice.
            if (buffer < buffer_count_ && lent_[buffer]) {
                lent_[buffer] = false;
                --lent_count_;
                give_back(static_cast<std::uint16_t>(buffer));
            }
        }
    }
    post();
    const bool low = ring_.in_flight() - unpublished_ < publish_low;
    return (unpublished_ >= publish_batch || low) && flush();
}

}  // namespace uvif::netfront
