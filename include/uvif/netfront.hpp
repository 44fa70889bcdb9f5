// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "uvif/error.hpp"
#include "uvif/offload.hpp"

/// The guest's end of a Xen virtual network interface, for applications.
/// TX is guest to backend, RX is backend to guest, here as everywhere.
namespace uvif::netfront {

/// Most data slots of one packet: XEN_NETIF_NR_SLOTS_MIN, and one more that Linux accepts for a short first one.
inline constexpr std::size_t max_fragments = 19;
inline constexpr std::size_t buffer_size = 4096;
inline constexpr std::size_t max_packet_length = 65535;

struct Config {
    /// "real", "emulated:SOCKET", or empty for UVIF_HYPERVISOR and then real Xen.
    std::string hypervisor;
    /// Device id (the 0 of device/vif/0); none: the first one found that no driver holds.
    std::optional<unsigned> device;
    unsigned queues = 1;  ///< wanted; the backend's multi-queue-max-queues may make it fewer
    bool split_event_channels = true;
    bool scatter_gather = true;    ///< offer feature-sg: packets above one page towards us
    bool segmentation = true;      ///< offer feature-gso-tcpv4/6 (needs scatter_gather)
    bool checksum_offload = true;  ///< offer blank checksums towards us
    /// Granted pages a queue. gntalloc allows a domain 1024 pages by default: these defaults fit two
    /// queues (2 rings + 480 buffers each) below it.
    unsigned tx_buffers = 224;
    unsigned rx_buffers = 256;  ///< at most 256, the ring
    /// How long connect() waits for the backend, in milliseconds.
    unsigned connect_timeout_ms = 20000;
};

/// A piece of a packet inside one of the queue's granted pages.
struct Fragment {
    std::byte* data;       ///< anywhere inside the buffer
    std::uint32_t length;  ///< data + length stays inside the buffer
    std::uint32_t buffer;  ///< which buffer
};

/// A packet to send, or one received.
struct alignas(64) Packet {
    std::uint32_t length = 0;  ///< octets, the sum of the fragments; filled by receive(), ignored by send()
    std::uint16_t fragment_count = 0;
    Offload offload;
    std::array<Fragment, max_fragments> fragments;
};

struct QueueStatistics {
    std::uint64_t tx_packets = 0, tx_bytes = 0, tx_slots = 0;
    std::uint64_t tx_errors = 0;  ///< packets that the backend answered with an error
    std::uint64_t rx_packets = 0, rx_bytes = 0, rx_slots = 0;
    std::uint64_t rx_errors = 0;      ///< packets given up for an error status in one of their slots
    std::uint64_t notifications = 0;  ///< events sent to the backend
    std::uint64_t events = 0;         ///< events received
};

enum class LinkState : std::uint8_t {
    connecting,  ///< waiting for the backend, at first or after it went away
    up,
    down,    ///< connected, but the backend's `carrier` is 0
    closed,  ///< the device is gone, or the backend will not come back: destroy this Device
    broken,  ///< the backend broke the protocol: nothing moves any more; see Device::failure()
};

/// One queue pair. Thread rule: one thread a queue; different queues may have different threads.
/// While the device reconnects (see Device::process) no queue may be used.
class Queue {
public:
    Queue(const Queue&) = delete;
    Queue& operator=(const Queue&) = delete;

    /// Takes free TX buffers for packets to come: returns how many (fewer when the backend still holds
    /// the others). Each fragment describes a whole buffer. Reaps answers of the backend first.
    std::size_t allocate(std::span<Fragment> buffers) noexcept;
    /// Gives buffers back that were allocated and not sent.
    void free(std::span<const Fragment> buffers) noexcept;

    /// Puts packets on the ring, in order, and tells the backend at most once. Returns how many went: the
    /// buffers of these belong to the backend until it answers. A packet that cannot be sent at all (no fragment,
    /// a fragment outside its buffer, longer than 65535, several fragments without the backend's feature-sg, GSO
    /// that the backend did not offer, first fragment below 14 octets) ends the run: see errno-style `error`.
    std::size_t send(std::span<const Packet> packets, int* error = nullptr) noexcept;

    /// Takes packets that have arrived, in order; their memory is the granted pages themselves, yours until
    /// release(). The backend can still write to them: copy before you judge.
    std::size_t receive(std::span<Packet> packets) noexcept;
    /// Gives received buffers back to the ring, and tells the backend when it asked for it.
    void release(std::span<const Packet> packets) noexcept;

    /// Readable when the backend sent an event. Edge of sleep: call arm(), and poll only when it returns true.
    [[nodiscard]] int fd() const noexcept;
    /// Asks for events: for received packets, and for TX answers when `tx_too`. False: something came meanwhile,
    /// go on working instead.
    bool arm(bool tx_too) noexcept;

    [[nodiscard]] unsigned tx_in_flight() const noexcept;  ///< slots not yet answered
    [[nodiscard]] QueueStatistics statistics() const noexcept;

    class Impl;
    explicit Queue(std::unique_ptr<Impl> impl) noexcept;
    ~Queue();

private:
    std::unique_ptr<Impl> impl_;
};

/// A connected vif.
/// Thread rule: connect, process and destroy from one thread, with no queue in use meanwhile.
class Device {
public:
    static Result<std::unique_ptr<Device>> connect(const Config& config);
    /// Closes as the protocol wants it (Closing, Closed, answered by the backend) within a second or so.
    ~Device();
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;

    [[nodiscard]] unsigned id() const noexcept;
    [[nodiscard]] std::array<std::uint8_t, 6> mac() const noexcept;
    [[nodiscard]] unsigned mtu() const noexcept;

    [[nodiscard]] bool can_scatter_gather() const noexcept;       ///< the backend takes several slots a packet
    [[nodiscard]] bool can_segment(GsoType type) const noexcept;  ///< the backend takes GSO packets of this type
    [[nodiscard]] bool can_leave_checksum_blank(bool ipv6) const noexcept;

    [[nodiscard]] unsigned queue_count() const noexcept;
    [[nodiscard]] Queue& queue(unsigned index) noexcept;

    /// Readable when xenstore has news: then call process(), which never blocks for long. After a backend restart it
    /// builds new rings, so queue_count() and every queue's fd() may differ: look again when it returns a new state.
    [[nodiscard]] int fd() const noexcept;
    LinkState process();
    [[nodiscard]] LinkState state() const noexcept;
    [[nodiscard]] std::string failure() const;  ///< why the state is `broken` or `closed`, one sentence

    class Impl;
    explicit Device(std::unique_ptr<Impl> impl) noexcept;

private:
    std::unique_ptr<Impl> impl_;
};

}  // namespace uvif::netfront
