// SPDX-License-Identifier: MIT
//
// Theory of operation
//
// The benchmark is a guest: it connects to a vif through the netfront library, makes traffic for a time (Traffic), asks
// both ends for their counters at every interval, and reports what changed (Report). With --self it first makes
// itself a machine, a backend over a null port and a vif (OwnMachine): three processes, and a core for each side of
// the rings. The main thread only waits: for the next interval, for ^C, for news of the device.
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/signalfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "cli/options.hpp"
#include "cli/program.hpp"
#include "runtime/clock.hpp"
#include "runtime/unique_fd.hpp"
#include "uvif/netfront.hpp"
#include "uvif_perf_backend.hpp"
#include "uvif_perf_machine.hpp"
#include "uvif_perf_options.hpp"
#include "uvif_perf_report.hpp"
#include "uvif_perf_traffic.hpp"
#include "xen/store_path.hpp"

namespace uvif::perf {
namespace {

/// Shortest and longest packet: an Ethernet frame without its checksum, and what netif.h can say.
constexpr unsigned size_min = 60;
constexpr unsigned size_max = 65535;
/// A slot of the header area for each of the ring.
constexpr unsigned header_slots = 256;
/// How long a backend that is being restarted may be away.
constexpr std::int64_t restart_patience_ns = 10 * ns_per_s;

/// Which Range does not ask: nothing compares with what is none.
const CLI::Validator is_number(
    [](std::string& text) { return std::isnan(std::strtod(text.c_str(), nullptr)) ? text + " is no number" : ""; }, "");

const CLI::Validator is_mac(
    [](std::string& text) {
        return xen::parse_mac(text) ? "" : text + " is no MAC address: six octets as in 00:16:3e:00:00:01";
    },
    "MAC");

void declare_test(CLI::App& app, Options& options) {
    auto* modes = app.add_option_group("Direction", "exactly one; named from the guest");
    auto* tx = modes->add_flag("--tx", [&options](auto) { options.mode = Mode::tx; }, "guest to backend");
    modes->add_flag("--rx", [&options](auto) { options.mode = Mode::rx; }, "backend to guest");
    auto* echo = modes->add_flag(
        "--echo", [&options](auto) { options.mode = Mode::echo; },
        "there and back, with a window of packets under way");
    modes->require_option(1);
    app.add_flag("--latency", options.latency, "with --echo: one packet under way, and its round trip times")
        ->needs(echo);
    app.add_flag("--header-area", options.header_area,
                 "with --tx: the first 66 octets of a packet, its headers, in the header area, the others in buffers")
        ->needs(tx);
    app.add_option_function<std::string>(
           "--to", [&options](const std::string& text) { options.to = *xen::parse_mac(text); },
           "MAC address that packets are sent to, such as that of another guest, where uvif-perf --rx counts them")
        ->check(is_mac);
    app.add_option("-l,--size", options.size, "octets of a packet, Ethernet header included")
        ->check(cli::whole_number(size_min, size_max))
        ->capture_default_str();
    app.add_option("--queues", options.queues, "queue pairs, a thread for each")
        ->check(cli::whole_number(1, 64))
        ->capture_default_str();
    app.add_option("-t,--time", options.time_s, "seconds to measure")
        ->check(CLI::Range(0.01, 1e6) & is_number)
        ->capture_default_str();
    app.add_option("-i,--interval", options.interval_s, "seconds between reports; 0: none")
        ->check(CLI::Range(0.0, 1e6) & is_number)
        ->capture_default_str();
    app.add_option("-O,--omit", options.omit_s, "seconds at the start that do not count")
        ->check(CLI::Range(0.0, 1e6) & is_number)
        ->capture_default_str();
    app.add_option("--spin-us", options.spin_us, "how long a side spins before it sleeps, in microseconds")
        ->check(cli::whole_number(0, 1000000))
        ->capture_default_str();
    app.add_flag("--split,!--no-split", options.split, "an event channel for each direction (the default), or one");
    app.add_flag("-J,--json", options.json, "print one JSON object at the end");
}

void declare_ends(CLI::App& app, Options& options) {
    auto* hypervisor =
        app.add_option("--hypervisor", options.hypervisor,
                       "real, or emulated:SOCKET (a guest's socket of uvif-machine); default: $UVIF_HYPERVISOR, else "
                       "real Xen");
    auto* device = app.add_option("--device", options.device, "device id of the vif; default: the first that is free")
                       ->check(cli::whole_number(0, UINT32_MAX));
    auto* control = app.add_option("--control", options.control,
                                   "control socket of the backend; default: where uvif-netback listens by itself");
    auto* self = app.add_flag("--self", options.self,
                              "measure a machine, a backend over a null port and a vif made for the purpose")
                     ->excludes(hypervisor)
                     ->excludes(device)
                     ->excludes(control);
    app.add_option(
           "--strategy", options.strategy,
           "how pages reach the backend; default: copy with --self, else what is best of all that it takes. Not "
           "map and auto without --self, which are the backend's to choose")
        ->check(CLI::IsMember({"copy", "map", "auto", "persistent", "static"}));
    app.parse_complete_callback([&options] {
        if (!options.self && (options.strategy == "map" || options.strategy == "auto")) {
            throw CLI::ValidationError("--strategy",
                                       options.strategy + " is the backend's to choose, and needs --self");
        }
    });
    app.add_option("--unmap", options.unmap, "with --self: when mapped pages go back, batch or each")
        ->check(CLI::IsMember({"batch", "each"}))
        ->capture_default_str()
        ->needs(self);
    app.add_option("--receive", options.receive,
                   "with --self and --strategy static or persistent: how packets get to the guest's pages, bounce, "
                   "direct or auto; "
                   "received directly, no octet behind the header is touched: the null port makes none")
        ->check(CLI::IsMember({"bounce", "direct", "auto"}))
        ->capture_default_str()
        ->needs(self);
    app.add_option("--loop", options.loop, "with --self: the backend's event loop, auto, io_uring or epoll")
        ->check(CLI::IsMember({"auto", "io_uring", "epoll"}))
        ->capture_default_str()
        ->needs(self);
    app.add_flag("--charged", options.charged,
                 "with --self: every grant operation and notification costs a real system call")
        ->needs(self);
}

/// Why a wait ended.
enum class Wakeup : std::uint8_t { due, interrupted, link_lost };

class Run {
public:
    Run(const Options& options, int signals) : options_(options), signals_(signals) {}

