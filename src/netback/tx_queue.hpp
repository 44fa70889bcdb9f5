// SPDX-License-Identifier: MIT
//
// Theory of operation: guest TX
//
// One turn moves a batch of packets through the stages below. Each is a member function of its own.
//
//   gather    collect   packets that the port is done with come home
//             take      copy every published request out of the ring, once, into `slots_`
//             parse     slots -> TxFrame: accept, drop or rogue (tx_parser.hpp); pure
//             fetch     at most one map call per 64 payload pages; everything else is planned as copies
//   (the queue pair does the copies of both directions, in one call)
//   publish   settle    judge the copies
//             release   pages of finished packets are unmapped, in one call
//             answer    responses, gathered privately, go to the ring: one publication, at most one notification
//   send      one submission of the batch to the port; each packet comes home exactly once, now or later
//
// A packet is fetched by copy (whole, into one buffer of ours: its slots are answered before it is sent, so that the
// guest fills them again meanwhile) or by map (first 128 octets copied apart, so that nobody parses memory that the
// guest can still write, the rest mapped read-only: its slots are answered when its region of pages is unmapped, which
// is when the port is done with all of the region's packets). A map call fails as a whole for one bad reference; its
// packets are then copied, which finds the bad slot.
//
// Where the port may pass packets on to another guest's queue, a third way: the first 128 octets are copied, the rest
// is left in the guest's pages for the other queue to copy from there (its slots are answered when the packet comes
// home). Packets that the port then does not pass on have the rest copied by a second call, before they are submitted.
//
// A guest that has given us static grants (grant/static_table.hpp) makes all this needless for packets that lie in them
// whole: the first 128 octets are copied apart by us, the rest is sent from where it is, and the slots are answered
// when the port is done. No call of the hypervisor's is made for such a packet. Where the guest has persistent grants,
// those that are not found are noted, to be learned between turns (grant/persistent_grants.hpp).
//
// A port that cannot go on holds packets. Mapped ones hold the guest's pages too, for limits::hold_ns: then their
// octets are copied into the buffers that had only their headers, and the pages go back.
//
// The debt: a taken slot is owed exactly one answer. It is in `slots_` (not parsed), in a TxPacket (mapped, in
// flight), or in `answers_` (to be published at the end of the turn). BackRing::respond asserts that there are never
// more.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "grant/copy_batch.hpp"
#include "grant/copy_buffers.hpp"
#include "grant/persistent_grants.hpp"
#include "grant/regions.hpp"
#include "grant/static_table.hpp"
#include "netback/counters.hpp"
#include "netback/fetch_policy.hpp"
#include "netback/held_slots.hpp"
#include "netback/multicast_groups.hpp"
#include "netback/tx_credit.hpp"
#include "netback/tx_parser.hpp"
#include "packet/object_pool.hpp"
#include "packet/packet.hpp"
#include "port/port.hpp"
#include "ring/back_ring.hpp"
#include "xen/grant_table.hpp"

namespace uvif::netback {

class TxQueue {
public:
    /// Allocates everything the queue will ever need. `ring` is mapped for as long as this lives.
    static Result<std::unique_ptr<TxQueue>> create(ring::TxBackRing ring, xen::DomainId domain, xen::GrantTable& grants,
                                                   Port& port, const FetchPolicy& fetch, TxCredit& credit,
                                                   HeldSlots& vif_held);
    TxQueue(const TxQueue&) = delete;
    TxQueue& operator=(const TxQueue&) = delete;
    ~TxQueue();

    // The three parts of a turn, in this order. Between the first two the caller has `copies` done.

    /// Takes packets, maps what is mapped and adds the rest to `copies`. True: there is something to publish or send.
    [[nodiscard]] bool gather(CopyBatch& copies) noexcept;
    /// Answers what can be answered. True: the guest wants to hear of it, by one event.
    [[nodiscard]] bool publish(const CopyBatch& copies) noexcept;
    /// Hands the packets to the port; `copies` is free for this.
    void send(CopyBatch& copies) noexcept;
    /// Between publish and send: what is to be sent fits in a page. Such a guest (a question, acknowledgements) waits
    /// for what comes back and not for its slots.
    [[nodiscard]] bool sends_little() const noexcept;

