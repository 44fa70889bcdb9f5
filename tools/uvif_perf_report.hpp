// SPDX-License-Identifier: MIT
//
// What was measured, as a person and as a program want to read it. Packets are those that arrived, counted where they
// arrived: TX by the backend that handed them to its port, RX and echoes by the guest.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "uvif_perf_backend.hpp"
#include "uvif_perf_latency.hpp"
#include "uvif_perf_options.hpp"
#include "uvif_perf_traffic.hpp"

namespace uvif::perf {

/// Both ends' counters at a moment.
struct Sample {
    std::int64_t time_ns = 0;
    GuestCounters guest;
    std::int64_t guest_cpu_ns = 0;
    std::optional<BackendCounters> backend;  ///< none: its control socket is out of reach
    std::int64_t backend_cpu_ns = -1;        ///< -1: not known
};

/// What happened between two samples. A figure that needs a backend's counters is missing unless both have them, and
/// from one daemon.
struct Figures {
    double start_s = 0, end_s = 0;  ///< since the traffic began
    double seconds = 0;
    std::uint64_t packets = 0, bytes = 0;
    std::uint64_t guest_packets = 0;  ///< sent (TX, echo) or received (RX) by the guest
    std::uint64_t lost = 0;           ///< echoes that never came
    std::uint64_t frontend_notifications = 0;
    double guest_cpu_percent = 0;
    struct BackendPart {
        std::uint64_t packets = 0, drops = 0, notifications = 0, hypercalls = 0, copied_bytes = 0;
        std::uint64_t port_system_calls = 0;
        std::optional<double> cpu_percent;
    };
    std::optional<BackendPart> backend;

    static Figures between(Mode mode, const Sample& begin, const Sample& from, const Sample& to);
    [[nodiscard]] double per_packet(std::uint64_t count) const noexcept;
    [[nodiscard]] double pps() const noexcept;
    [[nodiscard]] double bits_per_second() const noexcept;
};

/// What the figures were measured with.
struct Setup {
    std::string hypervisor;
    std::string strategy;  ///< empty: not known
    std::string unmap;     ///< likewise
    std::string choice;    ///< of the strategy `auto`, with its reason
    unsigned queues = 0;   ///< that the backend agreed to
    unsigned device = 0;
    std::vector<int> guest_cores, backend_cores;  ///< empty: not pinned
    std::vector<std::string> notes;
};

/// Prints lines as they come, or gathers everything for one JSON object at the end.
class Report {
public:
    Report(const Options& options, Setup setup);
    void interval(const Figures& figures, bool omitted);
    /// What the reader of the figures has to know, one sentence.
    void note(const std::string& text);
    /// `error`: why the run ended early, or empty.
    void finish(const Figures& figures, const LatencyHistogram& latencies, const std::string& error);

private:
    [[nodiscard]] nlohmann::json start_json() const;
    void print_header() const;
    void print_summary(const Figures& figures, const LatencyHistogram& latencies) const;

    const Options& options_;
    Setup setup_;
    nlohmann::json intervals_ = nlohmann::json::array();
};

}  // namespace uvif::perf
