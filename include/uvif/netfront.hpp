// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "uvif/error.hpp"
#include "uvif/export.hpp"
#include "uvif/offload.hpp"

/// The guest's end of a Xen virtual network interface, for applications.
/// TX is guest to backend, RX is backend to guest, here as everywhere.
namespace uvif::netfront {

/// Most data slots of one packet: XEN_NETIF_NR_SLOTS_MIN, and one more that Linux accepts for a short first one.
inline constexpr std::size_t max_fragments = 19;
/// Most fragments of a packet to send: XEN_NETIF_NR_SLOTS_MIN, which every backend with feature-sg takes.
inline constexpr std::size_t max_tx_fragments = 18;
inline constexpr std::size_t buffer_size = 4096;
inline constexpr std::size_t header_size = 256;  ///< of a slot of the header area, see Queue::allocate_headers()
inline constexpr std::size_t max_packet_length = 65535;

inline constexpr std::size_t max_hash_key = 40;       ///< octets: all that has influence
inline constexpr std::size_t max_hash_mapping = 128;  ///< entries: what backends take (netif.h leaves it to them)

/// How the backend is to choose the queue of a packet that it sends us: by a Toeplitz hash of the packet's addresses
/// and ports (xen/io/netif.h, "Control messages"), as receive-side scaling (RSS) of network cards does.
struct Hashing {
    std::uint32_t types = 0;            ///< a sum of HashTypes, of which the most particular that fits is used; 0: none
    std::span<const std::uint8_t> key;  ///< up to max_hash_key octets; those that lack are 0
    /// The queue for each hash modulo the length, up to max_hash_mapping; empty: the hash modulo the number of queues.
    std::span<const std::uint32_t> mapping;
};

struct Config {
    /// "real", "emulated:SOCKET", or empty for UVIF_HYPERVISOR and then real Xen.
    std::string hypervisor;
    /// Device id (the 0 of device/vif/0); none: the first one found that nobody holds.
    std::optional<unsigned> device;
    unsigned queues = 1;  ///< wanted; the backend's multi-queue-max-queues may make it fewer
    bool split_event_channels = true;
    bool scatter_gather = true;    ///< offer feature-sg: packets above one page towards us
    bool segmentation = true;      ///< offer feature-gso-tcpv4/6 (needs scatter_gather)
    bool checksum_offload = true;  ///< offer blank checksums towards us
    /// From the first packet on have a backend that can (feature-multicast-control) pass on only what is for multicast
    /// groups that were joined; see Device::filter_multicast().
    bool filter_multicast = false;
    /// Have a backend that can (feature-ctrl-ring, "static grants" of netif.h) keep all buffers mapped, so that it
    /// needs no call of the hypervisor's for a packet.
    bool static_grants = true;
    /// Where there are no static grants, promise a backend that asks for it (feature-persistent) that buffers are used
    /// again and stay granted, so that it may keep those mapped that it has seen. They are, and do, in any case.
    bool persistent_grants = true;
    /// Granted pages a queue. gntalloc allows a domain 1024 pages by default: these defaults fit two
    /// queues (2 rings + 480 buffers each) below it, and the largest header area (16 pages) besides.
    unsigned tx_buffers = 224;  ///< 18 to 256
    unsigned rx_buffers = 256;  ///< 19 to 256, the ring
    /// Slots of a queue's header area, 16 to a page: 0 to 256, the ring. See Queue::allocate_headers().
    unsigned tx_headers = 0;
    /// How long connect() waits for the backend, in milliseconds.
    unsigned connect_timeout_ms = 20000;
    /// A descriptor that ends that wait early when it becomes readable, as a signalfd does; -1: none.
    int cancel_fd = -1;
};

/// A piece of a packet inside one of the queue's granted pages.
struct Fragment {
    std::byte* data;       ///< anywhere inside the buffer
    std::uint32_t length;  ///< octets; data + length stays inside the buffer
    std::uint32_t buffer;  ///< which buffer, or header slot
};

/// A packet to send, or one received. For a packet of up to three fragments only the first cache line is touched.
struct alignas(64) Packet {
    std::uint32_t length = 0;  ///< octets, the sum of the fragments; filled by receive(), ignored by send()
    std::uint16_t fragment_count = 0;
    Offload offload;
    std::uint8_t hash_type = 0;  ///< of a packet received: one of HashTypes; 0: it came without a hash
    std::array<Fragment, max_fragments> fragments;
    std::uint32_t hash = 0;  ///< where there is a type: Device::steer_by_hash()
};

struct QueueStatistics {
    std::uint64_t tx_packets = 0, tx_bytes = 0, tx_slots = 0;
    std::uint64_t tx_errors = 0;  ///< packets that the backend answered with an error
    std::uint64_t rx_packets = 0, rx_bytes = 0, rx_slots = 0;
    std::uint64_t rx_errors = 0;       ///< packets given up: an error status, or lengths or GSO that cannot be
    std::uint64_t notifications = 0;   ///< events sent to the backend
    std::uint64_t events = 0;          ///< events received
    std::uint64_t groups_refused = 0;  ///< multicast groups that the backend did not let us join: it has no room
};

enum class LinkState : std::uint8_t {
    connecting,  ///< waiting for the backend, at first or after it went away
    up,
    down,    ///< connected, but the backend's `carrier` is 0; go on receiving: who does not, may be the cause
    closed,  ///< the device is gone, or the backend will not come back: destroy this Device
    broken,  ///< the backend broke the protocol: nothing moves any more; see Device::failure()
};

/// One queue pair. Thread rule: one thread a queue; different queues may have different threads.
/// See Device::process() for when queues end. Calls to a queue whose device is no longer connected, or is
/// broken, move nothing. No call allocates memory, blocks or throws.
class UVIF_EXPORT Queue {
public:
    Queue(const Queue&) = delete;
    Queue& operator=(const Queue&) = delete;

