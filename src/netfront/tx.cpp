// SPDX-License-Identifier: MIT
#include "netfront/tx.hpp"

#include <algorithm>
#include <cerrno>

namespace uvif::netfront {
namespace {

/// Buffers begin at 32 different lines of a page: all first lines on page boundaries would share one set
/// of the L1 cache. 32 lines leave 2112 octets, room for a frame of the ordinary MTU.
constexpr std::uint32_t colour_offset(std::uint32_t buffer) noexcept {
    return buffer % 32 * 64;
}

constexpr std::uint16_t tx_flags(const Offload& offload) noexcept {
    const auto blank = static_cast<unsigned>(offload.checksum_blank) * ring::TxFlags::checksum_blank;
    const auto valid = static_cast<unsigned>(offload.data_validated) * ring::TxFlags::data_validated;
    return static_cast<std::uint16_t>(blank | valid);
}

}  // namespace

TxQueue::TxQueue(std::byte* ring_page, std::byte* pages, std::span<const xen::GrantRef> refs, unsigned headers,
                 const TxFeatures& features, ring::Index first_index) noexcept
    : ring_(ring_page, first_index),
      buffers_(pages),
      buffer_count_(static_cast<std::uint32_t>(std::min(refs.size() - header_pages(headers), capacity))),
      header_count_(headers),
      features_(features) {
    headers_ = buffers_ + buffer_count_ * buffer_size;
    for (std::uint32_t i = buffer_count_; i-- != 0;) {
        refs_[i] = static_cast<std::uint32_t>(refs[i]);
        give_back(i);
    }
    for (std::uint32_t i = header_count_; i-- != 0;) {
        refs_[first_header + i] = static_cast<std::uint32_t>(refs[buffer_count_ + i / headers_per_page]);
        give_back(first_header + i);
    }
}

void TxQueue::give_back(std::uint32_t number) noexcept {
    sent_as_[number] = 0;
    if (number < first_header) {
        free_[free_count_++] = static_cast<std::uint16_t>(number);
    } else {
        free_headers_[free_header_count_++] = static_cast<std::uint16_t>(number);
    }
}

std::size_t TxQueue::allocate(std::span<Fragment> buffers, bool whole_pages) noexcept {
    const std::size_t count = std::min(buffers.size(), free_count_);
    for (std::size_t i = 0; i < count; ++i) {
        const std::uint32_t buffer = free_[--free_count_];
        const std::uint32_t offset = whole_pages ? 0 : colour_offset(buffer);
        sent_as_[buffer] = lent;
        buffers[i] = {buffers_ + buffer * buffer_size + offset, static_cast<std::uint32_t>(buffer_size) - offset,
                      buffer};
    }
    return count;
}

std::size_t TxQueue::allocate_headers(std::span<Fragment> slots) noexcept {
    const std::size_t count = std::min(slots.size(), free_header_count_);
    for (Fragment& slot : slots.first(count)) {
        const std::uint32_t number = free_headers_[--free_header_count_];
        sent_as_[number] = lent;
        slot = {headers_ + (number - first_header) * header_size, static_cast<std::uint32_t>(header_size), number};
    }
    return count;
}

void TxQueue::free(std::span<const Fragment> buffers) noexcept {
    for (const Fragment& fragment : buffers) {
        // A buffer that is not the application's is left alone: freed twice it would be lent twice.
        if (exists(fragment.buffer) && sent_as_[fragment.buffer] == lent) {
            give_back(fragment.buffer);
        }
    }
}

/// The application holds the fragment's buffer or header slot, which may stand there, and the fragment is a piece of
/// it.
bool TxQueue::owns(const Fragment& fragment, bool first) const noexcept {
    if (!exists(fragment.buffer) || sent_as_[fragment.buffer] != lent) {
        return false;
    }
    const bool header = fragment.buffer >= first_header;
    if (header && !first) {
        return false;
    }
    const std::size_t room = header ? header_size : buffer_size;
    const std::byte* const start =
        header ? headers_ + (fragment.buffer - first_header) * header_size : buffers_ + fragment.buffer * buffer_size;
    const auto offset = reinterpret_cast<std::uintptr_t>(fragment.data) - reinterpret_cast<std::uintptr_t>(start);
    return offset < room && fragment.length != 0 && fragment.length <= room - offset;
}

int TxQueue::judge_offload(const Packet& packet) const noexcept {
    const Offload& offload = packet.offload;
    switch (offload.gso_type) {
        case GsoType::none:
            if (offload.gso_size != 0) {
                return EINVAL;
            }
            break;
        case GsoType::tcpv4:
        case GsoType::tcpv6:
            if (offload.gso_size == 0) {
                return EINVAL;
            }
            if (!(offload.gso_type == GsoType::tcpv4 ? features_.tcpv4 : features_.tcpv6)) {
                return EOPNOTSUPP;
            }
            break;
        default:
            return EINVAL;
    }
    if (offload.checksum_blank && !features_.checksum_ipv4 && !features_.checksum_ipv6) {
        return EOPNOTSUPP;
    }
    return 0;
}

/// Takes the packet's buffers from the application, all or none: only so a buffer named twice is found.
int TxQueue::claim(const Packet& packet) noexcept {
    for (std::size_t i = 0; i < packet.fragment_count; ++i) {
        if (!owns(packet.fragments[i], i == 0)) {
            while (i-- != 0) {
                sent_as_[packet.fragments[i].buffer] = lent;
            }
            return EINVAL;
        }
        sent_as_[packet.fragments[i].buffer] = next_number_;
    }
    return 0;
}

/// 0: the packet may go, its buffers are claimed and `total` is its length.
int TxQueue::judge(const Packet& packet, std::uint32_t& total) noexcept {
    if (packet.fragment_count == 0 || packet.fragments[0].length < ring::ethernet_header_size) {
        return EINVAL;
    }
    if (packet.fragment_count > max_tx_fragments) {
        return EMSGSIZE;
    }
    if (packet.fragment_count > 1 && !features_.scatter_gather) {
        return EOPNOTSUPP;
    }
    if (const int error = judge_offload(packet)) {
        return error;
    }
    if (const int error = claim(packet)) {
        return error;
    }
    total = 0;
    for (std::size_t i = 0; i < packet.fragment_count; ++i) {
        total += packet.fragments[i].length;
    }
    if (total > max_packet_length) {
        for (std::size_t i = 0; i < packet.fragment_count; ++i) {
            sent_as_[packet.fragments[i].buffer] = lent;
        }
        return EMSGSIZE;
    }
    return 0;
}

void TxQueue::put(const Packet& packet, std::uint32_t total) noexcept {
    const bool gso = packet.offload.gso_type != GsoType::none;
    auto flags = static_cast<std::uint16_t>(tx_flags(packet.offload) | (gso ? ring::TxFlags::extra_info : 0));
    std::uint32_t size = total;  // the first slot tells the whole packet's, the others their own
    for (std::size_t i = 0; i < packet.fragment_count; ++i) {
        const Fragment& fragment = packet.fragments[i];
        const bool more = i + 1 < packet.fragment_count;
        const auto offset = static_cast<std::uint16_t>(reinterpret_cast<std::uintptr_t>(fragment.data) % buffer_size);
        ring_.put(ring::TxSlot::from(ring::TxRequest{
            .gref = refs_[fragment.buffer],
            .offset = offset,
            .flags = {static_cast<std::uint16_t>(flags | (more ? ring::TxFlags::more_data : 0))},
            .id = static_cast<std::uint16_t>(fragment.buffer),
            .size = static_cast<std::uint16_t>(i == 0 ? size : fragment.length),
        }));
        if (i == 0 && gso) {
            ring_.put(ring::TxSlot::from(ring::ExtraInfo::gso(packet.offload.gso_type, packet.offload.gso_size)));
            ++extras_owed_;
        }
        flags = 0;
    }
    // Numbers 0 and 1 mean free and lent.
    next_number_ = next_number_ == UINT32_MAX ? lent + 1 : next_number_ + 1;
}

TxQueue::Sent TxQueue::send(std::span<const Packet> packets, QueueStatistics& statistics) noexcept {
    Sent sent{0, 0, false};
    for (const Packet& packet : packets) {
        const std::uint32_t slots = packet.fragment_count + (packet.offload.gso_type != GsoType::none ? 1U : 0U);
        if (slots > ring_.room() && packet.fragment_count <= max_tx_fragments) {
            break;
        }
        std::uint32_t total = 0;
        sent.error = judge(packet, total);
        if (sent.error != 0) {
            break;
        }
        put(packet, total);
        statistics.tx_bytes += total;
        statistics.tx_slots += slots;
        ++sent.packets;
    }
    statistics.tx_packets += sent.packets;
    sent.notify = ring_.push_and_check_notify();
    return sent;
}

int TxQueue::ask_for_group(ring::ExtraType type, const std::array<std::uint8_t, 6>& group, bool& notify) noexcept {
    notify = false;
    if ((group[0] & 1U) == 0) {
        return EINVAL;
    }
    if (!features_.groups) {
        return EOPNOTSUPP;
    }
    if (ring_.room() < 2) {
        return EAGAIN;
    }
    // Names no page: the backend is not to look for data.
    ring_.put(ring::TxSlot::from(
        ring::TxRequest{.gref = 0, .offset = 0, .flags = {ring::TxFlags::extra_info}, .id = group_id, .size = 0}));
    ring_.put(ring::TxSlot::from(ring::ExtraInfo::multicast(type, group)));
    ++groups_owed_;
    ++extras_owed_;
    notify = ring_.push_and_check_notify();
    return 0;
}

const char* TxQueue::reap(QueueStatistics& statistics) noexcept {
    const ring::Taken taken = ring_.take(responses_);
    if (taken.impossible) {
        return "the TX ring claims more answers than there were requests";
    }
    for (ring::Index i = 0; i < taken.count; ++i) {
        const ring::TxResponse& response = responses_[i];
        if (response.status == static_cast<std::int16_t>(ring::TxStatus::null)) {
            if (extras_owed_ == 0) {
                return "a TX answer for an extra slot that was not sent";
            }
            --extras_owed_;
            continue;
        }
        if (response.id == group_id && groups_owed_ != 0) {
            --groups_owed_;
            statistics.groups_refused += response.status == static_cast<std::int16_t>(ring::TxStatus::okay) ? 0 : 1;
            continue;
        }
        if (!exists(response.id) || sent_as_[response.id] <= lent) {
            return "a TX answer with an id that is not in flight";
        }
        // Errors are few and the answers of a packet come together: so one packet counts once.
        if (response.status != static_cast<std::int16_t>(ring::TxStatus::okay) &&
            sent_as_[response.id] != last_error_) {
            last_error_ = sent_as_[response.id];
            ++statistics.tx_errors;
        }
        give_back(response.id);
    }
    return nullptr;
}

bool TxQueue::arm(bool patient) noexcept {
    const ring::Index ahead = patient ? ring_.in_flight() / 2 + 1 : 1;
    return ring_.arm(ahead) && ring_.available_seen() == 0;
}

}  // namespace uvif::netfront
