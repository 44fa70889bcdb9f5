// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "packet/packet.hpp"
#include "packet/passed_packets.hpp"
#include "port/port.hpp"
#include "port/switch.hpp"
#include "runtime/limits.hpp"

// Theory of operation
//
// Stands before the port that leads to the bridge and takes out what is for another member of the switch: such a packet
// goes into the inbox of one of that member's queues, whose worker copies it into its guest and sends the packet home.
// The sender's guest gets its slots back only then: when a receiver does not keep up, the sender's ring fills. That
// would also slow what is for others, so it lasts for limits::hold_ns; then the receiver is crowded, and what is for it
// goes by the bridge, copied, until it has caught up.
//
// Which of a member's queues: the one with the sending queue's number, which is on the same worker where there is a
// choice; by a hash of addresses and ports between vifs of unlike numbers of queues. Either way a flow stays in order.

namespace uvif {

/// The way of one queue of a member to all others. Used by its queue's thread, but for deliver().
class SwitchPort final : public Port {
public:
    /// Of the member whose queue this is. Both stay as long as the port.
    struct Seat {
        Switch& table;
        SwitchMember& member;
        std::size_t index;                        ///< of the member's queues
        const std::atomic<Switch::MemberId>& id;  ///< no_member before it has joined, and when it has left
    };

    /// `waker` hears of packets in the inbox.
    SwitchPort(std::unique_ptr<Port> bridge, const Seat& seat, Waker& waker) noexcept
        : bridge_(std::move(bridge)), seat_(seat), waker_(waker) {}
    ~SwitchPort() override;

    /// Any thread: a packet for this queue's guest.
    void deliver(Packet* packet) noexcept {
        if (arrived_.push(packet)) {
            waker_.wake();
        }
    }

    [[nodiscard]] bool writable() const noexcept override { return bridge_->writable(); }
    [[nodiscard]] std::uint32_t pins_from() const noexcept override { return bridge_->pins_from(); }
    [[nodiscard]] bool prefers_granted() const noexcept override { return expected_ != 0; }
    void classify(std::span<Packet* const> packets) noexcept override;
    void submit(std::span<Packet* const> packets) noexcept override;
    void flush(bool abandon) noexcept override { bridge_->flush(abandon); }
    [[nodiscard]] std::span<Packet* const> held() const noexcept override { return bridge_->held(); }
    std::size_t receive(std::span<Packet*> packets) noexcept override;
    [[nodiscard]] bool scatters() const noexcept override { return bridge_->scatters(); }
    std::size_t take_passed(std::span<Packet*> packets) noexcept override;
    [[nodiscard]] bool has_passed() const noexcept override { return !arrived_.empty(); }
    void crowd(bool crowded) noexcept override { crowded_.store(crowded, std::memory_order_relaxed); }
    void give_back(const std::function<bool(const Packet&)>& concerns) noexcept override;
    [[nodiscard]] std::size_t reads_ahead() const noexcept override { return bridge_->reads_ahead(); }
    void lend(std::span<Packet* const> packets, ReadyHandler& handler) noexcept override {
        bridge_->lend(packets, handler);
    }
    void read_ahead(bool on) noexcept override { bridge_->read_ahead(on); }
    [[nodiscard]] bool reading_ahead() const noexcept override { return bridge_->reading_ahead(); }
    [[nodiscard]] int fd() const noexcept override { return bridge_->fd(); }
    [[nodiscard]] bool always_ready() const noexcept override { return bridge_->always_ready(); }
    [[nodiscard]] bool survives_error() noexcept override { return bridge_->survives_error(); }
    [[nodiscard]] bool failed() const noexcept override { return bridge_->failed(); }
    [[nodiscard]] const PortCounters& counters() const noexcept override;

private:
    /// It claims to come from somebody else, and this guest may not.
    [[nodiscard]] bool is_spoofed(const Packet& packet) const noexcept;
    [[nodiscard]] SwitchPort* find(const Packet& packet) noexcept;
    void expect(bool passes) noexcept;

    /// A queue that has passed something on is taken to go on with that, until so many packets went to the bridge.
    static constexpr std::uint32_t expected_max = 256;

    std::unique_ptr<Port> bridge_;
    Seat seat_;
    Waker& waker_;
    PassedPackets arrived_;
    std::atomic<bool> crowded_ = false;
    std::uint32_t expected_ = 0;
    std::uint64_t passed_ = 0;
    std::uint64_t spoofed_ = 0;
    mutable PortCounters counters_;  ///< the bridge's port's, and ours
};

}  // namespace uvif
