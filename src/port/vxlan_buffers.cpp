// SPDX-License-Identifier: MIT
#include "port/vxlan_buffers.hpp"

#include <linux/errqueue.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

namespace uvif {

namespace {

/// What an error queue says of messages sent with MSG_ZEROCOPY.
struct Settled {
    std::uint32_t first;
    std::uint32_t last;
    bool copied;
};

std::optional<Settled> read_settled(msghdr& header) noexcept {
    for (cmsghdr* control = CMSG_FIRSTHDR(&header); control != nullptr; control = CMSG_NXTHDR(&header, control)) {
        const bool v4 = control->cmsg_level == SOL_IP && control->cmsg_type == IP_RECVERR;
        const bool v6 = control->cmsg_level == SOL_IPV6 && control->cmsg_type == IPV6_RECVERR;
        if (v4 || v6) {
            sock_extended_err error;
            std::memcpy(&error, CMSG_DATA(control), sizeof error);
            if (error.ee_origin == SO_EE_ORIGIN_ZEROCOPY) {
                return Settled{error.ee_info, error.ee_data, (error.ee_code & SO_EE_CODE_ZEROCOPY_COPIED) != 0};
            }
        }
    }
    return std::nullopt;
}

/// Numbers begin anew after 2^32.
bool is_before(std::uint32_t a, std::uint32_t b) noexcept {
    return static_cast<std::int32_t>(a - b) < 0;
}

}  // namespace

Result<VxlanBuffers> VxlanBuffers::create() {
    auto pool = BufferPool::create(limits::vxlan_buffers, limits::vxlan_buffer_octets);
    if (!pool) {
        return propagate(pool);
    }
    return VxlanBuffers(std::move(*pool));
}

VxlanBuffers::VxlanBuffers(BufferPool pool) noexcept : pool_(std::move(pool)), current_(pool_.take()) {}

void VxlanBuffers::attach(int fd) noexcept {
    const int on = 1;
    fd_ = fd;
    enabled_ = ::setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof on) == 0;  // UDP: since Linux 5.0
}

/// Makes room for it when it is new; nullptr: all have messages outstanding.
VxlanBuffers::Destination* VxlanBuffers::find(const UnderlayAddress& at) noexcept {
    const auto known = std::ranges::find(destinations_, at, &Destination::at);
    if (known != destinations_.end()) {
        return &*known;
    }
    for (std::size_t tries = 0; tries < destinations_.size(); ++tries) {
        replaced_ = (replaced_ + 1) % destinations_.size();
        Destination& place = destinations_[replaced_];
        if (place.outstanding == 0) {
            place = {.at = at};
            return &place;
        }
    }
    return nullptr;
}

bool VxlanBuffers::lends(const UnderlayAddress& to, std::uint32_t now_s, PortCounters& counters) noexcept {
    Destination* const destination = enabled_ ? find(to) : nullptr;
    if (destination == nullptr || now_s < destination->paused_until_s) {
        return false;
    }
    const auto has_enough = [&] {
        return destination->outstanding >= limits::vxlan_lent_messages || pool_.available() == 0 ||
               outstanding_ == messages_.size();
    };
    if (has_enough()) {
        settle(now_s, false, counters);  // a network card is often faster than we are
    }
    return !has_enough() && now_s >= destination->paused_until_s;
}

void VxlanBuffers::lent(const UnderlayAddress& to, const LentPackets::List& packets) noexcept {
    Destination* destination = find(to);
    const auto place = std::ranges::find(messages_, nullptr, &Message::buffer);
    *place = {current_, packets, next_number_++, static_cast<std::size_t>(destination - destinations_.data())};
    ++destination->outstanding;
    ++outstanding_;
}

void VxlanBuffers::pause(Destination& destination, std::uint32_t now_s) noexcept {
    destination.paused_until_s = now_s + limits::vxlan_lent_pause_s;
}

void VxlanBuffers::refused(const UnderlayAddress& to, std::uint32_t now_s, PortCounters& counters) noexcept {
    if (Destination* destination = find(to); destination != nullptr) {
        pause(*destination, now_s);
    }
    settle(now_s, true, counters);
}

bool VxlanBuffers::is_lent(const std::byte* buffer) const noexcept {
    return std::ranges::find(messages_, buffer, &Message::buffer) != messages_.end();
}

void VxlanBuffers::advance() noexcept {
    if (is_lent(current_)) {
        current_ = pool_.take();  // there is one: lends() saw to it
    }
}

void VxlanBuffers::settle(Message& message, bool copied, std::uint32_t now_s, PortCounters& counters) noexcept {
    ++(copied ? counters.zerocopy_copied : counters.zerocopy_sent);
    Destination& destination = destinations_[message.destination];
    --destination.outstanding;
    --outstanding_;
    if (copied) {
        pause(destination, now_s);
    }
    packets_.release(message.packets, copied);
    std::byte* const buffer = std::exchange(message.buffer, nullptr);
    if (buffer != current_ && !is_lent(buffer)) {
        pool_.give(buffer);
    }
}

void VxlanBuffers::settle(std::uint32_t now_s, bool all, PortCounters& counters) noexcept {
    while (all || outstanding_ != 0) {
        alignas(cmsghdr) std::array<std::byte, 128> control;
        msghdr header{};
        header.msg_control = control.data();
        header.msg_controllen = control.size();
        ++counters.system_calls;
        if (::recvmsg(fd_, &header, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) {
            return;
        }
        const auto settled = read_settled(header);
        if (!settled) {
            continue;
        }
        for (Message& message : messages_) {
            if (message.buffer != nullptr && message.number - settled->first <= settled->last - settled->first) {
                settle(message, settled->copied, now_s, counters);
            }
        }
        // A message that was refused late had a number, too.
        if (!is_before(settled->last, next_number_)) {
            next_number_ = settled->last + 1;
        }
    }
}

}  // namespace uvif