    /// Takes free TX buffers for packets to come: returns how many (fewer when the backend still holds the
    /// others). Reaps answers of the backend first. Each fragment describes the room in one buffer: from `data`
    /// to the end of the page, which is at least 2048 octets, since buffers begin at different multiples of 64 so that
    /// headers do not compete for the same sets of the cache. With `whole_pages` it is all 4096 octets, so
    /// that a packet of 65535 fits 16 buffers. `data` and `length` may be narrowed at will before send().
    /// A buffer holds zeros at first, and later what was last written to it here: never memory of anything else.
    /// The backend can read all of it.
    std::size_t allocate(std::span<Fragment> buffers, bool whole_pages = false) noexcept;
    /// Takes free slots of the header area, of header_size octets each, as allocate() takes buffers: returns how many;
    /// none without Config::tx_headers. A slot can only be the first fragment of a packet: its headers, with the
    /// payload in buffers behind it, or a packet that is short enough. So headers lie close together, and a backend
    /// with static grants that only passes packets on reads these and no payload, if all headers of a packet are here.
    /// Worth it for packets of several buffers, and for those that a slot holds whole: one that fits a buffer takes two
    /// slots of the ring instead of one.
    std::size_t allocate_headers(std::span<Fragment> slots) noexcept;
    /// Gives buffers and header slots back that were allocated and not sent.
    void free(std::span<const Fragment> buffers) noexcept;

    /// Puts packets on the ring, in order, and tells the backend at most once. Returns how many went: the
    /// buffers of these belong to the backend until it answers. `error` becomes 0, also when the ring is full (go
    /// on after answers have come), or says why the next packet can never be sent; its buffers stay yours:
    ///   EINVAL      no fragment, an empty one, one outside its buffer or not allocated, a first one below 14
    ///               octets, a header slot behind the first place, or an offload that contradicts itself
    ///   EMSGSIZE    more than 65535 octets, or more than max_tx_fragments
    ///   EOPNOTSUPP  several fragments, GSO or a blank checksum that the backend did not offer to take
    ///   ENOTCONN    the device is not connected any more, or broken
    /// Whether a blank checksum is allowed for the packet's version of IP is the caller's to know, see
    /// Device::can_leave_checksum_blank().
    std::size_t send(std::span<const Packet> packets, int* error = nullptr) noexcept;

    /// Asks the backend for frames to a multicast group (its MAC address), or for no more of them, on behalf of the
    /// whole device; Device::filter_multicast() says when that matters. Takes two slots of the ring and tells the
    /// backend. Returns 0, or an errno value: EINVAL (no group's address), EOPNOTSUPP (the backend does not filter),
    /// EAGAIN (the ring is full), ENOTCONN. Whether it had room for one more (Linux and uvif have 64 a device) comes
    /// later, in QueueStatistics::groups_refused. Joined twice it is to be left twice.
    int join(const std::array<std::uint8_t, 6>& group) noexcept;
    int leave(const std::array<std::uint8_t, 6>& group) noexcept;

    /// Takes packets that have arrived, in order; their memory is the granted pages themselves, yours until
    /// release(). The backend can still write to them: copy before you judge. Fragments are never empty, a packet
    /// has 14 to 65535 octets and carries GSO only of the types offered to the backend.
    std::size_t receive(std::span<Packet> packets) noexcept;
    /// Gives received buffers back to the ring, in any order, and tells the backend when it asked for it.
    void release(std::span<const Packet> packets) noexcept;

