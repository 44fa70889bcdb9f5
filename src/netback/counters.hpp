// SPDX-License-Identifier: MIT
//
// What a queue counts. Every packet that does not arrive is in exactly one of the drop counters: those here, each with
// a sentence that `uvif-ctl` prints, or those of PortCounters. Written by the queue's thread; others ask that thread.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace uvif::netback {

// X(name, sentence)
#define UVIF_TX_DROPS(X)                                                                    \
    X(too_many_slots, "packet of 20 or 21 data slots: consumed and answered with an error") \
    X(size_mismatch, "continuation slots larger than the packet they belong to")            \
    X(too_short, "first slot, or what is left of it, below an Ethernet header")             \
    X(too_many_groups, "request to join a multicast group beyond the 64 that a guest may")  \
    X(grant_failed, "a grant of the packet could not be copied or mapped")

#define UVIF_ROGUE_REASONS(X)                                                            \
    X(impossible_producer, "request producer runs further ahead than the ring is large") \
    X(extra_chain_open, "extra info chain runs past the producer")                       \
    X(extra_type_invalid, "extra info of an unknown type")                               \
    X(data_chain_open, "data chain runs past the producer")                              \
    X(absurd_slot_count, "more than 21 data slots in one packet")                        \
    X(crosses_page, "slot that leaves its page")                                         \
    X(gso_invalid, "GSO extra of size 0 or of an unknown type")

#define UVIF_RX_DROPS(X)                                                                                \
    X(no_scatter_gather, "packet above one page for a guest without feature-sg")                        \
    X(no_segments, "TCP segments to be (GSO) for a guest that does not take them")                      \
    X(unwanted_group, "for a multicast group that the guest has not joined, and has us filter")         \
    X(expired, "waited 10 s for the guest to post as many slots as the packet needs")                   \
    X(no_buffers, "waited 30 ms for slots of a guest that does not announce them (feature-rx-notify)")  \
    X(held_too_long, "of another queue, while this one took too little for longer than pages are held") \
    X(tx_grant_failed, "of another guest, whose grant could not be copied")                             \
    X(rx_grant_failed, "a grant of the guest's buffers could not be copied to")

#define UVIF_NAME(name, sentence) name,
#define UVIF_TEXT(name, sentence) std::string_view(#name),
#define UVIF_SENTENCE(name, sentence) std::string_view(sentence),

enum class TxDrop : std::uint8_t { UVIF_TX_DROPS(UVIF_NAME) count };
enum class Rogue : std::uint8_t { UVIF_ROGUE_REASONS(UVIF_NAME) none };
enum class RxDrop : std::uint8_t { UVIF_RX_DROPS(UVIF_NAME) count };

inline constexpr std::array tx_drop_names{UVIF_TX_DROPS(UVIF_TEXT)};
inline constexpr std::array tx_drop_sentences{UVIF_TX_DROPS(UVIF_SENTENCE)};
inline constexpr std::array rogue_names{UVIF_ROGUE_REASONS(UVIF_TEXT)};
inline constexpr std::array rogue_sentences{UVIF_ROGUE_REASONS(UVIF_SENTENCE)};
inline constexpr std::array rx_drop_names{UVIF_RX_DROPS(UVIF_TEXT)};
inline constexpr std::array rx_drop_sentences{UVIF_RX_DROPS(UVIF_SENTENCE)};

#undef UVIF_NAME
#undef UVIF_TEXT
#undef UVIF_SENTENCE

struct TxCounters {
    std::uint64_t packets = 0;  ///< handed to the port
    std::uint64_t bytes = 0;
    std::uint64_t slots = 0;  ///< ring slots consumed, extras included
    std::uint64_t gso_packets = 0;
    std::uint64_t by_copy = 0;      ///< packets fetched by grant copy alone
    std::uint64_t by_map = 0;       ///< packets of which pages were mapped
    std::uint64_t by_static = 0;    ///< packets that lay in static grants
    std::uint64_t lazy_copies = 0;  ///< of these, copied apart because the port held them
    // As Linux's xen-netback counts: packets that left with pages of the guest, and how they came home.
    std::uint64_t zerocopy_sent = 0, zerocopy_success = 0;
    std::uint64_t zerocopy_fail = 0;                   ///< copied on the way all the same: by the port, or lazily
    std::uint64_t held_back = 0;                       ///< turns that ended because the vif's rate was used up
    std::uint64_t static_hits = 0, static_misses = 0;  ///< data slots of guests that have static grants
    std::uint64_t static_entries = 0;                  ///< static grants that the queue has now, for both directions
    // The same of guests that have persistent grants, whose static ones, if any, are counted here too.
    std::uint64_t by_persistent = 0, persistent_hits = 0, persistent_misses = 0;
    std::uint64_t persistent_learned = 0;     ///< pages mapped for keeps, for both directions
    std::uint64_t persistent_refused = 0;     ///< grants that could not be
    std::uint64_t persistent_given_back = 0;  ///< pages unmapped again
    std::uint64_t persistent_pages = 0;       ///< that the queue has mapped now
    std::uint64_t copied_bytes = 0;
    std::uint64_t copy_calls = 0, map_calls = 0, unmap_calls = 0, notify_calls = 0;
    std::uint64_t unmap_errors = 0;
    // Not counted, but so at this moment:
    std::uint64_t self_granted_pages = 0;  ///< of our buffers, for both directions
    std::uint64_t held_pages = 0;          ///< of the guest, mapped or left for another queue to copy from
    std::uint64_t held_slots = 0;          ///< unanswered for that
    std::uint64_t regions = 0;             ///< map calls whose pages are not unmapped yet
    std::uint64_t oldest_hold_us = 0;      ///< how long the first of the packets has been under way
    std::array<std::uint64_t, static_cast<std::size_t>(TxDrop::count)> drops{};
};

struct RxCounters {
    std::uint64_t packets = 0;
    std::uint64_t bytes = 0;
    std::uint64_t slots = 0;
    std::uint64_t gso_packets = 0;
    std::uint64_t copied_bytes = 0;
    std::uint64_t copy_calls = 0, notify_calls = 0;
    std::uint64_t static_hits = 0, static_misses = 0, persistent_hits = 0, persistent_misses = 0;
    std::uint64_t direct = 0;         ///< of the packets, received straight into the guest's pages
    std::uint64_t direct_missed = 0;  ///< packets that were to be, and had to be copied after all
    std::uint64_t passed = 0;         ///< of the packets, from another queue
    std::uint64_t steered = 0;        ///< packets of the port that were handed over to the queue that their hash says
    std::uint64_t lazy_copies = 0;    ///< of these, copied apart meanwhile, because they had to wait
    std::uint64_t waits = 0;          ///< times a packet had to wait for the guest to post buffers
    std::uint64_t stalls = 0;         ///< times the guest had posted too little for so long that it counted as stalled
    std::array<std::uint64_t, static_cast<std::size_t>(RxDrop::count)> drops{};
};

}  // namespace uvif::netback
