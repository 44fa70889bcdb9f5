// SPDX-License-Identifier: MIT
#include "uvif_perf_traffic.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <span>
#include <utility>

#include "runtime/clock.hpp"
#include "runtime/describe_error.hpp"

namespace uvif::perf {
namespace {

using netfront::Fragment;
using netfront::Packet;
using netfront::Queue;

constexpr std::size_t burst = 32;
constexpr std::size_t line = 64;
/// Echoes in flight: less than the 224 buffers of a queue, and enough to keep both sides busy.
constexpr std::size_t echo_window = 128;
/// An echo that has not come by then never will.
constexpr std::int64_t echo_patience_ns = 200 * ns_per_ms;
/// A packet of up to this many octets goes into one buffer at any offset.
constexpr std::uint32_t coloured_room = 2048;

/// First line of every packet: Ethernet with the type that IEEE 802 leaves to experiments, so that no host on the way
/// takes it for something to answer. Then a number.
struct Header {
    std::array<std::uint8_t, 6> destination{};
    std::array<std::uint8_t, 6> source{};
    std::array<std::uint8_t, 2> type{0x88, 0xb5};
    std::array<std::uint8_t, 2> padding{};
    std::uint64_t number = 0;
    std::array<std::uint8_t, line - 24> rest{};
};
static_assert(sizeof(Header) == line);

void relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

void pin_this_thread(int cpu) noexcept {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<unsigned>(cpu), &set);
    pthread_setaffinity_np(pthread_self(), sizeof set, &set);  // a wish: the start record says where we run
}

/// Pieces taken for packets to come, as many for each.
class Stash {
public:
    explicit Stash(std::size_t per_packet) noexcept : per_packet_(per_packet) {}

    [[nodiscard]] std::size_t per_packet() const noexcept { return per_packet_; }
    /// Has `allocate` fill it until there is enough for so many packets; returns for how many there is.
    template <class Allocate>
    std::size_t fill(std::size_t packets, Allocate allocate) noexcept {
        if (per_packet_ == 0) {
            return packets;
        }
        const std::size_t wanted = packets * per_packet_;
        if (count_ < wanted) {
            count_ += allocate(std::span(pieces_).subspan(count_, wanted - count_));
        }
        return count_ / per_packet_;
    }
    /// Those of packet `i` of the last `packets`.
    [[nodiscard]] std::span<const Fragment> of(std::size_t i, std::size_t packets) const noexcept {
        return std::span(pieces_).subspan(count_ - (packets - i) * per_packet_, per_packet_);
    }
    /// Of the last `packets` the first `sent` went. The others keep their place at the end.
    void remove(std::size_t sent, std::size_t packets) noexcept {
        const auto gap = pieces_.begin() + static_cast<std::ptrdiff_t>(count_ - packets * per_packet_);
        std::copy(gap + static_cast<std::ptrdiff_t>(sent * per_packet_),
                  pieces_.begin() + static_cast<std::ptrdiff_t>(count_), gap);
        count_ -= sent * per_packet_;
    }
    void give_back(Queue& queue) noexcept { queue.free(std::span(pieces_).first(std::exchange(count_, 0))); }

private:
    std::size_t per_packet_;
    std::size_t count_ = 0;
    std::array<Fragment, burst * netfront::max_tx_fragments> pieces_;
};

std::size_t buffers_for(std::uint32_t octets) noexcept {
    return octets <= coloured_room ? (octets == 0 ? 0 : 1)
                                   : (octets + netfront::buffer_size - 1) / netfront::buffer_size;
}

}  // namespace

/// One queue and what its thread does with it.
class alignas(64) Traffic::Lane {
public:
    Lane(Queue& queue, const Options& options, const std::array<std::uint8_t, 6>& mac, unsigned tx_buffers, int wake)
        : queue_(queue),
          mode_(options.mode),
          latency_(options.latency),
          size_(options.size),
          in_header_(options.header_area ? std::min(options.size, header_octets) : 0),
          headers_(options.header_area ? 1 : 0),
          buffers_(buffers_for(size_ - in_header_)),
          slots_(headers_.per_packet() + buffers_.per_packet()),
          burst_(std::clamp<std::size_t>(tx_buffers / slots_ / 2, 1, burst)),
          window_(options.latency ? 1 : std::min(echo_window, tx_buffers / slots_)),
          spin_ns_(options.spin_us * ns_per_us),
          wake_(wake) {
        header_.destination = options.to;
        header_.source = mac;
    }

    void run() noexcept {
        while (!stopping_.load(std::memory_order_relaxed)) {
            const bool worked = mode_ == Mode::tx ? send() : mode_ == Mode::rx ? receive() != 0 : bounce();
            if (worked) {
                publish();
                idle_since_ns_ = 0;
                empty_turns_ = 0;
            } else {
                idle();
            }
        }
        headers_.give_back(queue_);
        buffers_.give_back(queue_);
        publish();
    }
    void stop() noexcept { stopping_.store(true, std::memory_order_relaxed); }

