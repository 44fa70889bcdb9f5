// SPDX-License-Identifier: MIT
//
// The guest's side of a vif as a TAP interface: run it in a network namespace, and that namespace is a guest.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/options.hpp"
#include "cli/program.hpp"
#include "port/tap.hpp"
#include "runtime/log.hpp"
#include "runtime/loop.hpp"
#include "runtime/unique_fd.hpp"
#include "tap_bridge.hpp"
#include "uvif/netfront.hpp"

namespace uvif {
namespace {

using netfront::Device;
using netfront::LinkState;

struct Options {
    netfront::Config device;
    std::string tap = "xen0";
    LoopKind loop = LoopKind::automatic;
    int ready_fd = -1;
};

struct Flag final : ReadyHandler {
    bool raised = false;
    void on_ready(std::uint32_t /*events*/) noexcept override { raised = true; }
};

/// The device, the TAP, and the bridges between their queues while the backend is there.
class Guest {
public:
    Guest(const Options& options, Device& device, TapDevice& tap, Loop& loop)
        : options_(options), device_(device), tap_(tap), loop_(loop) {}

    /// Until `stop` is raised, or the device or the TAP is gone.
    Result<void> run(const Flag& stop);

private:
    Result<void> set_up();
    Result<void> follow(LinkState state);
    bool turn();
    bool arm();

