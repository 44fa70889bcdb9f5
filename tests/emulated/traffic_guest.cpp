// SPDX-License-Identifier: MIT
#include "emulated/traffic_guest.hpp"

#include <poll.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "support/process.hpp"

namespace uvif::test {
namespace {

constexpr unsigned burst = 16;
constexpr std::uint32_t length = 60;
constexpr std::byte filling{0x5a};

bool is_ours(const netfront::Packet& packet) {
    const netfront::Fragment& piece = packet.fragments[0];
    return packet.fragment_count == 1 && piece.length == length &&
           std::all_of(piece.data, piece.data + length, [](std::byte b) { return b == filling; });
}

}  // namespace

TrafficGuest::TrafficGuest(const std::string& hypervisor, unsigned queues, std::optional<unsigned> device) {
    netfront::Config config;
    config.hypervisor = hypervisor;
    config.queues = queues;
    config.device = device;
    auto connected = netfront::Device::connect(config);
    if (!connected) {
        failure_ = connected.error().message;
        return;
    }
    device_ = std::move(*connected);
    state_ = device_->state();
    thread_ = std::thread([this] { work(); });
}

TrafficGuest::~TrafficGuest() {
    stopping_ = true;
    if (thread_.joinable()) {
        thread_.join();
    }
}

bool TrafficGuest::flows() const {
    const std::uint64_t before = echoes();
    return eventually([&] { return echoes() >= before + 1000; });
}

void TrafficGuest::work() {
    while (!stopping_) {
        const netfront::LinkState state = device_->process();
        if (state != netfront::LinkState::up && state_ == netfront::LinkState::up) {
            ++interruptions_;
        }
        state_ = state;
        std::vector<pollfd> fds{{device_->fd(), POLLIN, 0}};
        bool worked = false;
        if (state == netfront::LinkState::up) {
            for (unsigned turn = 0; turn < 64; ++turn) {
                worked = false;
                for (unsigned i = 0; i < device_->queue_count(); ++i) {
                    worked = exchange(device_->queue(i)) || worked;
                }
                if (!worked) {
                    break;
                }
            }
            for (unsigned i = 0; i < device_->queue_count() && !worked; ++i) {
                worked = !device_->queue(i).arm(true);
                fds.push_back({device_->queue(i).fd(), POLLIN, 0});
            }
        }
        ::poll(fds.data(), fds.size(), worked ? 0 : 100);
    }
}

bool TrafficGuest::exchange(netfront::Queue& queue) noexcept {
    std::array<netfront::Packet, burst> packets;
    const std::size_t received = queue.receive(packets);
    const auto spoiled = std::ranges::count_if(std::span(packets).first(received), std::not_fn(is_ours));
    spoiled_.fetch_add(static_cast<std::uint64_t>(spoiled), std::memory_order_relaxed);
    queue.release(std::span(packets).first(received));
    echoes_.fetch_add(received, std::memory_order_relaxed);

    std::array<netfront::Fragment, burst> buffers;
    const std::size_t allocated = queue.allocate(buffers);  // reaps answers too
    const std::size_t room = queue.tx_in_flight() < burst ? allocated : 0;
    for (std::size_t i = 0; i < room; ++i) {
        std::memset(buffers[i].data, std::to_integer<int>(filling), length);
        buffers[i].length = length;
        packets[i].fragment_count = 1;
        packets[i].offload = {};
        packets[i].fragments[0] = buffers[i];
    }
    const std::size_t sent = queue.send(std::span(packets).first(room));
    queue.free(std::span(buffers).first(allocated).subspan(sent));
    return received + sent != 0;
}

}  // namespace uvif::test