    /// Readable when the backend sent an event; -1 when not connected. Edge of sleep: call arm(), and poll only when
    /// it returns true.
    [[nodiscard]] int fd() const noexcept;
    /// Takes the events that came, and asks for new ones: for received packets, and for TX answers when
    /// `tx_too`. False: something came meanwhile, go on working instead.
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
/// Thread rule: connect, process and destroy from one thread. Queues may work in other threads while process() runs
/// as long as it returns up, down or broken. Once it returned connecting or closed, stop using the queues
/// and their packets before it is called again: only the next call takes them away.
class UVIF_EXPORT Device {
public:
    /// Finds the device, and connects it. Blocks until the backend is connected, at most the configured time.
    /// Errors: EINVAL (configuration), ENODEV (no such device), EBUSY (a driver or another program holds it), ETIMEDOUT
    /// (the backend did not come), ECONNREFUSED (it closed instead of connecting), ECANCELED (by cancel_fd), EPROTO (a
    /// backend without feature-rx-copy, or one that broke the protocol), ENOSPC (gntalloc's page limit), and what
    /// opening the hypervisor's devices gave.
    static Result<std::unique_ptr<Device>> connect(const Config& config);
    /// Closes as the protocol wants it (Closing, Closed, answered by the backend) within a second or so.
    ~Device();
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;

    [[nodiscard]] unsigned id() const noexcept;
    [[nodiscard]] std::array<std::uint8_t, 6> mac() const noexcept;
    [[nodiscard]] unsigned mtu() const noexcept;  ///< octets, 1500 where the toolstack names none

    [[nodiscard]] bool can_scatter_gather() const noexcept;       ///< the backend takes several slots a packet
    [[nodiscard]] bool can_segment(GsoType type) const noexcept;  ///< the backend takes GSO packets of this type
    [[nodiscard]] bool can_leave_checksum_blank(bool ipv6) const noexcept;

    /// Granted pages that the backend keeps mapped, in all queues; 0 where it has no static grants, or no room for
    /// them.
    [[nodiscard]] unsigned static_buffers() const noexcept;

    /// The backend was promised that buffers stay granted, see Config::persistent_grants.
    [[nodiscard]] bool persistent_grants() const noexcept;

    /// The backend has a control ring, by which it may take what follows.
    [[nodiscard]] bool can_steer_by_hash() const noexcept;
    /// Has the backend hash what it sends us, tell the hash with each packet (Packet::hash), and put it on the queue
    /// that the mapping says; with `types` 0 it chooses freely again. Holds as long as the connection: after a backend
    /// restart it is to be set again. Waits for the backend, a second at most for each of six requests.
    /// Thread rule as of process(). Errors: EOPNOTSUPP (no control ring, or no hashes), EINVAL (a value out of its
    /// range), ENOTCONN, ETIMEDOUT (no answer: the connection goes on without), EPROTO.
    Result<void> steer_by_hash(const Hashing& hashing);

    /// The backend can keep multicast from us (feature-multicast-control).
    [[nodiscard]] bool can_filter_multicast() const noexcept;
    /// Has the backend pass on, of frames to multicast groups, only those to groups that were joined (Queue::join());
    /// or all again. Frames to one host and to all (broadcast) always come. It is a wish, heard soon: be ready for
    /// others. Groups hold, filtered or not, as long as the connection: after a backend restart they are to be joined
    /// again. IPv6 needs the solicited-node groups of its addresses.
    /// Thread rule as of process(). Errors: EOPNOTSUPP (also from a backend that has only Config::filter_multicast),
    /// ENOTCONN, and what the store says.
    Result<void> filter_multicast(bool on);

    [[nodiscard]] unsigned queue_count() const noexcept;
    [[nodiscard]] Queue& queue(unsigned index) noexcept;

    /// Readable when xenstore has news or a queue found the backend to be broken: then call process(), which never
    /// blocks for long. After a backend restart it builds new rings, so queue_count(), every queue and its fd(),
    /// and the features differ: look again when it returns `up` after `connecting`.
    [[nodiscard]] int fd() const noexcept;
    LinkState process();
    [[nodiscard]] LinkState state() const noexcept;
    [[nodiscard]] std::string failure() const;  ///< why the state is `broken` or `closed`, one sentence
    /// What the store said that could not be understood and was taken as absent, one sentence each.
    [[nodiscard]] std::vector<std::string> notes() const;

    class Impl;
    explicit Device(std::unique_ptr<Impl> impl) noexcept;

private:
    std::unique_ptr<Impl> impl_;
};

}  // namespace uvif::netfront
