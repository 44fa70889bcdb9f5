// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

/// What a guest, a backend, a client or the store may have us hold or do, each with its reason. Not here, but where
/// they are used: what a protocol or a file format dictates, the sizes of batches and rings, and the emulation's own
/// sizes.
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

/// Segments that a GSO packet may be cut into by us: a guest chooses their size, and each costs a copy of the headers
/// and a datagram. 64 KiB of the smallest that real TCPs send (64 octets and more).
inline constexpr std::uint32_t segments_per_packet = 1024;

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

/// Buffers of a queue that are granted to ourselves where the domain has pages for that: 588 pages in all. The reads
/// ahead keep sixteen, and a turn that moves long packets has few of them.
inline constexpr std::size_t self_granted_rx_buffers = 24;
inline constexpr std::size_t self_granted_tx_buffers = 12;

/// Packets that the reflecting null port keeps: a ring. It drops beyond.
inline constexpr std::size_t reflected_packets = 256;

// Switch

/// Vifs of one switch. A host has rarely a hundred.
inline constexpr std::size_t switch_members = 4096;

/// Places of a switch's table: twice as many as members, so that few addresses have to look for a place.
inline constexpr std::size_t switch_addresses = 2 * switch_members;

/// Addresses that a guest may have us learn besides its own: what it bridges to, containers or guests of its own.
inline constexpr std::uint32_t switch_learned = 64;

/// How often a learned address may be found silent before it is forgotten: with a look every 5 s that is 300 s, the
/// ageing time of IEEE 802.1D.
inline constexpr std::uint8_t switch_ages = 60;

/// How long packets may hold the pages of the guest that sent them while the one that is to have them takes less than a
/// ring: then they are copied, and the pages go back. So a guest that is slow costs its neighbours' queues no more than
/// the time of a ring in so long.
inline constexpr std::int64_t hold_ns = 10'000'000;

// Guests that do not take their packets; as Linux netback

/// How long a packet waits for its guest to post room: by then whoever sent it has given it up
/// (rx_drain_timeout_msecs).
inline constexpr std::int64_t rx_expiry_ns = 10'000'000'000;

/// The same where the guest has no feature-rx-notify and so need not tell of the room that it makes.
inline constexpr std::int64_t rx_unannounced_ns = 30'000'000;

/// How long a guest may have posted less than its next packet needs before its interface has no carrier, so that what
/// is for it is dropped earlier and bonds and routing find another way (rx_stall_timeout_msecs). A guest that is
/// paused, or migrated, is away for shorter.
inline constexpr std::int64_t rx_stall_ns = 60'000'000'000;

// The VXLAN port

/// Remote tunnel endpoints that what has no known one goes to: each gets a copy.
inline constexpr std::size_t vxlan_remotes = 64;

/// Entries fdb=MAC@ADDRESS: all stand on one command line.
inline constexpr std::size_t vxlan_static_entries = 256;

/// Addresses that are learned from what comes: anybody on the underlay can make us learn. A full table forgets who was
/// silent longest; what has no entry is sent to all remotes.
inline constexpr std::size_t vxlan_learned_entries = 4096;

/// Seconds without a packet after which a learned address is forgotten: as Linux bridges and vxlan devices.
inline constexpr std::uint32_t vxlan_age_s = 300;

/// SO_SNDBUF of a queue: as tap_send_buffer.
inline constexpr int vxlan_send_buffer = tap_send_buffer;

/// SO_RCVBUF: what comes while the guest's worker has other work; 4 MiB are some 3 ms at 10 Gbit/s.
inline constexpr int vxlan_receive_buffer = 4 << 20;

/// Octets after which a turn asks the socket for no more: as a queue takes of its guest. With what one call brings they
/// are 768 KiB at most; a full socket had the other queues of the worker wait until 4 MiB were copied.
inline constexpr std::size_t vxlan_received_octets_per_turn = std::size_t{256} * 1024;

/// Datagrams that a queue sends in one turn, copies to several remotes included: a few milliseconds at worst, after
/// which other queues of the worker have theirs. 64 whole GSO packets of an MTU of 1450 to one endpoint stay below it.
inline constexpr std::uint32_t vxlan_datagrams_per_turn = 4096;

/// Octets of a buffer that datagrams are staged in: room for the largest packet as its smallest segments, each behind
/// headers of its own (segments_per_packet).
inline constexpr std::size_t vxlan_buffer_octets = std::size_t{256} * 1024;

/// Such buffers of a queue: as many but one may be lent to the kernel. 2 MiB of address space, of which what is used
/// becomes memory.
inline constexpr std::size_t vxlan_buffers = 8;

/// Messages of up to 64 KiB that one destination may have been sent, and not taken: it then holds half of the buffers.
/// At 10 Gbit/s they last 200 us, longer than a network card needs to say that it is done.
inline constexpr std::uint32_t vxlan_lent_messages = 4;

/// Seconds in which a destination is sent copies, after the kernel did not send from our buffers.
inline constexpr std::uint32_t vxlan_lent_pause_s = 10;

/// How long after the daemon's start a UDP port that is in use is asked for again: as tap_busy_ns.
inline constexpr std::int64_t vxlan_busy_ns = tap_busy_ns;

// Event loop

/// Entries of a loop's submission ring: a whole write batch, its cancellations, and polls to arm again.
inline constexpr unsigned loop_submissions = 256;

/// Entries of a loop's completion ring. More than these are kept by the kernel, at some cost.
inline constexpr unsigned loop_completions = 4096;

