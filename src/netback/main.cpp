// SPDX-License-Identifier: MIT
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>

#include <algorithm>
#include <csignal>
#include <map>
#include <string>
#include <thread>

#include "cli/options.hpp"
#include "cli/program.hpp"
#include "netback/daemon.hpp"
#include "netback/instance.hpp"
#include "runtime/clock.hpp"
#include "runtime/limits.hpp"
#include "runtime/log.hpp"
#include "runtime/unique_fd.hpp"

namespace uvif::netback {
namespace {

struct Options {
    std::string hypervisor;
    std::string port = "tap";
    std::string control;
    Settings settings;
    LogLevel log_level = LogLevel::info;
    unsigned spin_us = 20;
    unsigned rx_stall_ms = limits::rx_stall_ns / ns_per_ms;
};

void declare(CLI::App& app, Options& options) {
    const std::map<std::string, FetchStrategy> strategies{
        {"copy", FetchStrategy::copy}, {"map", FetchStrategy::map}, {"auto", FetchStrategy::automatic}};
    const std::map<std::string, UnmapStrategy> unmaps{{"batch", UnmapStrategy::batch}, {"each", UnmapStrategy::each}};
    const std::map<std::string, ReceiveStrategy> receives{
        {"bounce", ReceiveStrategy::bounce}, {"direct", ReceiveStrategy::direct}, {"auto", ReceiveStrategy::automatic}};
    const std::map<std::string, LogLevel> levels{{"error", LogLevel::error},
                                                 {"warning", LogLevel::warning},
                                                 {"info", LogLevel::info},
                                                 {"debug", LogLevel::debug}};
    const unsigned cpus = std::max(1U, std::thread::hardware_concurrency());
    options.settings.max_queues = std::min(8U, cpus);  // as Linux
    options.settings.workers = std::min(cpus, limits::workers);
    // Spinning takes the CPU from the very guest that is waited for when there is only one.
    options.spin_us = cpus == 1 ? 0 : options.spin_us;
    app.add_option("--hypervisor", options.hypervisor,
                   "real, or emulated:SOCKET (a domain's socket of uvif-machine); default: $UVIF_HYPERVISOR, else real "
                   "Xen where it is");
    app.add_option("--port", options.port,
                   "where packets go: tap; vxlan:vni=N,local=ADDRESS,remote=ADDRESS[,remote=..][,port=4789]"
                   "[,fdb=MAC@ADDRESS..] (one vif); null:sink, null:generate,SIZE or null:reflect")
        ->capture_default_str();
    cli::add_choice(app, "--strategy", options.settings.fetch.strategy, strategies,
                    "how guest pages are fetched; auto: by what either costs here")
        ->default_str("copy");
    cli::add_choice(app, "--unmap", options.settings.fetch.unmap, unmaps,
                    "when mapped pages go back: those of many packets together, or each packet's by itself")
        ->default_str("batch");
    cli::add_choice(app, "--receive", options.settings.receive, receives,
                    "how packets get to guest pages that stay mapped: by buffers of ours, which many are read to at a "
                    "time; straight, one by one; or as their length says")
        ->default_str("auto");
    cli::add_loop(app, options.settings.loop);
    app.add_option("--workers", options.settings.workers, "threads that serve queues")
        ->check(cli::whole_number(1, limits::workers))
        ->capture_default_str();
    app.add_option("--max-queues", options.settings.max_queues, "queues offered to each guest")
        ->check(cli::whole_number(1, limits::queues_per_vif))
        ->capture_default_str();
    app.add_option("--spin-us", options.spin_us,
                   "longest spin before a worker sleeps, in microseconds; 0: none, as where the clock is a system call")
        ->check(cli::whole_number(0, 1000000))
        ->capture_default_str();
    app.add_option("--rx-stall-ms", options.rx_stall_ms,
                   "how long a guest may take no packets before its interface loses its carrier; 0: for ever")
        ->check(cli::whole_number(0, 86'400'000))
        ->capture_default_str();
    auto* switched = app.add_flag(
        "--switch", options.settings.switched,
        "hand frames for another guest on the same bridge over directly: one copy, but no filter of the bridge "
        "sees them");
    app.add_flag(
           "--no-mac-spoofing", options.settings.no_mac_spoofing,
           "with --switch: drop what guests send from another MAC address than their own; no-mac-spoofing, 0 or 1, "
           "in a vif's backend folder says otherwise for that vif")
        ->needs(switched);
    app.add_option("--control", options.control, "path of the control socket that uvif-ctl talks to");
    cli::add_choice(app, "--log-level", options.log_level, levels, "what is worth a line")->default_str("info");
    app.set_version_flag("--version", [] {
        auto loop = Loop::create(LoopKind::automatic);
        return fmt::format("uvif-netback {} (loop: {})", UVIF_VERSION, loop ? (*loop)->name() : "none");
    });
}

struct StopHandler final : ReadyHandler {
    Daemon* daemon = nullptr;
    void on_ready(std::uint32_t /*events*/) noexcept override { daemon->stop(); }
};

/// Every queue takes descriptors, and the soft limit is 1024 for the sake of programs that use select().
void raise_descriptor_limit() noexcept {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        ::setrlimit(RLIMIT_NOFILE, &limit);  // without it there is room for fewer guests, and no more to say
    }
}

Result<void> serve(Options& options, int signals) {
    auto port = parse_port_spec(options.port);
    if (!port) {
        return propagate(port);
    }
    options.settings.port = std::move(*port);
    options.settings.spin_ns = options.spin_us * ns_per_us;
    options.settings.rx_patience.stall_ns = options.rx_stall_ms * ns_per_ms;
    auto hypervisor = xen::open_hypervisor(options.hypervisor);
    if (!hypervisor) {
        return propagate(hypervisor);
    }
    auto instance = Instance::claim((*hypervisor)->description());
    if (!instance) {
        return propagate(instance);
    }
    options.settings.journals = instance->journal_path();
    auto daemon = Daemon::create(**hypervisor, options.settings,
                                 options.control.empty() ? instance->control_path() : options.control);
    if (!daemon) {
        return propagate(daemon);
    }
    StopHandler stop;
    stop.daemon = daemon->get();
    if (auto added = (*daemon)->loop().add(signals, EPOLLIN, stop); !added) {
        return added;
    }
    // For systemd's Type=notify and WatchdogSec; without systemd these do nothing.
    Result<void> served = (*daemon)->run([] { ::sd_notify(0, "READY=1\nWATCHDOG=1"); });
    ::sd_notify(0, "STOPPING=1");
    (*daemon)->loop().remove(signals);
    return served;
}

Result<void> run(Options& options) {
    set_log_level(options.log_level);
    raise_descriptor_limit();

    // Every thread inherits the mask, so that only the loop hears of these.
    sigset_t stops;
    sigemptyset(&stops);
    sigaddset(&stops, SIGTERM);
    sigaddset(&stops, SIGINT);
    pthread_sigmask(SIG_BLOCK, &stops, nullptr);
    std::signal(SIGPIPE, SIG_IGN);
    const UniqueFd signals(::signalfd(-1, &stops, SFD_CLOEXEC | SFD_NONBLOCK));

    return serve(options, signals.get());
}

}  // namespace
}  // namespace uvif::netback

int main(int argc, char** argv) {
    using namespace uvif;
    using namespace uvif::netback;
    CLI::App app("Serves the network interfaces of Xen guests", "uvif-netback");
    Options options;
    declare(app, options);
    return cli::run(app, argc, argv, [&options] { return run(options); });
}
