// SPDX-License-Identifier: MIT
//
// Theory of operation
//
// One thread a queue sends, receives or bounces packets in bursts of 32 until it is told to stop. A sender takes
// buffers from the queue's pool and writes the first line of each packet anew: headers and a number. A receiver reads
// the first line of each packet. Both wait for a whole burst as long as that is worth its time, since every
// publication costs both sides cache lines. When nothing moves a thread spins for some microseconds, then arms the
// queue's event and sleeps: an idle vif costs no CPU.
//
// The threads own their queues. What others may know of them, they publish: each counter has one writer.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "runtime/unique_fd.hpp"
#include "uvif/netfront.hpp"
#include "uvif_perf_latency.hpp"
#include "uvif_perf_options.hpp"

namespace uvif::perf {

/// What a guest has counted since it connected, all queues together.
struct GuestCounters {
    std::uint64_t tx_packets = 0, tx_bytes = 0, tx_errors = 0;
    std::uint64_t answered_packets = 0;  ///< sent, and not with the backend any more
    std::uint64_t rx_packets = 0, rx_bytes = 0;
    std::uint64_t notifications = 0;  ///< events sent
    std::uint64_t lost = 0;           ///< echoes that never came
};

class Traffic {
public:
    /// Starts a thread for every queue of `device`, which outlives this. Thread i is pinned to cpus[i], if there are
    /// as many as queues.
    static Result<std::unique_ptr<Traffic>> start(netfront::Device& device, const Options& options,
                                                  const std::vector<int>& cpus);
    ~Traffic();
    Traffic(const Traffic&) = delete;
    Traffic& operator=(const Traffic&) = delete;

    /// At any time.
    [[nodiscard]] GuestCounters counters() const noexcept;
    /// Ends the threads.
    void stop() noexcept;
    /// Forgets the latencies measured so far. At any time.
    void forget_latencies() noexcept;
    /// After stop(), round trips in nanoseconds.
    [[nodiscard]] LatencyHistogram latencies() const noexcept;

private:
    class Lane;
    Traffic();
    UniqueFd wake_;  ///< eventfd, readable from stop() on
    std::vector<std::unique_ptr<Lane>> lanes_;
    std::vector<std::jthread> threads_;
};

}  // namespace uvif::perf