// Both ends of a vif

/// MTU of an interface when its vif names none, the smallest that IPv4 works with (RFC 791), and the largest
/// there is: a packet is 16 bits long (netif.h), an Ethernet header and a VLAN tag included.
inline constexpr std::uint32_t mtu_default = 1500;
inline constexpr std::uint32_t mtu_min = 68;
inline constexpr std::uint32_t mtu_max = 65535 - 18;

// Guest pages

/// Pages of one map call: one bad reference fails them all, and one slow packet holds them all.
inline constexpr std::size_t region_pages = 64;

/// Regions of a queue that are mapped at a time: a whole ring, since a region holds at least one ring slot.
inline constexpr std::size_t regions_per_queue = 256;

/// Slots of a queue whose pages the kernel may send from at a time: a quarter of the ring. A neighbour that does not
/// answer ARP keeps them for 3 s, and nobody can call them back; the guest goes on with the rest.
inline constexpr std::uint32_t pinned_slots_per_queue = 64;

/// Slots that the queues of a vif may leave unanswered from turn to turn because of their pages: above, all is copied.
/// 64 vifs at that limit are what one gntdev handle maps (65536 pages).
inline constexpr std::int32_t held_slots_per_vif = 1024;

/// How long a vif that goes waits for the kernel to be done with its guest's pages: a neighbour that does not answer
/// ARP is given up after 3 s.
inline constexpr std::int64_t drain_ns = 5'000'000'000;

// Netback

/// Pages that stay mapped for a queue, static grants, and persistent ones as many again: twice what the rings hold, for
/// buffers that wait.
inline constexpr std::size_t static_grants_per_queue = 1024;
/// And of a vif, of both kinds: the buffers of sixteen queues.
inline constexpr std::size_t static_grants_per_vif = 8192;
/// And of all guests: each is a memory area, of which Linux gives a process 65530 (vm.max_map_count); half is left for
/// all else.
inline constexpr std::size_t static_grants = 32768;
/// References that can be static: those of 1024 frames of grant table, where guests have 64 unless told otherwise.
inline constexpr std::uint32_t static_grant_refs = 1024 * 512;

/// Persistent grants that a queue maps between two turns: a call of some microseconds each, in which the other queues
/// of its worker wait. A whole ring is learned in 32 turns.
inline constexpr std::size_t persistent_learned_at_a_time = 8;
/// And that it unmaps.
inline constexpr std::size_t persistent_given_back_at_a_time = 64;
/// How often a persistent grant may be found silent before it is given back: with a look every 5 s that is 60 s, as
/// Linux's blkback has it.
inline constexpr std::uint8_t persistent_silent_looks = 12;

/// How long the requests on one guest's control ring are served before others have their turn. A single one may take
/// longer, several milliseconds: 512 static grants that are mapped and, for the last of them, unmapped again.
inline constexpr std::int64_t control_turn_ns = 1'000'000;

/// Entries of a guest's table from hashes to queues: Linux's and Windows' number, twice the queues that there can be.
inline constexpr std::size_t hash_mapping = 128;

/// Multicast groups of a guest that has them filtered: Linux netback's number (XEN_NETBK_MCAST_MAX). Each frame for a
/// group is compared with all.
inline constexpr std::size_t multicast_groups = 64;

/// Queues that the daemon offers a guest at most. Linux offers one a CPU, and at most 8 unless told otherwise.
inline constexpr unsigned queues_per_vif = 64;

/// Worker threads of a daemon: more than any machine has CPUs to spare for one.
inline constexpr unsigned workers = 64;

/// Clients of the control socket at a time; the oldest makes room.
inline constexpr std::size_t control_connections = 16;

/// How long a control socket that lies in our way may take to vanish: the io_uring of a process that died holds it for
/// 40 ms, on a host with much else to do for more than half a second. Nobody waits but a daemon that is not to start.
inline constexpr std::int64_t control_busy_ns = 5'000'000'000;

/// Octets of a request on the control socket. The longest there is has a command and a name.
inline constexpr std::size_t control_request = 4096;

/// Watch events that are read from the store before what they told of is looked at. The rest keeps.
inline constexpr unsigned watch_events_per_look = 4096;

/// How long a frontend may take to answer our Closing before the device is closed without it. libxl waits 10 s for
/// the whole of a detach.
inline constexpr std::int64_t closing_patience_ns = 5'000'000'000;

/// Steps that one look at a vif may lead to; the state machine needs fewer than ten from anywhere.
inline constexpr unsigned backend_steps = 32;

// Netfront

/// Queue pairs that a device may ask for.
inline constexpr unsigned queues_per_device = 64;

/// Steps and watch events handled in one call: a backend that writes its keys without end shall not hold us.
inline constexpr unsigned frontend_steps = 16;
inline constexpr unsigned frontend_events = 256;

/// How long a device that is destroyed waits for its backend to answer its Closing.
inline constexpr int frontend_close_ms = 1000;

/// How long a backend may be at closing a former connection before that counts as a refusal: it needs milliseconds.
inline constexpr std::int64_t refusal_grace_ns = 1'000'000'000;

/// How long a backend may take to answer a request on the control ring: it needs microseconds, and who asks waits.
inline constexpr std::int64_t control_answer_ms = 1000;

/// Notes about a backend's keys that a device keeps: there are fewer keys than that.
inline constexpr std::size_t notes = 32;

/// Octets of the path of a backend's folder: that of a vif has fewer than a hundred.
inline constexpr std::size_t backend_path = 256;

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
