// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstring>
#include <deque>
#include <vector>

#include "port/port.hpp"

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

    [[nodiscard]] bool writable() const noexcept override { return room; }
    void submit(std::span<Packet* const> packets) noexcept override {
        for (Packet* packet : packets) {
            ++counters_.submitted;
            if (defer) {
                held_.push_back(packet);
            } else {
                finish_one(packet);
            }
        }
    }
    void flush(bool /*abandon*/) noexcept override { finish(held_.size()); }
    /// Completes the oldest `count` of those held.
    void finish(std::size_t count) noexcept {
        for (; count != 0 && !held_.empty(); --count) {
            Packet* packet = held_.front();
            held_.pop_front();
            finish_one(packet);
        }
    }
    [[nodiscard]] std::size_t held() const noexcept { return held_.size(); }

    std::size_t receive(std::span<Packet* const> packets) noexcept override {
        std::size_t n = 0;
        for (; n < packets.size() && !to_receive.empty(); ++n) {
            const Frame& frame = to_receive.front();
            std::memcpy(packets[n]->fragments[0].data, frame.data.data(), frame.data.size());
            packets[n]->length = static_cast<std::uint32_t>(frame.data.size());
            packets[n]->fragments[0].length = packets[n]->length;
            packets[n]->offload = frame.offload;
            to_receive.pop_front();
            ++counters_.received;
        }
        return n;
    }
    [[nodiscard]] int fd() const noexcept override { return -1; }
    [[nodiscard]] bool always_ready() const noexcept override { return endless; }
    [[nodiscard]] const PortCounters& counters() const noexcept override { return counters_; }

private:
    void finish_one(Packet* packet) {
        Frame frame;
        for (const Fragment& piece : packet->pieces()) {
            frame.data.insert(frame.data.end(), piece.data, piece.data + piece.length);
        }
        frame.offload = packet->offload;
        sent.push_back(std::move(frame));
        complete(packet);
    }

    std::deque<Packet*> held_;
    PortCounters counters_;
};

}  // namespace uvif::test
