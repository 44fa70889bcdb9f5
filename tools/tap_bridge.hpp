// SPDX-License-Identifier: MIT
//
// Theory of operation
//
// Joins one queue of a netfront device to one queue of a TAP, so that the network namespace of the TAP is "the guest".
//
// Guest TX: frames are read from the TAP straight into granted pages, which then go to the backend as they are: the
// virtio-net header apart, then as many whole pages as the longest frame needs; pages left over serve the next frame.
// No free pages, or no room in the ring: the TAP is not read, its queue fills, and the sockets behind it feel that.
//
// Guest RX: packets go to the TAP from the granted pages, except for their first octets: the backend may still change
// these while they are parsed, so what is parsed and sent is a private copy. A TAP without room: nothing is received,
// the RX ring runs dry, and the backend feels that.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "packet/packet.hpp"
#include "port/port.hpp"
#include "runtime/limits.hpp"
#include "runtime/loop.hpp"
#include "uvif/netfront.hpp"

namespace uvif {

class TapBridge final : ReadyHandler {
public:
    /// `large_frames`: the backend takes chains of slots. The queue and the loop outlive the bridge.
    static Result<std::unique_ptr<TapBridge>> create(netfront::Queue& queue, std::unique_ptr<Port> port, Loop& loop,
                                                     bool large_frames);
    TapBridge(const TapBridge&) = delete;
    TapBridge& operator=(const TapBridge&) = delete;
    ~TapBridge();

    /// Moves up to a burst each way. False: there was nothing to move.
    bool turn() noexcept;
    /// Asks to be woken through the loop. False: something came meanwhile.
    bool arm() noexcept;
    /// The TAP is gone.
    [[nodiscard]] bool failed() const noexcept { return tap_failed_ || port_->failed(); }

    struct Counters {
        std::uint64_t to_backend = 0;
        std::uint64_t to_tap = 0;
        std::uint64_t dropped = 0;  ///< frames of the TAP that netif cannot carry
    };
    [[nodiscard]] const Counters& counters() const noexcept { return counters_; }

private:
    static constexpr std::size_t burst = 64;
    /// Pages of the longest frame. One octet more than that fits too, by which longer ones are known.
    static constexpr std::size_t frame_pages = 16;
    static_assert(frame_pages * netfront::buffer_size > netfront::max_packet_length);

    /// A packet on its way to the TAP.
    struct Outgoing {
        Packet packet;
        std::array<std::byte, limits::header_octets> headers;
    };

    TapBridge(netfront::Queue& queue, std::unique_ptr<Port> port, Loop& loop, bool large_frames);

    void on_ready(std::uint32_t events) noexcept override;
    bool to_backend() noexcept;
    bool fill_stock() noexcept;
    bool read_frame(netfront::Packet& packet) noexcept;
    void send_frames() noexcept;
    bool to_tap() noexcept;
    void prepare(std::size_t index) noexcept;
    void collect() noexcept;

    netfront::Queue& queue_;
    std::unique_ptr<Port> port_;
    Loop& loop_;
    const std::size_t pages_per_frame_;
    Counters counters_;
    bool tx_blocked_ = false;
    bool tap_failed_ = false;
    std::uint32_t interest_ = 0;

    std::array<netfront::Fragment, frame_pages> stock_;  // pages for the next frame
    std::size_t stock_count_ = 0;
    std::array<netfront::Packet, burst> frames_;  // read and not yet sent
    std::size_t frames_begin_ = 0;
    std::size_t frames_end_ = 0;

    std::array<netfront::Packet, burst> received_;
    std::array<Outgoing, burst> outgoing_;
    CompletionQueue completions_;
};

}  // namespace uvif