    void add_to(GuestCounters& sum) const noexcept {
        const auto get = [this](Count which) { return published_[which].load(std::memory_order_relaxed); };
        sum.tx_packets += get(tx_packets);
        sum.tx_bytes += get(tx_bytes);
        sum.tx_errors += get(tx_errors);
        sum.answered_packets += get(answered_packets);
        sum.rx_packets += get(rx_packets);
        sum.rx_bytes += get(rx_bytes);
        sum.notifications += get(notifications);
        sum.lost += get(lost);
    }
    void forget_latencies() noexcept { forget_.store(true, std::memory_order_relaxed); }
    [[nodiscard]] const LatencyHistogram& latencies() const noexcept { return latencies_; }

private:
    enum Count : std::uint8_t {
        tx_packets,
        tx_bytes,
        tx_errors,
        answered_packets,
        rx_packets,
        rx_bytes,
        notifications,
        lost,
        count_of_counts
    };

    void publish() noexcept {
        const netfront::QueueStatistics now = queue_.statistics();
        const auto set = [this](Count which, std::uint64_t value) {
            published_[which].store(value, std::memory_order_relaxed);
        };
        set(tx_packets, now.tx_packets);
        set(tx_bytes, now.tx_bytes);
        set(tx_errors, now.tx_errors);
        set(answered_packets, now.tx_packets - queue_.tx_in_flight() / slots_);
        set(rx_packets, now.rx_packets);
        set(rx_bytes, now.rx_bytes);
        set(notifications, now.notifications);
        set(lost, lost_);
    }

    /// Takes pieces until there are enough for `wanted` packets; returns for how many there are.
    std::size_t gather(std::size_t wanted) noexcept {
        const bool whole_pages = size_ - in_header_ > coloured_room;
        const std::size_t headers = headers_.fill(wanted, [this](auto room) { return queue_.allocate_headers(room); });
        return std::min(headers, buffers_.fill(wanted, [this, whole_pages](auto room) {
            return queue_.allocate(room, whole_pages);
        }));
    }

    /// Writes and sends packets from what was gathered; returns how many went.
    std::size_t emit(std::size_t count) noexcept {
        for (std::size_t i = 0; i < count; ++i) {
            Packet& packet = out_[i];
            packet.fragment_count = static_cast<std::uint16_t>(slots_);
            std::size_t f = 0;
            for (const Fragment& header : headers_.of(i, count)) {
                packet.fragments[f] = header;
                packet.fragments[f++].length = in_header_;
            }
            std::uint32_t left = size_ - in_header_;
            for (const Fragment& buffer : buffers_.of(i, count)) {
                packet.fragments[f] = buffer;
                packet.fragments[f].length = std::min<std::uint32_t>(left, netfront::buffer_size);
                left -= packet.fragments[f++].length;
            }
            header_.number = next_number_ + i;
            std::memcpy(packet.fragments[0].data, &header_, std::min<std::size_t>(size_, line));
        }
        const std::size_t sent = queue_.send(std::span<const Packet>(out_.data(), count));
        next_number_ += sent;
        headers_.remove(sent, count);
        buffers_.remove(sent, count);
        return sent;
    }

    bool send() noexcept { return gather(burst_) == burst_ && emit(burst_) != 0; }

    /// Takes, looks at and releases what has come; returns how much.
    std::size_t receive() noexcept {
        const std::size_t count = queue_.receive(in_);
        const std::span<const Packet> packets(in_.data(), count);
        for (const Packet& packet : packets) {
            inspect(packet);
        }
        if (count != 0) {
            queue_.release(packets);
        }
        return count;
    }

    void inspect(const Packet& packet) noexcept {
        const std::size_t octets = std::min<std::size_t>(packet.fragments[0].length, line);
        for (std::size_t i = 0; i + sizeof(std::uint64_t) <= octets; i += sizeof(std::uint64_t)) {
            std::uint64_t word = 0;
            std::memcpy(&word, packet.fragments[0].data + i, sizeof word);
            inspected_ += word;
        }
        if (octets >= offsetof(Header, number) + sizeof last_number_) {
            std::memcpy(&last_number_, packet.fragments[0].data + offsetof(Header, number), sizeof last_number_);
        }
    }

    /// A closed loop: as many packets are under way as the window allows.
    bool bounce() noexcept {
        const std::size_t came = receive();
        bool worked = came != 0;
        outstanding_ -= std::min(came, outstanding_);
        if (latency_ && came != 0 && last_number_ == next_number_ - 1) {
            note_latency();  // not of one that had been given up
        }
        const std::size_t room = std::min(window_ - outstanding_, burst_);
        const bool wanted = room >= std::min(burst_, window_);
        starved_ = wanted && gather(room) < room;
        if (wanted && !starved_) {
            if (latency_) {
                sent_ns_ = monotonic_ns();
            }
            const std::size_t sent = emit(room);
            outstanding_ += sent;
            worked |= sent != 0;
        }
        if (worked) {
            moved_ns_ = 0;
        }
        return worked;
    }