    Result<void> prepare();
    Result<void> measure();

private:
    Result<void> make_machine();
    Result<void> connect();
    Sample sample();
    void ask_backend(Sample& sample);
    Result<Wakeup> wait_until(std::int64_t deadline_ns);
    Result<Wakeup> phase(double length_s, bool omitted, Sample& last, const Sample& begin);
    [[nodiscard]] std::string why_lost() const;

    Options options_;
    int signals_;
    Setup setup_;
    std::unique_ptr<OwnMachine> machine_;
    std::unique_ptr<netfront::Device> device_;
    std::optional<Backend> backend_;
    pid_t daemon_ = 0;  // that answered last
    std::string lost_;  // why the backend does not answer; empty: it does
    std::int64_t lost_since_ns_ = 0;
    std::unique_ptr<Traffic> traffic_;
    std::optional<Report> report_;
};

Result<void> Run::make_machine() {
    auto placement = Placement::choose(Placement::usable_cores(), options_.queues);
    if (!placement.note.empty()) {
        setup_.notes.push_back(placement.note);
    }
    if (placement.guest.empty()) {
        options_.spin_us = 0;
    }
    auto machine = OwnMachine::start(options_, placement.backend);
    if (!machine) {
        return propagate(machine);
    }
    machine_ = std::move(*machine);
    options_.hypervisor = machine_->guest_hypervisor();
    options_.control = machine_->control_path();
    setup_.backend_cores = std::move(placement.backend);
    setup_.guest_cores = std::move(placement.guest);
    if (!setup_.guest_cores.empty()) {
        cpu_set_t set;
        CPU_ZERO(&set);
        for (const int cpu : setup_.guest_cores) {
            CPU_SET(static_cast<unsigned>(cpu), &set);
        }
        ::sched_setaffinity(0, sizeof set, &set);  // of all threads to come
    }
    return {};
}

Result<void> Run::connect() {
    netfront::Config config;
    config.hypervisor = options_.hypervisor;
    config.device = options_.device;
    config.queues = options_.queues;
    config.split_event_channels = options_.split;
    config.cancel_fd = signals_;
    config.tx_headers = options_.header_area ? header_slots : 0;
    const bool all = options_.strategy.empty() && !options_.self;
    config.static_grants = all || options_.strategy == static_strategy;
    config.persistent_grants = all || options_.strategy == persistent_strategy;
    auto device = netfront::Device::connect(config);
    if (!device) {
        return propagate(device);
    }
    device_ = std::move(*device);
    const std::size_t one_slot = options_.header_area ? header_octets : netfront::buffer_size;
    if (options_.mode != Mode::rx && options_.size > one_slot && !device_->can_scatter_gather()) {
        return fail(EOPNOTSUPP, fmt::format("the backend takes packets of one page only (no feature-sg): choose a "
                                            "--size up to {}",
                                            one_slot));
    }
    if (device_->queue_count() < options_.queues) {
        setup_.notes.push_back(
            fmt::format("{} queues wanted, {} agreed to by the backend", options_.queues, device_->queue_count()));
    }
    return {};
}

Result<void> Run::prepare() {
    if (options_.self) {
        if (auto made = make_machine(); !made) {
            return made;
        }
    } else if (const char* set = std::getenv("UVIF_HYPERVISOR"); options_.hypervisor.empty() && set != nullptr) {
        options_.hypervisor = set;
    }
    if (auto connected = connect(); !connected) {
        return connected;
    }
    auto backend = Backend::find(options_.hypervisor, device_->id(), options_.control);
    if (backend) {
        setup_.strategy = device_->static_buffers() != 0 ? static_strategy
                          : device_->persistent_grants() ? persistent_strategy
                                                         : backend->strategy();
        setup_.unmap = backend->unmap();
        setup_.choice = backend->choice();
        backend_.emplace(std::move(*backend));
    } else if (!options_.control.empty()) {
        return propagate(backend);
    } else {
        setup_.notes.push_back(
            fmt::format("no figures of the backend's, so TX is counted by its answers ({})", backend.error().message));
    }
    setup_.hypervisor = options_.hypervisor.empty() ? "real" : options_.hypervisor;
    setup_.device = device_->id();
    setup_.queues = device_->queue_count();
    return {};
}

/// A daemon that is restarted takes up the rings, so the run goes on meanwhile; it is only looked for anew.
void Run::ask_backend(Sample& sample) {
    auto counters = backend_->counters();
    if (!counters) {
        if (auto found = Backend::find(options_.hypervisor, device_->id(), options_.control)) {
            *backend_ = std::move(*found);
            counters = backend_->counters();
        }
    }
    if (!counters) {
        if (lost_.empty()) {
            lost_ = fmt::format("lost sight of the backend: {}", counters.error().message);
            lost_since_ns_ = monotonic_ns();
            report_->note(lost_);
        }
        return;
    }
    if (daemon_ != 0 && daemon_ != counters->daemon) {
        report_->note(
            "the backend was restarted and counts anew: figures across that lack its part, and TX is counted by its "
            "answers there");
    }
    daemon_ = counters->daemon;
    lost_.clear();
    sample.backend = *counters;
    sample.backend_cpu_ns = backend_->cpu_ns();
}

Sample Run::sample() {
    Sample sample;
    if (backend_) {
        ask_backend(sample);
    }
    sample.guest = traffic_->counters();
    rusage used{};
    ::getrusage(RUSAGE_SELF, &used);
    const auto ns = [](const timeval& time) { return time.tv_sec * ns_per_s + time.tv_usec * ns_per_us; };
    sample.guest_cpu_ns = ns(used.ru_utime) + ns(used.ru_stime);
    sample.time_ns = monotonic_ns();
    return sample;
}

std::string Run::why_lost() const {
    if (const char* program = machine_ ? machine_->casualty() : nullptr) {
        return fmt::format("{} ended unexpectedly", program);
    }
    const std::string failure = device_->failure();
    return failure.empty() ? "the backend went away" : failure;
}

Result<Wakeup> Run::wait_until(std::int64_t deadline_ns) {
    for (std::int64_t now = monotonic_ns(); now < deadline_ns; now = monotonic_ns()) {
        std::array<pollfd, 2> fds{{{signals_, POLLIN, 0}, {device_->fd(), POLLIN, 0}}};
        const timespec left{.tv_sec = (deadline_ns - now) / ns_per_s, .tv_nsec = (deadline_ns - now) % ns_per_s};
        if (::ppoll(fds.data(), fds.size(), &left, nullptr) < 0 && errno != EINTR) {
            return fail(errno, fmt::format("cannot wait: {}", std::strerror(errno)));
        }
        if (fds[0].revents != 0) {
            return Wakeup::interrupted;
        }
        if (fds[1].revents != 0) {
            const netfront::LinkState state = device_->process();
            if (state != netfront::LinkState::up && state != netfront::LinkState::down) {
                return Wakeup::link_lost;
            }
        }
    }
    return Wakeup::due;
}

/// Lets traffic run, reporting each interval; `last` is the sample at the end.
Result<Wakeup> Run::phase(double length_s, bool omitted, Sample& last, const Sample& begin) {
    const auto ns = [](double length) { return static_cast<std::int64_t>(length * 1e9); };
    const std::int64_t start = last.time_ns;
    const std::int64_t end = start + ns(length_s);
    const std::int64_t step = options_.interval_s > 0 ? ns(options_.interval_s) : end - start;
    Wakeup wakeup = Wakeup::due;
    for (std::int64_t tick = start + step; last.time_ns < end && wakeup == Wakeup::due; tick += step) {
        // An interval of a few milliseconds at the end would tell nothing.
        const std::int64_t until = tick + step / 10 > end ? end : tick;
        auto woken = wait_until(until);
        if (!woken) {
            return woken;
        }
        wakeup = *woken;
        const Sample now = sample();
        if (options_.interval_s > 0) {
            report_->interval(Figures::between(options_.mode, begin, last, now), omitted);
        }
        last = now;
        const bool comes_back = !machine_ || machine_->casualty() == nullptr;
        if (!lost_.empty() && (!comes_back || monotonic_ns() - lost_since_ns_ > restart_patience_ns)) {
            return fail(EIO, lost_);
        }
    }
    return wakeup;
}

Result<void> Run::measure() {
    auto traffic = Traffic::start(*device_, options_, setup_.guest_cores);
    if (!traffic) {
        return propagate(traffic);
    }
    traffic_ = std::move(*traffic);
    report_.emplace(options_, setup_);
    const Sample begin = sample();
    Sample from = begin;
    Sample last = begin;
    Result<Wakeup> wakeup = Wakeup::due;
    if (options_.omit_s > 0) {
        wakeup = phase(options_.omit_s, true, last, begin);
        traffic_->forget_latencies();
        from = last;
    }
    if (wakeup && *wakeup == Wakeup::due) {
        wakeup = phase(options_.time_s, false, last, begin);
    }
    traffic_->stop();
    // An end before the first interval: what there is.
    const Figures sum = Figures::between(options_.mode, begin, from, last);
    std::string error;
    if (!wakeup) {
        error = machine_ && machine_->casualty() != nullptr ? why_lost() : wakeup.error().message;
    } else if (*wakeup == Wakeup::link_lost) {
        error = why_lost();
    } else {
        error = lost_;  // at the end: nobody came back
    }
    if (error.empty() && sum.packets == 0 && *wakeup == Wakeup::due) {
        error =
            "no packet arrived: `uvif-ctl stats VIF` at the backend tells whether any came and why they were dropped";
    }
    report_->finish(sum, traffic_->latencies(), error);
    return error.empty() ? Result<void>() : fail(EIO, error);
}

Result<void> run(const Options& options) {
    // Every thread inherits the mask, so that only the wait hears of these.
    sigset_t stops;
    sigemptyset(&stops);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
        sigaddset(&stops, signal);
    }
    pthread_sigmask(SIG_BLOCK, &stops, nullptr);
    std::signal(SIGPIPE, SIG_IGN);
    const UniqueFd signals(::signalfd(-1, &stops, SFD_CLOEXEC | SFD_NONBLOCK));
    Run run(options, signals.get());
    Result<void> prepared = run.prepare();
    return prepared ? run.measure() : prepared;
}

}  // namespace
}  // namespace uvif::perf

int main(int argc, char** argv) {
    CLI::App app("Measures a Xen virtual network interface from the guest's end", "uvif-perf");
    uvif::perf::Options options;
    uvif::perf::declare_test(app, options);
    uvif::perf::declare_ends(app, options);
    return uvif::cli::run(app, argc, argv, [&options] { return uvif::perf::run(options); });
}
