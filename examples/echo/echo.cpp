// SPDX-License-Identifier: MIT
//
// Answers every frame with itself, source and destination exchanged.
#include <poll.h>
#include <uvif/netfront.hpp>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <span>
#include <string_view>

namespace {

namespace netfront = uvif::netfront;

constexpr std::size_t burst = 32;
constexpr std::size_t address_octets = 6;

/// Answers what has arrived, as far as there are buffers to answer from. True: there was something.
bool echo(netfront::Queue& queue) {
    std::array<netfront::Fragment, burst> buffers;
    const std::size_t room = queue.allocate(buffers, true);
    std::array<netfront::Packet, burst> received;
    const std::size_t count = queue.receive(std::span(received).first(room));
    std::array<netfront::Packet, burst> answers;
    for (std::size_t i = 0; i < count; ++i) {
        // One fragment each: without scatter-gather nothing longer is sent to us.
        const netfront::Fragment& from = received[i].fragments[0];
        std::byte* const to = buffers[i].data;
        std::memcpy(to, from.data, from.length);
        std::swap_ranges(to, to + address_octets, to + address_octets);
        answers[i].fragment_count = 1;
        answers[i].offload = received[i].offload;
        answers[i].fragments[0] = {to, from.length, buffers[i].buffer};
    }
    queue.release(std::span(received).first(count));
    const std::size_t sent = queue.send(std::span(answers).first(count));
    queue.free(std::span(buffers).subspan(sent, room - sent));
    return count != 0;
}

int serve(netfront::Device& device) {
    for (netfront::LinkState state = device.state();;) {
        switch (state) {
            case netfront::LinkState::up:
            case netfront::LinkState::down:
                while (echo(device.queue(0))) {
                }
                break;
            case netfront::LinkState::connecting:
                break;
            case netfront::LinkState::closed:
            case netfront::LinkState::broken:
                std::fprintf(stderr, "uvif-echo: %s\n", device.failure().c_str());
                return 1;
        }
        const bool connected = state != netfront::LinkState::connecting;
        // Also for TX answers: they bring the buffers without which nothing is received.
        if (connected && !device.queue(0).arm(true)) {
            continue;
        }
        std::array<pollfd, 2> wait{{{device.fd(), POLLIN, 0}, {connected ? device.queue(0).fd() : -1, POLLIN, 0}}};
        poll(wait.data(), wait.size(), -1);
        if (wait[0].revents != 0) {
            state = device.process();
        }
    }
}

}  // namespace

int main(int argc, char** argv) {
    const std::string_view argument = argc > 1 ? argv[1] : "";
    if (argc > 2 || argument.starts_with("-")) {
        const bool help = argument == "--help";
        std::fprintf(help ? stdout : stderr, "usage: uvif-echo [real | emulated:SOCKET]\n");
        return help ? 0 : 2;
    }
    netfront::Config config;
    config.hypervisor = argument;
    config.scatter_gather = false;
    auto device = netfront::Device::connect(config);
    if (!device) {
        std::fprintf(stderr, "uvif-echo: %s\n", device.error().message.c_str());
        return 1;
    }
    std::printf("connected\n");
    std::fflush(stdout);
    return serve(**device);
}