    const Options& options_;
    Device& device_;
    TapDevice& tap_;
    Loop& loop_;
    Flag news_;
    LogBudget budget_;        // for what the backend can trigger, which may come and go without end
    LogBudget notes_budget_;  // apart: there may be many at each connection
    std::vector<std::unique_ptr<TapBridge>> bridges_;
};

/// What depends on the backend, after every connection.
Result<void> Guest::set_up() {
    for (const std::string& note : device_.notes()) {
        log(notes_budget_, LogLevel::warning, "{}", note);
    }
    const bool checksum = options_.device.checksum_offload && device_.can_leave_checksum_blank(false) &&
                          device_.can_leave_checksum_blank(true);
    const bool segmentation = checksum && options_.device.segmentation && device_.can_scatter_gather();
    if (auto set = tap_.set_offload(checksum, segmentation && device_.can_segment(GsoType::tcpv4),
                                    segmentation && device_.can_segment(GsoType::tcpv6));
        !set) {
        return set;
    }
    for (unsigned i = 0; i < device_.queue_count(); ++i) {
        auto port = tap_.queue(i, loop_);
        if (!port) {
            return propagate(port);
        }
        auto bridge = TapBridge::create(device_.queue(i), std::move(*port), loop_, device_.can_scatter_gather());
        if (!bridge) {
            return propagate(bridge);
        }
        bridges_.push_back(std::move(*bridge));
    }
    return {};
}

Result<void> Guest::follow(LinkState state) {
    switch (state) {
        case LinkState::up:
        case LinkState::down:
            if (bridges_.empty()) {
                if (auto done = set_up(); !done) {
                    return done;
                }
                log(budget_, LogLevel::info, "vif {} is connected, queue pairs: {}", device_.id(),
                    device_.queue_count());
            }
            return tap_.set_carrier(state == LinkState::up);
        case LinkState::broken:
            log(budget_, LogLevel::error, "{}; waiting for it to begin anew", device_.failure());
            [[fallthrough]];
        case LinkState::connecting:
            if (!bridges_.empty()) {
                log(budget_, LogLevel::info, "vif {} lost its backend", device_.id());
            }
            bridges_.clear();
            return tap_.set_carrier(false);
        case LinkState::closed:
            bridges_.clear();
            return fail(ENODEV, fmt::format("vif {} is closed: {}", device_.id(), device_.failure()));
    }
    return {};
}

bool Guest::turn() {
    bool worked = false;
    for (const auto& bridge : bridges_) {
        worked = bridge->turn() || worked;
    }
    return worked;
}

bool Guest::arm() {
    return std::ranges::all_of(bridges_, [](const auto& bridge) { return bridge->arm(); });
}

Result<void> Guest::run(const Flag& stop) {
    /// Turns of work between looks at signals and the store.
    constexpr unsigned busy_turns = 32;
    if (auto added = loop_.add(device_.fd(), EPOLLIN, news_); !added) {
        return added;
    }
    Result<void> followed = follow(device_.state());
    while (followed && !stop.raised) {
        unsigned turns = 0;
        while (turns < busy_turns && turn()) {
            ++turns;
        }
        loop_.wait(turns < busy_turns && arm() ? -1 : 0);
        if (news_.raised) {
            news_.raised = false;
            followed = follow(device_.process());
        }
        if (std::ranges::any_of(bridges_, [](const auto& bridge) { return bridge->failed(); })) {
            followed = fail(
                ENODEV,
                fmt::format("the TAP interface {} was deleted; start uvif-tap again to have a new one", tap_.name()));
        }
    }
    loop_.remove(device_.fd());
    bridges_.clear();
    return followed;
}

void declare(CLI::App& app, Options& options) {
    app.add_option("--hypervisor", options.device.hypervisor,
                   "real, or emulated:SOCKET (a domain's socket of uvif-machine); default: $UVIF_HYPERVISOR, else real "
                   "Xen where it is");
    app.add_option("--device", options.device.device, "the vif's device id; default: the first that is free")
        ->check(cli::whole_number(0, UINT32_MAX));
    app.add_option("--queues", options.device.queues, "queue pairs to ask for")
        ->check(cli::whole_number(1, limits::tap_queues))
        ->capture_default_str();
    app.add_option("--tap", options.tap, "name of the TAP interface to make")->capture_default_str();
    app.add_flag("!--no-gso", options.device.segmentation, "exchange no segments that the other side has to cut");
    app.add_flag("!--no-csum", options.device.checksum_offload, "exchange no blank checksums (nor segments)");
    app.add_flag("!--no-sg", options.device.scatter_gather, "take no packets above one page (nor segments)");
    app.add_flag("!--no-split", options.device.split_event_channels, "one event channel for both directions");
    app.add_flag("!--no-static", options.device.static_grants, "have no buffers stay mapped by request");
    app.add_flag("!--no-persistent", options.device.persistent_grants, "nor as the backend learns of them");
    app.add_option("--tx-buffers", options.device.tx_buffers, "granted pages a queue for sending")
        ->check(cli::whole_number(netfront::max_tx_fragments, 256))
        ->capture_default_str();
    app.add_option("--rx-buffers", options.device.rx_buffers, "granted pages a queue for receiving")
        ->check(cli::whole_number(netfront::max_fragments, 256))
        ->capture_default_str();
    app.add_option("--timeout", options.device.connect_timeout_ms, "milliseconds to wait for the backend at first")
        ->check(cli::whole_number(0, UINT32_MAX))
        ->capture_default_str();
    cli::add_loop(app, options.loop);
    cli::add_ready_fd(app, options.ready_fd, "descriptor to write a line to once connected");
}

Result<void> announce(const Options& options, const Device& device) {
    const auto mac = device.mac();
    const std::string line = fmt::format("connected: vif {}, {}, {:02x}, mtu {}, queue pairs: {}\n", device.id(),
                                         options.tap, fmt::join(mac, ":"), device.mtu(), device.queue_count());
    fmt::print("{}", line);
    std::fflush(stdout);
    return cli::tell_ready(options.ready_fd, line);
}

Result<void> serve(const Options& options) {
    auto tap = TapDevice::open({.name = options.tap, .queues = options.device.queues});
    if (!tap) {
        return propagate(tap);
    }
    auto device = Device::connect(options.device);
    if (!device) {
        return propagate(device);
    }
    // Not before: connect() may take long, and may be ended by a signal as it comes.
    sigset_t stops;
    sigemptyset(&stops);
    sigaddset(&stops, SIGTERM);
    sigaddset(&stops, SIGINT);
    pthread_sigmask(SIG_BLOCK, &stops, nullptr);
    const UniqueFd signals(::signalfd(-1, &stops, SFD_CLOEXEC | SFD_NONBLOCK));

    auto loop = Loop::create(options.loop);
    if (!loop) {
        return propagate(loop);
    }
    for (auto set : {(*tap)->set_mac((*device)->mac()), (*tap)->set_mtu((*device)->mtu()), (*tap)->set_up(true)}) {
        if (!set) {
            return set;
        }
    }
    Flag stop;
    if (auto added = (*loop)->add(signals.get(), EPOLLIN, stop); !added) {
        return added;
    }
    Result<void> ran = announce(options, **device);
    if (ran) {
        ran = Guest(options, **device, **tap, **loop).run(stop);
    }
    (*loop)->remove(signals.get());
    return ran;
}

}  // namespace
}  // namespace uvif

int main(int argc, char** argv) {
    CLI::App app("Connects a vif of this guest to a TAP interface of this network namespace", "uvif-tap");
    uvif::Options options;
    uvif::declare(app, options);
    return uvif::cli::run(app, argc, argv, [&options] {
        auto& device = options.device;
        device.segmentation = device.segmentation && device.checksum_offload && device.scatter_gather;
        std::signal(SIGPIPE, SIG_IGN);
        return uvif::serve(options);
    });
}
