// SPDX-License-Identifier: MIT
#include "tap_bridge.hpp"

#include <sys/epoll.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "packet/vnet_header.hpp"

namespace uvif {

TapBridge::TapBridge(netfront::Queue& queue, std::unique_ptr<Port> port, Loop& loop, bool large_frames)
    : queue_(queue), port_(std::move(port)), loop_(loop), pages_per_frame_(large_frames ? frame_pages : 1) {}

Result<std::unique_ptr<TapBridge>> TapBridge::create(netfront::Queue& queue, std::unique_ptr<Port> port, Loop& loop,
                                                     bool large_frames) {
    std::unique_ptr<TapBridge> bridge(new TapBridge(queue, std::move(port), loop, large_frames));
    if (auto added = loop.add(bridge->queue_.fd(), EPOLLIN, *bridge); !added) {
        return propagate(added);
    }
    if (auto added = loop.add(bridge->port_->fd(), 0, *bridge); !added) {
        return propagate(added);
    }
    return bridge;
}

TapBridge::~TapBridge() {
    loop_.remove(queue_.fd());
    loop_.remove(port_->fd());
    port_->flush(true);
    collect();
    queue_.free(std::span(stock_).first(stock_count_));
    for (const netfront::Packet& frame : std::span(frames_).subspan(frames_begin_, frames_end_ - frames_begin_)) {
        queue_.free(std::span(frame.fragments).first(frame.fragment_count));
    }
}

/// Readiness only ends the sleep: turn() finds out what there is.
void TapBridge::on_ready(std::uint32_t /*events*/) noexcept {}

bool TapBridge::turn() noexcept {
    const bool sent = to_backend();
    return to_tap() || sent;
}

bool TapBridge::arm() noexcept {
    const std::uint32_t interest = (tx_blocked_ ? 0U : EPOLLIN) | (port_->writable() ? 0U : EPOLLOUT);
    if (interest != interest_) {
        interest_ = interest;
        loop_.modify(port_->fd(), interest);
    }
    return queue_.arm(tx_blocked_);
}

bool TapBridge::to_backend() noexcept {
    if (frames_begin_ != frames_end_) {
        send_frames();
        if (frames_begin_ != frames_end_) {
            return false;
        }
    }
    frames_begin_ = frames_end_ = 0;
    bool more = true;
    tx_blocked_ = false;
    while (more && frames_end_ < burst) {
        if (!fill_stock()) {
            tx_blocked_ = true;
            break;
        }
        more = read_frame(frames_[frames_end_]);
    }
    const bool worked = frames_end_ != 0;
    send_frames();
    return worked;
}

/// Pages for the longest frame there may be.
bool TapBridge::fill_stock() noexcept {
    if (stock_count_ < pages_per_frame_) {
        stock_count_ += queue_.allocate(std::span(stock_).subspan(stock_count_, pages_per_frame_ - stock_count_), true);
    }
    return stock_count_ == pages_per_frame_;
}

/// Reads one frame into the stock. False: the TAP has none.
bool TapBridge::read_frame(netfront::Packet& packet) noexcept {
    VnetHeader header;
    std::array<iovec, frame_pages + 1> pieces;
    pieces[0] = {&header, sizeof header};
    for (std::size_t i = 0; i < stock_count_; ++i) {
        // The last page first: so what is left over is the front of the stock.
        const netfront::Fragment& page = stock_[stock_count_ - 1 - i];
        pieces[1 + i] = {page.data, page.length};
    }
    const ssize_t result = ::readv(port_->fd(), pieces.data(), static_cast<int>(stock_count_ + 1));
    if (result < 0) {
        tap_failed_ = errno != EAGAIN && errno != EINTR && errno != EIO;
        return false;
    }
    const std::size_t length =
        static_cast<std::size_t>(result) - std::min<std::size_t>(sizeof header, static_cast<std::size_t>(result));
    const auto offload = from_vnet(header);
    const bool cut = length == stock_count_ * netfront::buffer_size && pages_per_frame_ == 1;
    if (!offload || cut || length < limits::packet_length_min || length > netfront::max_packet_length) {
        ++counters_.dropped;
        return true;
    }
    packet.offload = *offload;
    packet.fragment_count = 0;
    for (std::size_t left = length; left != 0;) {
        netfront::Fragment& fragment = packet.fragments[packet.fragment_count++];
        fragment = stock_[--stock_count_];
        fragment.length = static_cast<std::uint32_t>(std::min<std::size_t>(left, fragment.length));
        left -= fragment.length;
    }
    ++frames_end_;
    return true;
}

void TapBridge::send_frames() noexcept {
    while (frames_begin_ != frames_end_) {
        int error = 0;
        const std::size_t sent =
            queue_.send(std::span(frames_).subspan(frames_begin_, frames_end_ - frames_begin_), &error);
        frames_begin_ += sent;
        counters_.to_backend += sent;
        if (error == 0) {
            tx_blocked_ = tx_blocked_ || frames_begin_ != frames_end_;
            return;
        }
        const netfront::Packet& refused = frames_[frames_begin_++];
        queue_.free(std::span(refused.fragments).first(refused.fragment_count));
        ++counters_.dropped;
    }
}

bool TapBridge::to_tap() noexcept {
    if (!port_->writable()) {
        port_->flush(false);
        collect();
        if (!port_->writable()) {
            return false;
        }
    }
    const std::size_t count = queue_.receive(received_);
    if (count == 0) {
        return false;
    }
    std::array<Packet*, burst> packets;
    for (std::size_t i = 0; i < count; ++i) {
        prepare(i);
        packets[i] = &outgoing_[i].packet;
    }
    counters_.to_tap += count;
    port_->submit(std::span(packets).first(count));
    collect();
    return true;
}

/// Makes the port's packet of a received one: a private copy of the headers, then the rest in the granted pages.
void TapBridge::prepare(std::size_t index) noexcept {
    const netfront::Packet& from = received_[index];
    Outgoing& out = outgoing_[index];
    out.packet.home = &completions_;
    out.packet.owed = true;
    out.packet.id = static_cast<std::uint32_t>(index);
    out.packet.length = from.length;
    out.packet.offload = from.offload;
    out.packet.fragment_count = 1;
    std::uint32_t copied = 0;
    for (std::size_t i = 0; i < from.fragment_count; ++i) {
        const netfront::Fragment& piece = from.fragments[i];
        const auto room = static_cast<std::uint32_t>(out.headers.size()) - copied;
        const std::uint32_t head = std::min(piece.length, room);
        std::memcpy(out.headers.data() + copied, piece.data, head);
        copied += head;
        if (head < piece.length) {
            out.packet.fragments[out.packet.fragment_count++] = {piece.data + head, piece.length - head};
        }
    }
    out.packet.fragments[0] = {out.headers.data(), copied};
}

/// Gives the pages of packets that the TAP is done with back to the ring.
void TapBridge::collect() noexcept {
    for (Packet* done = completions_.take_all(); done != nullptr;) {
        Packet* const next = done->next;
        queue_.release({&received_[done->id], 1});
        done = next;
    }
}

}  // namespace uvif
