// SPDX-License-Identifier: MIT
//
// Theory of operation
//
// A buffer is one granted page and stays granted for the life of the connection. It is in one of three
// hands: ours (free), the application's (lent), the backend's (sent). `sent_as_` says which: 0, the mark
// `lent`, or the number of the packet it went with. The id on the wire is the buffer's number, so an answer
// finds its buffer without a search, and an answer for a buffer that the backend does not hold is a breach.
//
// Extras (GSO) take a slot without a buffer and are answered NULL with no meaningful id: they are
// counted, so that the answers owed are known exactly at any time.
//
// The free lists are stacks: what came back last is hot in the cache and goes out first.
//
// The header area is further pages behind the buffers, cut into slots of 256 octets. A slot is in the same three hands,
// and can only be the first piece of a packet. Its number, on the wire and for the application, is none of a buffer's:
// so an answer tells which of the two came back.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "ring/front_ring.hpp"
#include "uvif/netfront.hpp"
#include "xen/types.hpp"

namespace uvif::netfront {

/// What the backend takes from us, as it was when the queue connected.
struct TxFeatures {
    bool scatter_gather = false;
    bool tcpv4 = false;
    bool tcpv6 = false;
    bool checksum_ipv4 = true;  ///< on unless the backend says feature-no-csum-offload
    bool checksum_ipv6 = false;
    bool groups = false;  ///< requests to join and to leave multicast groups

    bool operator==(const TxFeatures&) const = default;
};

/// The TX half of a queue pair. One thread.
class TxQueue {
public:
    /// `pages` are refs.size(): first the buffers, at most 256, then those of `headers` header slots, at most 256.
    /// `first_index` other than 0 is for tests of index wrap.
    TxQueue(std::byte* ring_page, std::byte* pages, std::span<const xen::GrantRef> refs, unsigned headers,
            const TxFeatures& features, ring::Index first_index) noexcept;

    /// Pages that so many header slots take.
    [[nodiscard]] static constexpr unsigned header_pages(unsigned headers) noexcept {
        return (headers + headers_per_page - 1) / headers_per_page;
    }
    /// Numbers that no buffer or slot of any queue has begin here.
    static constexpr std::uint32_t numbers = 2 * ring::TxFrontRing::size;

    std::size_t allocate(std::span<Fragment> buffers, bool whole_pages) noexcept;
    std::size_t allocate_headers(std::span<Fragment> slots) noexcept;
    void free(std::span<const Fragment> buffers) noexcept;

    struct Sent {
        std::size_t packets;
        int error;    ///< errno value for the packet after these; 0: all went, or the ring is full
        bool notify;  ///< the backend asked for an event
    };
    Sent send(std::span<const Packet> packets, QueueStatistics& statistics) noexcept;

    /// Puts a request for a multicast group on the ring: mcast_add or mcast_del. An errno value, as Queue::join(); 0:
    /// it is there, and `notify` says whether the backend asked for an event.
    [[nodiscard]] int ask_for_group(ring::ExtraType type, const std::array<std::uint8_t, 6>& group,
                                    bool& notify) noexcept;

    /// Takes the backend's answers. A sentence (a literal): how it broke the protocol.
    [[nodiscard]] const char* reap(QueueStatistics& statistics) noexcept;

    /// Asks for an event when half of what is in flight (`patient`) or anything is answered.
    [[nodiscard]] bool arm(bool patient) noexcept;

    [[nodiscard]] ring::Index in_flight() const noexcept { return ring_.in_flight(); }
    [[nodiscard]] ring::Index room() const noexcept { return ring_.room(); }

private:
    static constexpr std::size_t capacity = ring::TxFrontRing::size;
    static constexpr std::uint32_t lent = 1;  // sent_as_: 0 free, 1 lent, from 2 on packet numbers
    static constexpr unsigned headers_per_page = buffer_size / header_size;
    static constexpr std::uint16_t group_id = numbers;                      // of every request for a group
    static constexpr std::uint32_t first_header = ring::TxFrontRing::size;  // number of the first header slot

    [[nodiscard]] bool exists(std::uint32_t number) const noexcept {
        return number < buffer_count_ || (number >= first_header && number - first_header < header_count_);
    }
    [[nodiscard]] bool owns(const Fragment& fragment, bool first) const noexcept;
    void give_back(std::uint32_t number) noexcept;
    [[nodiscard]] int judge(const Packet& packet, std::uint32_t& total) noexcept;
    [[nodiscard]] int judge_offload(const Packet& packet) const noexcept;
    [[nodiscard]] int claim(const Packet& packet) noexcept;
    void put(const Packet& packet, std::uint32_t total) noexcept;

    ring::TxFrontRing ring_;
    std::byte* buffers_;
    std::byte* headers_;
    std::uint32_t buffer_count_;
    std::uint32_t header_count_;
    TxFeatures features_;
    std::uint32_t next_number_ = lent + 1;
    std::uint32_t last_error_ = 0;   // number of the packet last counted in tx_errors
    std::uint32_t extras_owed_ = 0;  // NULL answers that the backend owes
    std::uint32_t groups_owed_ = 0;  // answers to requests for groups
    std::size_t free_count_ = 0;
    std::size_t free_header_count_ = 0;
    std::array<std::uint16_t, capacity> free_;
    std::array<std::uint16_t, capacity> free_headers_;
    std::array<std::uint32_t, numbers> sent_as_{};
    std::array<std::uint32_t, numbers> refs_;
    std::array<ring::TxResponse, capacity> responses_;  // a member, for it would be zeroed on each use otherwise
};

}  // namespace uvif::netfront