    /// Before sleeping: asks for an event. False: there is work. Not to be called while the port holds up.
    [[nodiscard]] bool arm() noexcept {
        // Without a packet to put them in, the guest's requests wait for one that comes home.
        const bool waits = resume_ns_ != 0 || packets_.empty();
        return home_.empty() && (waits || (unparsed() == 0 && ring_.arm()));
    }
    /// Not 0: the guest has used up its rate; what it sent waits in the ring for a turn at this moment.
    [[nodiscard]] std::int64_t resume_ns() const noexcept { return resume_ns_; }

    /// Not 0: mapped packets wait in the port; at this moment release_held() is due.
    [[nodiscard]] std::int64_t hold_ends_ns() const noexcept { return hold_ends_ns_; }
    /// Copies those into buffers of ours, so that the guest gets its pages back. Between turns.
    void release_held() noexcept;

    /// Whom the guest's requests for multicast groups are for; without, they are refused. It outlives the queue.
    void tell(MulticastGroups& groups) noexcept { groups_ = &groups; }
    /// Packets that lie in these pages whole are sent from there; `learner`, if any, hears of what was missed. Both
    /// outlive the queue.
    void use(const StaticTable& statics, PersistentGrants* learner = nullptr) noexcept {
        statics_ = &statics;
        learner_ = learner;
    }
    /// A packet in flight lies in it. Between turns.
    [[nodiscard]] bool uses(const std::byte* page) const noexcept;

    /// Where its packets come home to, and who is to hear of those that come from elsewhere.
    [[nodiscard]] CompletionQueue& home() noexcept { return home_; }

    /// Takes nothing any more, and calls everything home from the port (what other queues have, is home already). What
    /// the kernel has comes when it comes.
    void stop() noexcept;
    /// After stop(): lets go of what has come home since. True: all has.
    [[nodiscard]] bool drained() noexcept;

    /// Calls everything home from the port (what other queues have, is home already), lets go of the guest's pages, and
    /// answers what is owed: the next backend goes on from the answers (a rogue's ring is never touched again). True:
    /// the guest wants an event.
    [[nodiscard]] bool abandon() noexcept;

    /// Not Rogue::none: the guest broke the protocol; every further turn does nothing.
    [[nodiscard]] Rogue rogue() const noexcept { return rogue_; }

    /// Packets that the port still has.
    [[nodiscard]] std::size_t in_flight() const noexcept { return packets_.taken(); }
    [[nodiscard]] std::size_t mapped_regions() const noexcept { return regions_.held(); }

    [[nodiscard]] TxCounters counters() const noexcept;
    [[nodiscard]] std::size_t self_granted_pages() const noexcept { return buffers_.granted_pages(); }
    void count_copy_call() noexcept { ++counters_.copy_calls; }
    void count_notify() noexcept { ++counters_.notify_calls; }

    static constexpr std::size_t packets_per_turn = 64;

private:
    /// Enough that the copies of a turn stay in a core's second cache.
    static constexpr std::size_t bytes_per_turn = 256 * 1024;
    static constexpr std::uint32_t header_size = 128;  ///< XEN_NETBACK_TX_COPY_LEN: contiguous, ours (XSA-423)
    static constexpr std::size_t packets_in_flight_max = 2 * packets_per_turn;

    struct TxPacket : Packet {
        TxPacket() noexcept { owed = false; }