    void note_latency() noexcept {
        if (forget_.exchange(false, std::memory_order_relaxed)) {
            latencies_.clear();
        }
        latencies_.add(static_cast<std::uint64_t>(monotonic_ns() - sent_ns_));
    }

    /// Nothing to do: spins, or sleeps until the backend sends an event.
    void idle() noexcept {
        relax();
        if (spin_ns_ != 0 && ++empty_turns_ % 16 != 0) {
            return;
        }
        const std::int64_t now = monotonic_ns();
        give_up_lost(now);
        idle_since_ns_ = idle_since_ns_ == 0 ? now : idle_since_ns_;
        if (now - idle_since_ns_ < spin_ns_) {
            return;
        }
        if (mode_ == Mode::tx) {
            receive();  // others may send to us: nobody reads it, and it would keep us awake
        }
        const bool asleep = queue_.arm(mode_ == Mode::tx || starved_);
        publish();
        if (asleep) {
            std::array<pollfd, 2> fds{{{queue_.fd(), POLLIN, 0}, {wake_, POLLIN, 0}}};
            ::poll(fds.data(), fds.size(), outstanding_ == 0 ? -1 : static_cast<int>(echo_patience_ns / ns_per_ms));
        }
        idle_since_ns_ = 0;
    }

    /// Packets may be dropped on the way, and a closed loop that waits for them would stand still.
    void give_up_lost(std::int64_t now) noexcept {
        if (outstanding_ == 0) {
            return;
        }
        moved_ns_ = moved_ns_ == 0 ? now : moved_ns_;
        if (now - moved_ns_ > echo_patience_ns) {
            lost_ += std::exchange(outstanding_, 0);
            moved_ns_ = 0;
        }
    }

    Queue& queue_;
    const Mode mode_;
    const bool latency_;
    const std::uint32_t size_;
    const std::uint32_t in_header_;  ///< of a packet's octets, those in the header area
    Stash headers_;
    Stash buffers_;
    const std::size_t slots_;  ///< of a packet
    const std::size_t burst_;
    const std::size_t window_;
    const std::int64_t spin_ns_;
    const int wake_;
    Header header_;

    std::array<Packet, burst> in_;
    std::array<Packet, burst> out_;
    std::uint64_t next_number_ = 0;
    std::uint64_t last_number_ = 0;  ///< of the packet received last
    std::uint64_t inspected_ = 0;
    std::uint64_t lost_ = 0;
    std::size_t outstanding_ = 0;  ///< echoes under way
    bool starved_ = false;         ///< more could be, if the backend answered what it has
    std::int64_t sent_ns_ = 0;
    std::int64_t moved_ns_ = 0;  ///< when the loop was first seen to stand still; 0: it moves
    std::int64_t idle_since_ns_ = 0;
    std::uint32_t empty_turns_ = 0;
    LatencyHistogram latencies_;

    alignas(64) std::array<std::atomic<std::uint64_t>, count_of_counts> published_{};
    alignas(64) std::atomic<bool> stopping_ = false;
    std::atomic<bool> forget_ = false;
};

Traffic::Traffic() = default;

Traffic::~Traffic() {
    stop();
}

Result<std::unique_ptr<Traffic>> Traffic::start(netfront::Device& device, const Options& options,
                                                const std::vector<int>& cpus) {
    std::unique_ptr<Traffic> traffic(new Traffic);
    traffic->wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!traffic->wake_) {
        return fail(errno, fmt::format("cannot make an eventfd: {}", describe_error(errno)));
    }
    for (unsigned i = 0; i < device.queue_count(); ++i) {
        traffic->lanes_.push_back(std::make_unique<Lane>(device.queue(i), options, device.mac(),
                                                         netfront::Config{}.tx_buffers, traffic->wake_.get()));
    }
    const bool pinned = cpus.size() >= traffic->lanes_.size();
    for (std::size_t i = 0; i < traffic->lanes_.size(); ++i) {
        traffic->threads_.emplace_back([lane = traffic->lanes_[i].get(), cpu = pinned ? cpus[i] : -1] {
            if (cpu >= 0) {
                pin_this_thread(cpu);
            }
            lane->run();
        });
    }
    return traffic;
}

GuestCounters Traffic::counters() const noexcept {
    GuestCounters sum;
    for (const auto& lane : lanes_) {
        lane->add_to(sum);
    }
    return sum;
}

void Traffic::stop() noexcept {
    for (const auto& lane : lanes_) {
        lane->stop();
    }
    eventfd_write(wake_.get(), 1);
    threads_.clear();
}

void Traffic::forget_latencies() noexcept {
    for (const auto& lane : lanes_) {
        lane->forget_latencies();
    }
}

LatencyHistogram Traffic::latencies() const noexcept {
    LatencyHistogram sum;
    for (const auto& lane : lanes_) {
        sum += lane->latencies();
    }
    return sum;
}

}  // namespace uvif::perf
