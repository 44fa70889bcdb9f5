// SPDX-License-Identifier: MIT
#include "uvif_perf_report.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/utsname.h>

#include <array>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <utility>

namespace uvif::perf {
namespace {

using nlohmann::json;

constexpr std::array percentiles{std::pair("p50", 0.5), std::pair("p90", 0.9), std::pair("p99", 0.99),
                                 std::pair("p99_9", 0.999)};

double as_seconds(std::int64_t ns) noexcept {
    return static_cast<double>(ns) / 1e9;
}

double microseconds(std::uint64_t ns) noexcept {
    return static_cast<double>(ns) / 1e3;
}

/// The first line of a file of the kernel's that begins with `key`, behind the colon; an empty key: the first line.
std::string kernel_says(const char* file, const std::string& key) {
    std::ifstream lines(file);
    for (std::string line; std::getline(lines, line);) {
        if (line.starts_with(key)) {
            const std::size_t colon = key.empty() ? std::string::npos : line.find(": ");
            return colon == std::string::npos ? line : line.substr(colon + 2);
        }
    }
    return "";
}

std::string system_info() {
    utsname name{};
    ::uname(&name);
    return fmt::format("{} {} {}", name.sysname, name.release, name.machine);
}

std::string cores_text(const std::vector<int>& cores) {
    return cores.empty() ? "not pinned" : fmt::format("core {}", fmt::join(cores, ","));
}

json to_json(const Figures& figures) {
    json out{{"start", figures.start_s},
             {"end", figures.end_s},
             {"seconds", figures.seconds},
             {"packets", figures.packets},
             {"bytes", figures.bytes},
             {"pps", figures.pps()},
             {"bits_per_second", figures.bits_per_second()},
             {"lost_packets", figures.lost},
             {"frontend_notifications_per_packet", figures.per_packet(figures.frontend_notifications)}};
    if (figures.backend) {
        const auto& backend = *figures.backend;
        out["notifications_per_packet"] = figures.per_packet(figures.frontend_notifications + backend.notifications);
        out["backend_notifications_per_packet"] = figures.per_packet(backend.notifications);
        out["hypercalls_per_packet"] = figures.per_packet(figures.frontend_notifications + backend.hypercalls);
        out["port_system_calls_per_packet"] = figures.per_packet(backend.port_system_calls);
        out["copied_bytes_per_byte"] =
            figures.bytes == 0 ? 0.0 : static_cast<double>(backend.copied_bytes) / static_cast<double>(figures.bytes);
        out["dropped_packets"] = backend.drops;
    }
    return out;
}

std::string columns(const Figures& figures) {
    std::string line = fmt::format("{:7.2f}-{:<7.2f} sec  {:>12}  {:>9.4f}  {:>9.3f}  {:>9.5f}", figures.start_s,
                                   figures.end_s, figures.packets, figures.pps() / 1e6, figures.bits_per_second() / 1e9,
                                   figures.per_packet(figures.frontend_notifications));
    if (figures.backend) {
        line += fmt::format("  {:>9.5f}", figures.per_packet(figures.backend->notifications));
    }
    return line;
}

}  // namespace

Figures Figures::between(Mode mode, const Sample& begin, const Sample& from, const Sample& to) {
    Figures figures;
    figures.start_s = as_seconds(from.time_ns - begin.time_ns);
    figures.end_s = as_seconds(to.time_ns - begin.time_ns);
    figures.seconds = as_seconds(to.time_ns - from.time_ns);
    const auto difference = [&from, &to](auto member) { return to.guest.*member - from.guest.*member; };
    figures.lost = difference(&GuestCounters::lost);
    figures.frontend_notifications = difference(&GuestCounters::notifications);
    const double wall = figures.seconds == 0 ? 1 : figures.seconds;
    figures.guest_cpu_percent = 100 * as_seconds(to.guest_cpu_ns - from.guest_cpu_ns) / wall;
    if (mode == Mode::tx) {
        figures.guest_packets = difference(&GuestCounters::tx_packets);
        const std::uint64_t refused = difference(&GuestCounters::tx_errors);
        const std::uint64_t answered = difference(&GuestCounters::answered_packets);
        figures.packets = answered - std::min(refused, answered);
        const std::uint64_t bytes = difference(&GuestCounters::tx_bytes);
        figures.bytes = figures.guest_packets == 0 ? 0 : bytes / figures.guest_packets * figures.packets;
    } else {
        figures.packets = difference(&GuestCounters::rx_packets);
        figures.bytes = difference(&GuestCounters::rx_bytes);
        figures.guest_packets = mode == Mode::echo ? difference(&GuestCounters::tx_packets) : figures.packets;
    }
    if (from.backend && to.backend && from.backend->daemon == to.backend->daemon) {
        const auto change = [&from, &to](auto member) { return *to.backend.*member - *from.backend.*member; };
        BackendPart part;
        part.packets = change(mode == Mode::rx ? &BackendCounters::rx_packets : &BackendCounters::tx_packets);
        part.drops = change(&BackendCounters::drops);
        part.notifications = change(&BackendCounters::notifications);
        part.hypercalls = change(&BackendCounters::copy_calls) + change(&BackendCounters::map_calls) +
                          change(&BackendCounters::unmap_calls) + part.notifications;
        part.copied_bytes = change(&BackendCounters::copied_bytes);
        part.port_system_calls = change(&BackendCounters::port_system_calls);
        if (from.backend_cpu_ns >= 0 && to.backend_cpu_ns >= 0) {
            part.cpu_percent = 100 * as_seconds(to.backend_cpu_ns - from.backend_cpu_ns) / wall;
        }
        if (mode == Mode::tx) {
            figures.packets = part.packets;
            figures.bytes = change(&BackendCounters::tx_bytes);
        }
        figures.backend = part;
    }
    return figures;
}

double Figures::per_packet(std::uint64_t count) const noexcept {
    return packets == 0 ? 0 : static_cast<double>(count) / static_cast<double>(packets);
}

double Figures::pps() const noexcept {
    return seconds == 0 ? 0 : static_cast<double>(packets) / seconds;
}

double Figures::bits_per_second() const noexcept {
    return seconds == 0 ? 0 : 8 * static_cast<double>(bytes) / seconds;
}

Report::Report(const Options& options, Setup setup) : options_(options), setup_(std::move(setup)) {
    if (!options_.json) {
        print_header();
    }
}

json Report::start_json() const {
    json start{{"version", "uvif-perf " UVIF_VERSION},
               {"system_info", system_info()},
               {"cpu_model", kernel_says("/proc/cpuinfo", "model name")},
               {"cpu_governor", kernel_says("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "")},
               {"timestamp", {{"timesecs", std::time(nullptr)}}},
               {"hypervisor", setup_.hypervisor},
               {"charged", options_.charged},
               {"choice", setup_.choice},
               {"device", setup_.device},
               {"pinning", {{"guest", setup_.guest_cores}, {"backend", setup_.backend_cores}}},
               {"notes", setup_.notes}};
    start["test_start"] = {{"mode", name_of(options_.mode)},  {"size", options_.size},
                           {"queues", setup_.queues},         {"duration", options_.time_s},
                           {"interval", options_.interval_s}, {"omit", options_.omit_s},
                           {"latency", options_.latency},     {"strategy", setup_.strategy},
                           {"unmap", setup_.unmap},           {"split_event_channels", options_.split},
                           {"spin_us", options_.spin_us},     {"header_area", options_.header_area}};
    return start;
}

void Report::print_header() const {
    fmt::print("uvif-perf " UVIF_VERSION ": {}{}, {} octets{}, {} queue{}{}, vif {} of {}\n", name_of(options_.mode),
               options_.latency ? " round trip" : "", options_.size,
               options_.header_area ? ", headers in their area" : "", setup_.queues, setup_.queues == 1 ? "" : "s",
               setup_.strategy.empty() ? "" : ", " + setup_.strategy, setup_.device, setup_.hypervisor);
    fmt::print("guest: {}; backend: {}\n", cores_text(setup_.guest_cores), cores_text(setup_.backend_cores));
    for (const std::string& note : setup_.notes) {
        fmt::print("note: {}\n", note);
    }
    fmt::print("{:<19}  {:>12}  {:>9}  {:>9}  {:>20}\n", "Interval", "Packets", "Mpps", "Gbits/sec",
               "Events/packet: guest, backend");
    std::fflush(stdout);
}

void Report::note(const std::string& text) {
    setup_.notes.push_back(text);
    if (!options_.json) {
        fmt::print("note: {}\n", text);
    }
}

void Report::interval(const Figures& figures, bool omitted) {
    if (options_.json) {
        json entry = to_json(figures);
        entry["omitted"] = omitted;
        intervals_.push_back(std::move(entry));
        return;
    }
    fmt::print("{}{}\n", columns(figures), omitted ? "  (omitted)" : "");
    std::fflush(stdout);
}

void Report::print_summary(const Figures& figures, const LatencyHistogram& latencies) const {
    fmt::print("- - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - -\n{}\n",
               columns(figures));
    fmt::print("guest:   {} packets {}, CPU {:.0f} %{}\n", figures.guest_packets,
               options_.mode == Mode::rx ? "received" : "sent", figures.guest_cpu_percent,
               figures.lost == 0 ? "" : fmt::format(", {} lost", figures.lost));
    if (figures.backend) {
        const auto& backend = *figures.backend;
        fmt::print("backend: {} packets {}, {} dropped{}\n", backend.packets,
                   options_.mode == Mode::rx ? "sent" : "received", backend.drops,
                   backend.cpu_percent ? fmt::format(", CPU {:.0f} %", *backend.cpu_percent) : "");
        fmt::print("per packet: {:.4f} hypercalls, {:.4f} system calls of the port, {:.0f} octets copied\n",
                   figures.per_packet(figures.frontend_notifications + backend.hypercalls),
                   figures.per_packet(backend.port_system_calls), figures.per_packet(backend.copied_bytes));
    }
    if (latencies.count() != 0) {
        fmt::print("round trip in us:");
        for (const auto& [name, share] : percentiles) {
            fmt::print(" {} {:.2f},", name, microseconds(latencies.percentile(share)));
        }
        fmt::print(" max {:.2f}\n", microseconds(latencies.max()));
    }
}

void Report::finish(const Figures& figures, const LatencyHistogram& latencies, const std::string& error) {
    if (!options_.json) {
        print_summary(figures, latencies);
        return;
    }
    json cpu{{"guest", figures.guest_cpu_percent}};
    cpu["backend"] = figures.backend && figures.backend->cpu_percent ? json(*figures.backend->cpu_percent) : json();
    json end{{"sum", to_json(figures)}, {"cpu_utilization_percent", std::move(cpu)}};
    if (latencies.count() != 0) {
        for (const auto& [name, share] : percentiles) {
            end["latency_us"][name] = microseconds(latencies.percentile(share));
        }
        end["latency_us"]["max"] = microseconds(latencies.max());
        end["latency_us"]["count"] = latencies.count();
    }
    json all{{"start", start_json()}, {"intervals", std::move(intervals_)}, {"end", std::move(end)}};
    if (!error.empty()) {
        all["error"] = error;
    }
    fmt::print("{}\n", all.dump(-1, ' ', false, json::error_handler_t::replace));
}

}  // namespace uvif::perf
