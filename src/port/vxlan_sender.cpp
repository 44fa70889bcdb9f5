// SPDX-License-Identifier: MIT
#include "port/vxlan_sender.hpp"

#include <netinet/udp.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

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

VxlanSender::VxlanSender(int fd, std::uint16_t port, std::span<const SocketAddress> remotes, VxlanBuffers buffers)
    : fd_(fd), remotes_(remotes), buffers_(std::move(buffers)), runs_(port, buffers_) {
    buffers_.attach(fd);
}

void VxlanSender::begin_turn(std::uint32_t now_s, PortCounters& counters) noexcept {
    now_s_ = now_s;
    allowance_ = limits::vxlan_datagrams_per_turn;
    buffers_.settle(now_s, false, counters);
}

bool VxlanSender::goes_whole(const VxlanRun& run) const noexcept {
    return run.datagrams == 1 || (cuts_runs_ && !run.split);
}

/// What goes to all remotes does not: each of them would hold the buffer.
bool VxlanSender::goes_zerocopy(const Position& at, PortCounters& counters) noexcept {
    const VxlanRun& run = runs_[at.run];
    return run.octets >= (run.packets.count == 0 ? long_octets : long_octets_of_pages) && run.at && goes_whole(run) &&
           buffers_.lends(*run.at, now_s_, counters);
}

/// Makes a message of what is at a position, and returns the position behind it.
VxlanSender::Position VxlanSender::prepare_message(std::size_t index, const Position& at) noexcept {
    const VxlanRun& run = runs_[at.run];
    Message& message = messages_[index];
    const SocketAddress& to = run.at ? run.to : remotes_[at.copy];
    const bool whole = goes_whole(run);
    message.count = whole ? run.datagrams : 1;
    message.datagrams = whole ? ~std::uint64_t{0} : std::uint64_t{1} << at.datagram;
    const std::span<iovec> pieces = whole ? runs_.pieces_of(run) : runs_.pieces_of(run, at.datagram, message.piece);
    msghdr header{};
    header.msg_name = const_cast<sockaddr_storage*>(&to.storage);
    header.msg_namelen = to.length;
    header.msg_iov = pieces.data();
    header.msg_iovlen = pieces.size();
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

/// Messages that share a system call: one alone with `zerocopy`, or those in front of the next such.
std::size_t VxlanSender::prepare(bool zerocopy, std::size_t end, PortCounters& counters) noexcept {
    if (zerocopy) {
        prepare_message(0, next_);
        return 1;
    }
    std::size_t count = 0;
    std::uint32_t datagrams = 0;
    for (Position at = next_; count < messages_max && at.run < end && datagrams < allowance_; ++count) {
        at = prepare_message(count, at);
        datagrams += messages_[count].count;
        if (at.run < end && goes_zerocopy(at, counters)) {
            return count + 1;
        }
    }
    return count;
}

void VxlanSender::count_dropped(const VxlanRun& run, std::uint64_t PortCounters::* reason,
                                PortCounters& counters) noexcept {
    const auto packets = static_cast<unsigned>(std::popcount(run.begins & ~run.sent));
    counters.submit_dropped += packets;
    counters.*reason += packets;
}

/// A message was sent, or (`error`) never will be. Sets the position behind it.
void VxlanSender::settle(std::size_t index, int error, PortCounters& counters) noexcept {
    VxlanRun& run = runs_[next_.run];
    allowance_ -= std::min(allowance_, messages_[index].count);
    if (error == 0) {
        run.sent |= messages_[index].datagrams;
    } else {
        run.reason = reason_of(error);
    }
    const std::size_t before = next_.run;
    next_ = messages_[index].next;
    if (next_.run != before) {
        if (run.reason != nullptr) {
            count_dropped(run, run.reason, counters);
        }
        buffers_.packets().release(run.packets, run.sent != 0);
    }
}

void VxlanSender::send(PortCounters& counters) noexcept {
    if (send_up_to(runs_.count(), counters)) {
        clear();
    }
}

/// The last one may still grow.
void VxlanSender::send_complete(PortCounters& counters) noexcept {
    if (runs_.count() != 0 && runs_[runs_.count() - 1].begin - runs_[next_.run].begin >= long_octets) {
        (void)send_up_to(runs_.count() - 1, counters);
    }
}

/// False: what is left has to wait.
bool VxlanSender::send_up_to(std::size_t end, PortCounters& counters) noexcept {
    blocked_ = false;
    while (next_.run < end) {
        if (allowance_ == 0) {
            blocked_ = true;
            return false;
        }
        const bool zerocopy = goes_zerocopy(next_, counters);
        const std::size_t count = prepare(zerocopy, end, counters);
        ++counters.system_calls;
        const int sent = ::sendmmsg(fd_, headers_.data(), static_cast<unsigned>(count),
                                    MSG_DONTWAIT | (zerocopy ? MSG_ZEROCOPY : 0));
        if (zerocopy && sent == 1) {
            buffers_.lent(*runs_[next_.run].at, std::exchange(runs_[next_.run].packets, {}));
        }
        for (std::size_t i = 0; sent > 0 && i < static_cast<std::size_t>(sent); ++i) {
            settle(i, 0, counters);
        }
        if (sent >= 0 || errno == EINTR) {
            continue;
        }
        const int error = errno;
        if (error == EAGAIN) {
            blocked_ = true;
            return false;
        }
        VxlanRun& run = runs_[next_.run];
        if (zerocopy) {
            buffers_.refused(*run.at, now_s_, counters);
            continue;
        }
        const bool cut = goes_whole(run) && run.datagrams > 1;
        if (cut && (error == EIO || error == EINVAL || error == EMSGSIZE)) {
            cuts_runs_ = cuts_runs_ && error != EIO;
            run.split = true;
        } else {
            settle(0, error, counters);
        }
    }
    return true;
}

/// Nothing is staged any more.
void VxlanSender::clear() noexcept {
    buffers_.advance();
    runs_.clear();
    next_ = {};
}

void VxlanSender::abandon(PortCounters& counters) noexcept {
    for (; next_.run < runs_.count(); ++next_.run) {
        count_dropped(runs_[next_.run], &PortCounters::dropped_held_up, counters);
        buffers_.packets().release(runs_[next_.run].packets, false);
    }
    clear();
    blocked_ = false;
}

}  // namespace uvif
