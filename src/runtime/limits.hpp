// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

/// Every limit of the system, each with its reason. A guest, a peer or a file can exhaust only what
/// these numbers leave it.
namespace uvif::limits {

// Packets

/// Longest packet: the size field of netif.h is 16 bits wide (XEN_NETIF_MAX_TX_SIZE).
inline constexpr std::uint32_t packet_length = 65535;

/// Shortest packet: an Ethernet header. Linux netback refuses shorter ones as well.
inline constexpr std::uint32_t packet_length_min = 14;

/// First octets of a packet that are made contiguous before anything looks at them (XSA-423). They hold
/// Ethernet, two VLAN tags, IPv6 and a full TCP header: 22 + 40 + 60.
inline constexpr std::size_t header_octets = 128;

/// VLAN tags that the header parser steps over: 802.1ad allows two.
inline constexpr unsigned vlan_tags = 2;

/// IPv6 extension headers that the parser follows: RFC 8200 section 4.1 has a packet carry at most seven in
/// front of the upper layer. It bounds the work that 64 KiB of empty options could cost.
inline constexpr unsigned ipv6_extension_headers = 8;

// Ports

/// Packets that a port holds while its other side has no room: a whole ring, since a queue may have handed over
/// that many before it sees that the port is not writable.
inline constexpr std::size_t port_held_packets = 256;

/// TUNSETSNDBUF: octets that a guest may have on their way through the host's network stack. It is the only way
/// to feel a congested uplink behind a bridge; QEMU uses the same 1 MiB.
inline constexpr int tap_send_buffer = 1 << 20;

/// txqueuelen of a TAP. Its queue drops silently when it is full, the kernel's 1000 packets last 1 ms at line
/// rate.
inline constexpr int tap_queue_length = 2000;

/// How long a busy TAP is asked for again: the io_uring of a process that died holds its descriptors up to some 40 ms.
inline constexpr std::int64_t tap_busy_ns = 500'000'000;

/// Queues of a TAP: MAX_TAP_QUEUES of the kernel is 256; netif guests have at most as many as virtual CPUs.
inline constexpr unsigned tap_queues = 64;

/// Packets that the reflecting null port keeps: a ring. It drops beyond.
inline constexpr std::size_t reflected_packets = 256;

// Event loop

/// Entries of a loop's submission ring: a whole write batch, its cancellations, and polls to arm again.
inline constexpr unsigned loop_submissions = 256;

/// Entries of a loop's completion ring. More than these are kept by the kernel, at some cost.
inline constexpr unsigned loop_completions = 4096;

// Netback

/// MTU of an interface when its vif names none, the smallest that IPv4 works with (RFC 791), and the largest
/// there is: a packet is 16 bits long (netif.h).
inline constexpr std::uint32_t mtu_default = 1500;
inline constexpr std::uint32_t mtu_min = 68;
inline constexpr std::uint32_t mtu_max = 65535 - 18;

/// Queues that the daemon offers a guest at most. Linux offers one a CPU, and at most 8 unless told otherwise.
inline constexpr unsigned queues_per_vif = 64;

/// Worker threads of a daemon: more than any machine has CPUs to spare for one.
inline constexpr unsigned workers = 64;

/// Clients of the control socket at a time; the oldest makes room.
inline constexpr std::size_t control_connections = 16;

/// Octets of a request on the control socket. The longest there is has a command and a name.
inline constexpr std::size_t control_request = 4096;

/// Watch events that are read from the store before what they told of is looked at. The rest keeps.
inline constexpr unsigned watch_events_per_look = 4096;

// Log

/// Octets of a log line: a longer one is cut. journald would split it at 48 KiB.
inline constexpr std::size_t log_line = 1024;

/// Octets of a stranger's text that a log line or an error message repeats.
inline constexpr std::size_t printable_text = 64;

/// Log lines that one source (a vif, a peer) may cause at once, and how long it takes to earn another. Sixty lines
/// an hour do not fill a disk, and a person still sees what goes on.
inline constexpr unsigned log_burst = 10;
inline constexpr std::int64_t log_interval_ns = 60'000'000'000;

}  // namespace uvif::limits