        std::byte* buffer = nullptr;
        Regions::Handle region = Regions::none;  ///< not none: answered when it comes home
        std::uint32_t first_segment = 0;         ///< of this turn's copies
        std::uint32_t segments = 0;
        std::uint32_t copied_from = 0;  ///< of its octets, what these copy: [from, to)
        std::uint32_t copied_to = 0;
        std::uint32_t slot = 0;  ///< where its frame begins in slots_, this turn
        TxFrame frame;
        bool fetched = false;          ///< from pages that stay mapped
        bool in_place = false;         ///< but for its header in those pages: answered when it comes home
        bool left = false;             ///< but for its header in the guest's pages
        std::uint32_t held_slots = 0;  ///< unanswered until it comes home, for their pages
        std::int64_t sent_ns = 0;      ///< when it was handed to the port, if it held pages then
        std::array<GrantedPiece, max_fragments> places;        ///< of the fragments that are
        std::array<std::uint16_t, tx_data_slots_max> ids{};    ///< of the data slots, for the late answer
        std::uint32_t failed_slots = 0;                        ///< one bit a data slot, for the same
        std::array<ring::Line, ring::TxBackRing::size> lines;  ///< of all slots, for the same
    };

    /// Octets of a packet that one of its data slots has.
    struct Part {
        std::uint32_t slot;  ///< of the data slots
        std::uint32_t at;    ///< of the packet's octets, the first
        std::uint32_t size;
        xen::GrantRef ref;
        std::uint16_t offset;  ///< in the page
    };

    /// Slots that a turn may leave unanswered because of their pages.
    struct HoldRoom {
        std::uint32_t pins_from;   ///< as Port has it
        std::uint32_t slots = 0;   ///< of all packets
        std::uint32_t pinned = 0;  ///< of these, those of packets that the port pins

        [[nodiscard]] bool has(const TxPacket& packet) const noexcept {
            return packet.frame.slots() <= (is_pinned_from(pins_from, packet) ? pinned : slots);
        }
        void take(const TxPacket& packet) noexcept {
            slots -= packet.frame.slots();
            pinned -= is_pinned_from(pins_from, packet) ? packet.frame.slots() : 0;
        }
    };

    TxQueue(ring::TxBackRing ring, xen::DomainId domain, xen::GrantTable& grants, Port& port, const FetchPolicy& fetch,
            TxCredit& credit, HeldSlots& vif_held, CopyBuffers buffers);

    [[nodiscard]] static bool uses_pages(const TxPacket& packet) noexcept {
        return packet.region != Regions::none || packet.left || packet.in_place;
    }
    [[nodiscard]] std::uint32_t unparsed() const noexcept { return slots_end_ - slots_begin_; }
    bool take() noexcept;
    void parse() noexcept;
    void begin_packet(const TxFrame& frame) noexcept;
    void answer_group(const TxFrame& frame) noexcept;
    void fetch(CopyBatch& copies) noexcept;
    void leave_payloads(std::span<TxPacket* const> packets) noexcept;
    void take_statics(std::span<TxPacket* const> packets) noexcept;
    bool take_static(TxPacket& packet, const HoldRoom& room) noexcept;
    void map_payloads(std::span<TxPacket* const> packets) noexcept;
    void map_region(std::span<TxPacket* const> packets) noexcept;
    [[nodiscard]] std::uint32_t start_in_page(const TxPacket& packet) const noexcept;
    template <class Visit>
    void each_part(const TxPacket& packet, std::uint32_t begin, std::uint32_t end, Visit visit) const noexcept;
    void leave(TxPacket& packet) noexcept;
    [[nodiscard]] HoldRoom room_to_hold() const noexcept;
    void hold_slots(TxPacket& packet) noexcept;
    void release_slots(TxPacket& packet) noexcept;
    void remember_slots(TxPacket& packet) noexcept;
    void plan_copy(TxPacket& packet, CopyBatch& copies) noexcept;
    void plan_octets(TxPacket& packet, std::uint32_t begin, std::uint32_t end, CopyBatch& copies) noexcept;
    [[nodiscard]] bool copied_well(const TxPacket& packet, const CopyBatch& copies) const noexcept;
    void fetch_rest(CopyBatch& copies) noexcept;
    void watch_hold() noexcept;
    void watch_pages(std::span<Packet* const> sent) noexcept;
    void copy_apart(TxPacket& packet) noexcept;
    void settle(const CopyBatch& copies) noexcept;
    void fail_packet(TxPacket& packet, const CopyBatch& copies) noexcept;
    void let_go(TxPacket& packet) noexcept;
    void owe_slots(const TxPacket& packet) noexcept;
    void owe_late(TxPacket& packet) noexcept;
    void collect_completions() noexcept;
    [[nodiscard]] bool answer() noexcept;

