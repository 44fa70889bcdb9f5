// SPDX-License-Identifier: MIT
#include "port/vxlan_sender.hpp"

#include <netinet/udp.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

namespace uvif {

namespace {

std::uint64_t PortCounters::* reason_of(int error) noexcept {
    switch (error) {
        case EMSGSIZE:
            return &PortCounters::dropped_too_long;
        case ENETDOWN:
        case ENETUNREACH:
        case EHOSTUNREACH:
            return &PortCounters::dropped_link_down;
        default:
            return &PortCounters::dropped_refused;
    }
}

}  // namespace

VxlanSender::VxlanSender(int fd, std::uint16_t port, std::span<const SocketAddress> remotes)
    : fd_(fd), port_(port), remotes_(remotes), buffer_(std::make_unique_for_overwrite<std::byte[]>(room)) {}

bool VxlanSender::has_room(std::size_t datagrams, std::size_t octets) const noexcept {
    // A run ends when it has either 64 datagrams or, since its datagrams are equal, more than half of what fits.
    const std::size_t runs = 2 + datagrams / run_datagrams_max + 2 * (octets / run_octets_max);
    return used_ + octets <= room && run_count_ + runs <= runs_max;
}

bool VxlanSender::extends_run(const std::optional<UnderlayAddress>& to, std::size_t octets) const noexcept {
    if (run_count_ == 0) {
        return false;
    }
    const Run& run = runs_[run_count_ - 1];
    return !run.complete && octets <= run.each && run.datagrams < run_datagrams_max &&
           run.octets + octets <= run_octets_max && run.at == to;
}

std::span<std::byte> VxlanSender::stage(const std::optional<UnderlayAddress>& to, std::size_t octets,
                                        bool begins_packet) noexcept {
    if (!extends_run(to, octets)) {
        Run& fresh = runs_[run_count_++];
        fresh = {};
        fresh.begin = used_;
        fresh.each = octets;
        fresh.at = to;
        if (to) {
            fresh.to = SocketAddress(*to, port_);
        }
    }
    Run& run = runs_[run_count_ - 1];
    run.complete = octets < run.each;
    run.begins |= std::uint64_t{begins_packet} << run.datagrams;
    run.octets += octets;
    ++run.datagrams;
    const std::span<std::byte> place(buffer_.get() + used_, octets);
    used_ += octets;
    return place;
}

bool VxlanSender::goes_whole(const Run& run) const noexcept {
    return run.datagrams == 1 || (cuts_runs_ && !run.split);
}

/// Makes a message of what is at a position, and returns the position behind it.
VxlanSender::Position VxlanSender::prepare_message(std::size_t index, const Position& at) noexcept {
    const Run& run = runs_[at.run];
    Message& message = messages_[index];
    const SocketAddress& to = run.at ? run.to : remotes_[at.copy];
    const bool whole = goes_whole(run);
    const std::size_t from = at.datagram * run.each;
    const std::size_t octets = whole ? run.octets : std::min(run.each, run.octets - from);
    message.count = whole ? run.datagrams : 1;
    message.datagrams = whole ? ~std::uint64_t{0} : std::uint64_t{1} << at.datagram;
    message.piece = {.iov_base = buffer_.get() + run.begin + from, .iov_len = octets};
    msghdr header{};
    header.msg_name = const_cast<sockaddr_storage*>(&to.storage);
    header.msg_namelen = to.length;
    header.msg_iov = &message.piece;
    header.msg_iovlen = 1;
    if (whole && run.datagrams > 1) {
        header.msg_control = message.control.data();
        header.msg_controllen = message.control.size();
        cmsghdr* control = CMSG_FIRSTHDR(&header);
        control->cmsg_level = SOL_UDP;
        control->cmsg_type = UDP_SEGMENT;
        control->cmsg_len = CMSG_LEN(sizeof(std::uint16_t));
        const auto each = static_cast<std::uint16_t>(run.each);
        std::memcpy(CMSG_DATA(control), &each, sizeof each);
    }
    headers_[index].msg_hdr = header;

    Position next = at;
    next.datagram += message.count;
    if (next.datagram == run.datagrams) {
        next.datagram = 0;
        ++next.copy;
    }
    if (next.datagram == 0 && next.copy == (run.at ? 1 : remotes_.size())) {
        next.copy = 0;
        ++next.run;
    }
    message.next = next;
    return next;
}

std::size_t VxlanSender::prepare() noexcept {
    std::size_t count = 0;
    std::uint32_t datagrams = 0;
    for (Position at = next_; count < messages_max && at.run < run_count_ && datagrams < allowance_; ++count) {
        at = prepare_message(count, at);
        datagrams += messages_[count].count;
    }
    return count;
}

void VxlanSender::count_dropped(const Run& run, std::uint64_t PortCounters::* reason, PortCounters& counters) noexcept {
    const auto packets = static_cast<unsigned>(std::popcount(run.begins & ~run.sent));
    counters.submit_dropped += packets;
    counters.*reason += packets;
}

/// A message was sent, or (`error`) never will be. Sets the position behind it.
void VxlanSender::settle(std::size_t index, int error, PortCounters& counters) noexcept {
    Run& run = runs_[next_.run];
    allowance_ -= std::min(allowance_, messages_[index].count);
    if (error == 0) {
        run.sent |= messages_[index].datagrams;
    } else {
        run.reason = reason_of(error);
    }
    const std::size_t before = next_.run;
    next_ = messages_[index].next;
    if (next_.run != before && run.reason != nullptr) {
        count_dropped(run, run.reason, counters);
    }
}

void VxlanSender::send(PortCounters& counters) noexcept {
    blocked_ = false;
    while (next_.run < run_count_) {
        if (allowance_ == 0) {
            blocked_ = true;
            return;
        }
        const std::size_t count = prepare();
        ++counters.system_calls;
        const int sent = ::sendmmsg(fd_, headers_.data(), static_cast<unsigned>(count), MSG_DONTWAIT);
        for (std::size_t i = 0; sent > 0 && i < static_cast<std::size_t>(sent); ++i) {
            settle(i, 0, counters);
        }
        if (sent >= 0 || errno == EINTR) {
            continue;
        }
        const int error = errno;
        if (error == EAGAIN) {
            blocked_ = true;
            return;
        }
        Run& run = runs_[next_.run];
        const bool cut = goes_whole(run) && run.datagrams > 1;
        if (cut && (error == EIO || error == EINVAL || error == EMSGSIZE)) {
            cuts_runs_ = cuts_runs_ && error != EIO;
            run.split = true;
        } else {
            settle(0, error, counters);
        }
    }
    used_ = 0;
    run_count_ = 0;
    next_ = {};
}

void VxlanSender::abandon(PortCounters& counters) noexcept {
    for (; next_.run < run_count_; ++next_.run) {
        count_dropped(runs_[next_.run], &PortCounters::dropped_held_up, counters);
    }
    used_ = 0;
    run_count_ = 0;
    next_ = {};
    blocked_ = false;
}

}  // namespace uvif
