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
    : fd_(fd), port_(port), remotes_(remotes), buffers_(std::move(buffers)) {
    buffers_.attach(fd);
}

void VxlanSender::begin_turn(std::uint32_t now_s, PortCounters& counters) noexcept {
    now_s_ = now_s;
    allowance_ = limits::vxlan_datagrams_per_turn;
    buffers_.settle(now_s, false, counters);
}

bool VxlanSender::has_room(std::size_t datagrams, std::size_t octets) const noexcept {
    // A run ends when it has either 64 datagrams or, since its datagrams are equal, more than half of what fits.
    const std::size_t runs = 2 + datagrams / run_datagrams_max + 2 * (octets / run_octets_max);
    return used_ + octets <= limits::vxlan_buffer_octets && run_count_ + runs <= runs_max;
}

bool VxlanSender::has_room_for_fronts(std::size_t datagrams, std::size_t pieces) const noexcept {
    const std::size_t for_copies = runs_max - run_count_;
    return used_ + datagrams * front_octets_max <= limits::vxlan_buffer_octets && run_count_ + datagrams <= runs_max &&
           piece_count_ + datagrams + pieces + for_copies <= pieces_max;
}

bool VxlanSender::extends_run(const std::optional<UnderlayAddress>& to, std::size_t octets,
                              std::size_t pieces_elsewhere) const noexcept {
    if (run_count_ == 0) {
        return false;
    }
    const Run& run = runs_[run_count_ - 1];
    const bool elsewhere = pieces_elsewhere != 0;
    return !run.complete && octets <= run.each && run.datagrams < run_datagrams_max &&
           run.octets + octets <= run_octets_max && run.at == to && elsewhere == (run.packets.count != 0) &&
           (!elsewhere || run.page_pieces + 1 + pieces_elsewhere <= run_pieces_max);
}

/// To the last run, or to a new one.
VxlanSender::Run& VxlanSender::add_datagram(const std::optional<UnderlayAddress>& to, std::size_t octets,
                                            std::size_t pieces_elsewhere, bool begins_packet) noexcept {
    if (!extends_run(to, octets, pieces_elsewhere)) {
        Run& fresh = runs_[run_count_++];
        fresh = {};
        fresh.begin = staged_;
        fresh.first_piece = piece_count_;
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
    staged_ += octets;
    return run;
}

void VxlanSender::add_piece(Run& run, std::byte* data, std::size_t octets) noexcept {
    pieces_[piece_count_++] = {.iov_base = data, .iov_len = octets};
    ++run.pieces;
}

std::span<std::byte> VxlanSender::stage(const std::optional<UnderlayAddress>& to, std::size_t octets,
                                        bool begins_packet) noexcept {
    Run& run = add_datagram(to, octets, 0, begins_packet);
    std::byte* const place = buffers_.current() + used_;
    used_ += octets;
    if (run.pieces == 0) {
        add_piece(run, place, octets);
    } else {
        pieces_[run.first_piece].iov_len += octets;
    }
    return {place, octets};
}

std::span<std::byte> VxlanSender::stage_front(LentPackets::Place packet, const UnderlayAddress& to, std::size_t front,
                                              std::span<const Fragment> rest, bool begins_packet) noexcept {
    std::size_t octets = front;
    for (const Fragment& piece : rest) {
        octets += piece.length;
    }
    Run& run = add_datagram(to, octets, rest.size(), begins_packet);
    buffers_.packets().use(packet, run.packets);
    if (used_ % page_octets + front > page_octets) {
        used_ += page_octets - used_ % page_octets;  // or it would be two pieces
    }
    std::byte* const place = buffers_.current() + used_;
    used_ += front;
    add_piece(run, place, front);
    std::byte* end = nullptr;
    for (const Fragment& piece : rest) {
        if (piece.data == end) {  // neighbours are pinned by one look at the page table
            pieces_[piece_count_ - 1].iov_len += piece.length;
        } else {
            add_piece(run, piece.data, piece.length);
        }
        end = piece.data + piece.length;
    }
    run.page_pieces += 1 + rest.size();
    return {place, front};
}

bool VxlanSender::goes_whole(const Run& run) const noexcept {
    return run.datagrams == 1 || (cuts_runs_ && !run.split);
}

/// What goes to all remotes does not: each of them would hold the buffer.
bool VxlanSender::goes_zerocopy(const Position& at, PortCounters& counters) noexcept {
    const Run& run = runs_[at.run];
    return run.octets >= (run.packets.count == 0 ? long_octets : long_octets_of_pages) && run.at && goes_whole(run) &&
           buffers_.lends(*run.at, now_s_, counters);
}

/// Of the run, or of the one datagram of it that is at a position.
std::span<iovec> VxlanSender::pieces_of(const Run& run, const Position& at, Message& message) noexcept {
    const auto all = std::span(pieces_).subspan(run.first_piece, run.pieces);
    if (goes_whole(run)) {
        return all;
    }
    std::size_t skip = at.datagram * run.each;
    const std::size_t octets = std::min(run.each, run.octets - skip);
    if (run.packets.count == 0) {
        message.piece = {.iov_base = static_cast<std::byte*>(all[0].iov_base) + skip, .iov_len = octets};
        return std::span(&message.piece, 1);
    }
    std::size_t first = 0;
    for (; skip != 0; ++first) {
        skip -= all[first].iov_len;
    }
    std::size_t count = 0;
    for (std::size_t found = 0; found < octets; ++count) {
        found += all[first + count].iov_len;
    }
    return all.subspan(first, count);
}

/// Makes a message of what is at a position, and returns the position behind it.
VxlanSender::Position VxlanSender::prepare_message(std::size_t index, const Position& at) noexcept {
    const Run& run = runs_[at.run];
    Message& message = messages_[index];
    const SocketAddress& to = run.at ? run.to : remotes_[at.copy];
    const bool whole = goes_whole(run);
    message.count = whole ? run.datagrams : 1;
    message.datagrams = whole ? ~std::uint64_t{0} : std::uint64_t{1} << at.datagram;
    const std::span<iovec> pieces = pieces_of(run, at, message);
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
    if (next_.run != before) {
        if (run.reason != nullptr) {
            count_dropped(run, run.reason, counters);
        }
        buffers_.packets().release(run.packets, run.sent != 0);
    }
}

void VxlanSender::send(PortCounters& counters) noexcept {
    if (send_up_to(run_count_, counters)) {
        clear();
    }
}

/// The last one may still grow.
void VxlanSender::send_complete(PortCounters& counters) noexcept {
    if (run_count_ != 0 && runs_[run_count_ - 1].begin - runs_[next_.run].begin >= long_octets) {
        (void)send_up_to(run_count_ - 1, counters);
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
        Run& run = runs_[next_.run];
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
    used_ = staged_ = 0;
    piece_count_ = 0;
    run_count_ = 0;
    next_ = {};
}

void VxlanSender::abandon(PortCounters& counters) noexcept {
    for (; next_.run < run_count_; ++next_.run) {
        count_dropped(runs_[next_.run], &PortCounters::dropped_held_up, counters);
        buffers_.packets().release(runs_[next_.run].packets, false);
    }
    clear();
    blocked_ = false;
}

}  // namespace uvif