    [[nodiscard]] ring::TxRequest data_slot(const TxPacket& packet, std::uint32_t n) const noexcept {
        return slots_[packet.slot + packet.frame.data_at(n)].request();
    }
    [[nodiscard]] std::uint32_t data_size(const TxPacket& packet, std::uint32_t n,
                                          const ring::TxRequest& request) const noexcept {
        return n == 0 ? packet.frame.first_size : request.size;
    }
    void owe(ring::Line line, std::uint16_t id, ring::TxStatus status) noexcept {
        answered_lines_[answer_count_] = line;
        answers_[answer_count_++] = {id, static_cast<std::int16_t>(status)};
    }
    void owe_nulls(std::span<const ring::Line> lines) noexcept;
    void owe_frame(std::uint32_t slot, const TxFrame& frame, ring::TxStatus status) noexcept;
    void recycle(TxPacket& packet) noexcept;

    ring::TxBackRing ring_;
    xen::DomainId domain_;
    Port& port_;
    FetchPolicy fetch_;
    bool may_map_;  ///< sometimes
    TxCredit& credit_;
    HeldSlots& vif_held_;
    xen::GrantTable& grants_;
    MulticastGroups* groups_ = nullptr;
    const StaticTable* statics_ = nullptr;  ///< none: the guest has no static or persistent grants
    PersistentGrants* learner_ = nullptr;   ///< none: no persistent ones
    std::size_t in_place_ = 0;              ///< packets in flight that are
    std::int64_t resume_ns_ = 0;
    std::int64_t hold_ends_ns_ = 0;
    std::uint32_t held_slots_ = 0;
    std::uint32_t told_slots_ = 0;  ///< of these, those that vif_held_ knows of
    bool stopped_ = false;
    Rogue rogue_ = Rogue::none;

    // Requests taken and not yet parsed: [slots_begin_, slots_end_).
    std::array<ring::TxSlot, ring::TxBackRing::size> slots_;
    std::array<ring::Line, ring::TxBackRing::size> lines_{};  ///< of the journal, for each
    std::uint32_t slots_begin_ = 0;
    std::uint32_t slots_end_ = 0;

    ObjectPool<TxPacket> packets_;
    CopyBuffers buffers_;
    CompletionQueue home_;

    // This turn's batch.
    std::array<TxPacket*, packets_per_turn> batch_;
    std::size_t batch_count_ = 0;
    Regions regions_;
    std::array<TxPacket*, Regions::regions_max> done_{};  ///< packets that are done, of each region that is not
    std::array<ring::TxResponse, ring::TxBackRing::size> answers_;
    std::array<ring::Line, ring::TxBackRing::size> answered_lines_;  ///< of the requests that they answer
    std::uint32_t answer_count_ = 0;

    TxCounters counters_;
};

/// Calls visit(Part) for each data slot that has some of the packet's octets [begin, end).
template <class Visit>
void TxQueue::each_part(const TxPacket& packet, std::uint32_t begin, std::uint32_t end, Visit visit) const noexcept {
    std::uint32_t at = 0;
    for (std::uint32_t n = 0; n < packet.frame.data_slots && at < end; ++n) {
        const ring::TxRequest request = data_slot(packet, n);
        const std::uint32_t next = at + data_size(packet, n, request);
        const std::uint32_t from = std::max(at, begin);
        const std::uint32_t to = std::min(next, end);
        if (from < to) {  // XSA-448: the reference of an empty slot is not looked at
            visit(Part{.slot = n,
                       .at = from,
                       .size = to - from,
                       .ref = xen::GrantRef{request.gref},
                       .offset = static_cast<std::uint16_t>(request.offset + (from - at))});
        }
        at = next;
    }
}

}  // namespace uvif::netback
