// SPDX-License-Identifier: MIT
#include "port/tap_port.hpp"

#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "packet/checksum.hpp"
#include "packet/pieces.hpp"
#include "packet/wire.hpp"

namespace uvif {

namespace {

/// The interface was deleted under its descriptor.
bool is_deleted(std::int64_t code) noexcept {
    return code == EBADFD || code == ENODEV;
}

}  // namespace

TapPort::TapPort(UniqueFd fd, Loop& loop, bool detach) noexcept : fd_(std::move(fd)), loop_(loop), detach_(detach) {}

TapPort::~TapPort() {
    flush(true);
    loop_.cancel_reads(std::span(read_operations_).first(posted_));
    if (detach_) {
        // Or the kernel would go on steering flows to a queue that nobody reads.
        ifreq request{};
        request.ifr_flags = IFF_DETACH_QUEUE;
        ::ioctl(fd_.get(), TUNSETQUEUE, &request);
    }
}

void TapPort::submit(std::span<Packet* const> packets) noexcept {
    counters_.submitted += packets.size();
    transmit(packets);
}

void TapPort::flush(bool abandon) noexcept {
    const std::size_t count = std::exchange(held_count_, 0);
    std::copy_n(held_.begin(), count, retried_.begin());
    transmit(std::span(retried_).first(count));
    if (abandon) {
        for (Packet* packet : std::span(held_).first(std::exchange(held_count_, 0))) {
            drop(packet, &PortCounters::dropped_held_up);
        }
    }
}

/// Sends in order until something is held; what follows is held behind it.
void TapPort::transmit(std::span<Packet* const> packets) noexcept {
    while (!packets.empty() && held_count_ == 0) {
        const std::size_t count = std::min<std::size_t>(packets.size(), Loop::write_batch_max);
        transmit_batch(packets.first(count));
        packets = packets.subspan(count);
    }
    for (Packet* packet : packets) {
        hold(packet);
    }
}

void TapPort::transmit_batch(std::span<Packet* const> packets) noexcept {
    std::size_t count = 0;
    for (Packet* packet : packets) {
        Slot& slot = slots_[count];
        slot.packet = packet;
        const std::span<const iovec> pieces = prepare(slot);
        if (pieces.empty()) {
            drop(packet, &PortCounters::dropped_metadata);
            continue;
        }
        operations_[count++] = {.fd = fd_.get(), .pieces = pieces, .result = 0};
    }
    if (count == 0) {
        return;
    }
    counters_.system_calls += loop_.write_batch(std::span(operations_).first(count));
    for (std::size_t i = 0; i < count; ++i) {
        settle(slots_[i], operations_[i].result);
    }
}

/// Fills a slot for its packet; nothing when the packet's metadata does not fit it.
std::span<const iovec> TapPort::prepare(Slot& slot) noexcept {
    const Packet& packet = *slot.packet;
    if (packet.fragment_count == 0) {
        return {};
    }
    const Fragment& first = packet.fragments[0];
    const std::span<const std::byte> octets(first.data, first.length);
    const auto translation = to_vnet(packet.offload, octets, packet.length);
    if (!translation) {
        return {};
    }
    slot.header = translation->header;
    std::size_t count = 0;
    slot.pieces[count++] = {.iov_base = &slot.header, .iov_len = sizeof slot.header};
    std::size_t rewritten = 0;
    if (translation->gso_fixup) {
        // The guest's page may be mapped read-only, and the packet is not ours to change.
        ++counters_.gso_fixups;
        rewritten = std::min(octets.size(), slot.scratch.size());
        const std::span<std::byte> copy = std::span(slot.scratch).first(rewritten);
        std::memcpy(copy.data(), octets.data(), rewritten);
        const Headers headers = parse_headers(octets);
        if (headers.checksum_offset() + 2U > rewritten) {
            return {};
        }
        store_be16(copy, headers.checksum_offset(), pseudo_header_sum(octets, headers, packet.length));
        slot.pieces[count++] = {.iov_base = copy.data(), .iov_len = rewritten};
    }
    if (octets.size() > rewritten) {
        slot.pieces[count++] = {.iov_base = first.data + rewritten, .iov_len = octets.size() - rewritten};
    }
    for (const Fragment& piece : packet.pieces().subspan(1)) {
        slot.pieces[count++] = {.iov_base = piece.data, .iov_len = piece.length};
    }
    return std::span(slot.pieces).first(count);
}

void TapPort::settle(const Slot& slot, std::int64_t result) noexcept {
    if (result >= 0) {
        counters_.reordered += held_count_ > 0 ? 1 : 0;
        slot.packet->copied = true;
        complete(slot.packet);
    } else if (result == -EAGAIN) {
        hold(slot.packet);
    } else if (result == -EIO) {
        drop(slot.packet, &PortCounters::dropped_link_down);
    } else {
        failed_ = failed_ || is_deleted(-result);
        drop(slot.packet, &PortCounters::dropped_refused);
    }
}

void TapPort::hold(Packet* packet) noexcept {
    if (held_count_ == held_.size()) {
        drop(packet, &PortCounters::dropped_held_up);
        return;
    }
    held_[held_count_++] = packet;
}

void TapPort::drop(Packet* packet, std::uint64_t PortCounters::* reason) noexcept {
    ++counters_.submit_dropped;
    ++(counters_.*reason);
    complete(packet);
}

namespace {

/// On the ring a blank checksum is that of the packet's own TCP or UDP header. The host may leave another one blank,
/// behind a tunnel's headers, and says where: that is completed here.
void finish_inner_checksum(Packet& packet, const VnetHeader& header) noexcept {
    const Fragment& first = packet.fragments[0];
    const Headers headers = parse_headers({first.data, std::min<std::size_t>(first.length, limits::header_octets)});
    const bool own = headers.depth == HeaderDepth::transport && header.csum_start == headers.l4_offset &&
                     header.csum_start + header.csum_offset == headers.checksum_offset();
    if (own || packet.offload.gso_type != GsoType::none) {
        return;
    }
    bring_together(packet);
    if (complete_checksum_at({first.data, first.length}, header.csum_start, header.csum_offset)) {
        packet.offload.checksum_blank = false;
        packet.offload.data_validated = false;
    }
}

}  // namespace

std::size_t TapPort::receive(std::span<Packet*> packets) noexcept {
    std::size_t count = reading_ahead() ? take_reads(packets) : 0;
    if (!reading_ahead()) {
        count += read(packets.subspan(count));
    }
    counters_.received += count;
    return count;
}

std::size_t TapPort::read(std::span<Packet* const> packets) noexcept {
    std::size_t count = 0;
    while (count < packets.size() && !failed_) {
        Packet& packet = *packets[count];
        VnetHeader header;
        std::array<iovec, Packet::max_fragments + 1> pieces;
        pieces[0] = {.iov_base = &header, .iov_len = sizeof header};
        std::ranges::transform(packet.pieces(), pieces.begin() + 1, [](const Fragment& room) {
            return iovec{.iov_base = room.data, .iov_len = room.length};
        });
        ++counters_.system_calls;
        const ssize_t result = ::readv(fd_.get(), pieces.data(), 1 + packet.fragment_count);
        if (result < 0) {
            failed_ = failed_ || is_deleted(errno);
            break;
        }
        count += accept(packet, header, result) ? 1 : 0;
    }
    return count;
}

void TapPort::lend(std::span<Packet* const> packets, ReadyHandler& handler) noexcept {
    stream_.handler = &handler;
    for (Packet* packet : packets) {
        read_operations_[lent_].stream = &stream_;
        reads_[lent_++].packet = packet;
    }
}

void TapPort::read_ahead(bool on) noexcept {
    ahead_ = on;
    if (!on) {
        loop_.cancel_reads(std::span(read_operations_).first(posted_));
    }
}

std::size_t TapPort::take_reads(std::span<Packet*> packets) noexcept {
    std::size_t count = 0;
    for (bool more = true; more;) {
        counters_.system_calls += loop_.look_at_reads();
        bool read_some = posted_ == 0;
        for (; count < packets.size() && next_read_ < posted_; ++next_read_) {
            const std::int64_t result = read_operations_[next_read_].result;
            if (result == ReadOperation::pending) {
                break;
            }
            Read& read = reads_[next_read_];
            read_some = read_some || result >= 0;
            failed_ = failed_ || (result < 0 && is_deleted(-result));
            if (result >= 0 && accept(*read.packet, read.header, result)) {
                std::swap(packets[count++], read.packet);
            }
        }
        stream_.news = next_read_ < posted_ && read_operations_[next_read_].result != ReadOperation::pending;
        more = ahead_ && next_read_ == posted_ && count < packets.size() && !failed_;
        if (more) {
            post_reads();
            more = read_some;  // reads that all fail must not keep the worker here
        }
    }
    return count;
}

/// All that were posted before have ended: begins anew.
void TapPort::post_reads() noexcept {
    for (std::size_t i = 0; i < lent_; ++i) {
        Read& read = reads_[i];
        const Fragment& room = read.packet->fragments[0];
        read.pieces = {{{.iov_base = &read.header, .iov_len = sizeof read.header},
                        {.iov_base = room.data, .iov_len = room.length}}};
        read_operations_[i].pieces = read.pieces;
    }
    loop_.post_reads(fd_.get(), std::span(read_operations_).first(lent_));
    next_read_ = 0;
    posted_ = lent_;
}

/// Makes a packet of what was read into its room. False: it cannot be carried to a guest.
bool TapPort::accept(Packet& packet, const VnetHeader& header, std::int64_t result) noexcept {
    const auto octets = static_cast<std::size_t>(result);
    const std::size_t length = octets - std::min(octets, sizeof header);
    const auto offload = from_vnet(header);
    if (!offload || length < limits::packet_length_min || length > limits::packet_length) {
        ++counters_.receive_dropped;
        return false;
    }
    cut_to(packet, static_cast<std::uint32_t>(length));
    packet.offload = *offload;
    if (offload->checksum_blank) {
        finish_inner_checksum(packet, header);
    }
    return true;
}

}  // namespace uvif
