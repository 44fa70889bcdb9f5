// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <utility>
#include <vector>

#include "packet/pieces.hpp"
#include "port/port.hpp"
#include "runtime/loop.hpp"
#include "runtime/unique_fd.hpp"

namespace uvif::test {

/// What a packet was, gathered into memory of its own.
struct Frame {
    std::vector<std::byte> data;
    Offload offload;
    bool operator==(const Frame&) const = default;
};

/// A port that a test plays: it keeps what is submitted, completes at once or when told to, and hands out what the
/// test queues for the guest.
class FakePort final : public Port {
public:
    std::vector<Frame> sent;
    std::deque<Frame> to_receive;
    bool defer = false;    ///< keep packets until finish()
    bool room = true;      ///< writable()
    bool endless = false;  ///< always_ready()
    bool granted = false;  ///< prefers_granted(), though it passes nothing on
    bool pins = false;     ///< pins_from() pin_octets: not even flush() calls packets back
    std::uint32_t pin_octets = 1;
    bool scattered = false;                  ///< scatters()
    std::function<void(Packet&)> on_filled;  ///< between the filling of a packet and the end of receive()
    const std::byte* start = nullptr;        ///< where the last packet submitted begins
    UniqueFd ready;  ///< fd() when it is an eventfd: readable while `to_receive` holds something

    /// Makes it a port that reads ahead. As there, nobody is told of what comes before receive() was told that there is
    /// nothing more.
    void read_ahead(Loop& loop) {
        loop_ = &loop;
        news_.reset(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    }
    ~FakePort() override {
        if (loop_ != nullptr) {
            loop_->remove(news_.get());
        }
    }

    void offer(Frame frame) {
        to_receive.push_back(std::move(frame));
        const std::uint64_t one = 1;
        if (!reading_ahead() || waits_) {
            (void)!::write(told().get(), &one, sizeof one);
        }
    }

    [[nodiscard]] bool writable() const noexcept override { return room; }
    [[nodiscard]] std::uint32_t pins_from() const noexcept override { return pins ? pin_octets : 0; }
    [[nodiscard]] bool prefers_granted() const noexcept override { return granted; }
    void submit(std::span<Packet* const> packets) noexcept override {
        for (Packet* packet : packets) {
            ++counters_.submitted;
            sent.push_back(gather(*packet));
            start = packet->fragments[0].data;
            held_.push_back({packet, sent.back()});
            kept_.push_back(packet);
        }
        if (!defer) {
            finish(held_.size());
        }
    }
    void flush(bool /*abandon*/) noexcept override { finish(pins ? 0 : held_.size()); }
    [[nodiscard]] std::span<Packet* const> held() const noexcept override {
        return pins ? std::span<Packet* const>{} : kept_;
    }
    /// Hands over the packets that it holds: somebody else completes them.
    [[nodiscard]] std::vector<Packet*> give_away() {
        held_.clear();
        return std::exchange(kept_, {});
    }
    /// Completes the oldest `count` of those held.
    void finish(std::size_t count) noexcept {
        for (; count != 0 && !held_.empty(); --count) {
            const auto [packet, as_submitted] = std::move(held_.front());
            held_.pop_front();
            kept_.erase(kept_.begin());
            EXPECT_EQ(gather(*packet), as_submitted) << "a packet's memory changed before it was completed";
            complete(packet);
        }
    }
    [[nodiscard]] std::size_t held_count() const noexcept { return held_.size(); }

    std::size_t receive(std::span<Packet*> packets) noexcept override {
        std::size_t n = 0;
        for (; n < packets.size() && !to_receive.empty(); ++n) {
            const Frame& frame = to_receive.front();
            fill(*packets[n], frame.data);
            packets[n]->offload = frame.offload;
            if (on_filled) {
                on_filled(*packets[n]);
            }
            to_receive.pop_front();
            ++counters_.received;
        }
        waits_ = n < packets.size();
        if (told() && (to_receive.empty() || reading_ahead())) {
            drain(told());
        }
        return n;
    }
    [[nodiscard]] bool scatters() const noexcept override { return scattered; }
    void read_ahead(bool on) noexcept override {
        drain(told());
        ahead_ = on;
        waits_ = false;
        const std::uint64_t one = 1;
        if (!reading_ahead() && !to_receive.empty()) {
            (void)!::write(ready.get(), &one, sizeof one);
        }
    }
    [[nodiscard]] bool reading_ahead() const noexcept override { return loop_ != nullptr && ahead_; }
    [[nodiscard]] std::size_t reads_ahead() const noexcept override { return loop_ == nullptr ? 0 : 1; }
    void lend(std::span<Packet* const> /*packets*/, ReadyHandler& handler) noexcept override {
        if (loop_ != nullptr) {
            EXPECT_TRUE(loop_->add(news_.get(), EPOLLIN, handler));
        }
    }
    [[nodiscard]] int fd() const noexcept override { return ready.get(); }
    [[nodiscard]] bool always_ready() const noexcept override { return endless; }
    [[nodiscard]] const PortCounters& counters() const noexcept override { return counters_; }

private:
    [[nodiscard]] const UniqueFd& told() const noexcept { return reading_ahead() ? news_ : ready; }
    static void drain(const UniqueFd& told) noexcept {
        std::uint64_t count = 0;
        (void)!::read(told.get(), &count, sizeof count);
    }
    static void fill(Packet& packet, std::span<const std::byte> octets) noexcept {
        std::size_t done = 0;
        for (const Fragment& piece : packet.pieces()) {
            const std::size_t size = std::min<std::size_t>(piece.length, octets.size() - done);
            std::memcpy(piece.data, octets.data() + done, size);
            done += size;
        }
        cut_to(packet, static_cast<std::uint32_t>(octets.size()));
    }
    static Frame gather(const Packet& packet) {
        Frame frame;
        for (const Fragment& piece : packet.pieces()) {
            frame.data.insert(frame.data.end(), piece.data, piece.data + piece.length);
        }
        frame.offload = packet.offload;
        return frame;
    }

    std::deque<std::pair<Packet*, Frame>> held_;
    std::vector<Packet*> kept_;  ///< the packets of held_
    PortCounters counters_;
    Loop* loop_ = nullptr;  ///< not null: it reads ahead
    UniqueFd news_;
    bool ahead_ = true;
    bool waits_ = false;
};

}  // namespace uvif::test
