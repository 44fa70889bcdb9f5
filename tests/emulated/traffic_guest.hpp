// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "uvif/netfront.hpp"

namespace uvif::test {

/// A guest that sends as long as it is connected, and counts what a reflecting port sends back: the neighbour who must
/// not notice what happens to others.
class TrafficGuest {
public:
    explicit TrafficGuest(const std::string& hypervisor, unsigned queues = 1,
                          std::optional<unsigned> device = std::nullopt);
    TrafficGuest(const TrafficGuest&) = delete;
    TrafficGuest& operator=(const TrafficGuest&) = delete;
    ~TrafficGuest();

    [[nodiscard]] bool connected() const noexcept { return device_ != nullptr; }
    [[nodiscard]] const std::string& failure() const noexcept { return failure_; }
    [[nodiscard]] std::uint64_t echoes() const noexcept { return echoes_.load(std::memory_order_relaxed); }
    /// Of these, those that are not what was sent.
    [[nodiscard]] std::uint64_t spoiled() const noexcept { return spoiled_.load(std::memory_order_relaxed); }
    /// How often the link was anything but up since it first was.
    [[nodiscard]] unsigned interruptions() const noexcept { return interruptions_.load(std::memory_order_relaxed); }
    [[nodiscard]] netfront::LinkState state() const noexcept { return state_.load(std::memory_order_relaxed); }
    /// Whether echoes go on coming in.
    [[nodiscard]] bool flows() const;

private:
    void work();
    bool exchange(netfront::Queue& queue) noexcept;

    std::unique_ptr<netfront::Device> device_;
    std::string failure_;
    std::atomic<bool> stopping_ = false;
    std::atomic<std::uint64_t> echoes_ = 0;
    std::atomic<std::uint64_t> spoiled_ = 0;
    std::atomic<unsigned> interruptions_ = 0;
    std::atomic<netfront::LinkState> state_ = netfront::LinkState::connecting;
    std::thread thread_;
};

}  // namespace uvif::test
