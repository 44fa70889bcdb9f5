// SPDX-License-Identifier: MIT
//
// Theory of operation: guest RX
//
// One turn, in two parts. gather: receive a batch from the port into buffers of ours; for each packet, in order, see
// how many slots it needs (a page each, and one for the GSO extra) and whether the guest has posted them; plan the
// copies into the guest's pages. publish, when the queue pair has had them done: one publication, at most one
// notification.
//
// A packet that does not fit waits, and those behind it too: the line is bounded by its buffers (4 MiB a queue), and
// what the port has beyond them stays there (a TAP drops at its own queue's end). So a guest that posts nothing costs a
// fixed amount of memory (XSA-392). While a packet waits, the event index asks for exactly the slots it needs. It waits
// for limits::rx_expiry_ns, then it is dropped. A guest without feature-rx-notify need not tell of the slots it posts:
// there it is limits::rx_unannounced_ns, at whose end the ring is looked at once more.
//
// A guest that has not posted, for limits::rx_stall_ns, the slots which the first of the line needs is stalled: one
// free slot does not help a packet that needs two. It is again what it was when it has posted as many.
//
// The clock is looked at only in turns that find packets waiting and move none.
//
// Packets that another guest's queue passes on (the switch) come with that guest's pages: they are copied from there,
// and go home once they are. They share the waiting line. When they wait, and the guest takes less than a ring of slots
// in limits::hold_ns, those in the line are copied into buffers of ours, so that the pages go back, those behind them
// are discarded, and others are told to send by the bridge until nothing waits for room any more.
//
// A guest that wants hashes of its packets gets each in an extra, and on the queue that the hash says
// (rx_steering.hpp): packets for its other queues are handed over, and come home.
//
// A buffer that is a static or a persistent grant (grant/static_table.hpp) is written to by us, without the hypervisor.
// Long packets are received straight into such buffers (rx_direct.cpp).
//
// Responses stand in the slots of the requests they answer AND carry their ids: Linux goes by the position, Windows
// by the id. An extra takes a whole slot; its buffer is unused.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "grant/copy_batch.hpp"
#include "grant/copy_buffers.hpp"
#include "grant/persistent_grants.hpp"
#include "grant/static_table.hpp"
#include "netback/counters.hpp"
#include "netback/multicast_groups.hpp"
#include "netback/receive_choice.hpp"
#include "netback/rx_steering.hpp"
#include "netback/waiting_line.hpp"
#include "packet/packet.hpp"
#include "port/port.hpp"
#include "ring/back_ring.hpp"
#include "runtime/clock.hpp"
#include "runtime/limits.hpp"
#include "xen/grant_table.hpp"

namespace uvif::netback {

/// What the guest can receive, fixed while it is connected.
struct RxFeatures {
    bool scatter_gather = false;
    bool checksum_v4 = true;         ///< takes blank checksums of IPv4
    bool checksum_v6 = false;        ///< and of IPv6
    bool gso_v4 = false;             ///< takes TCP segments to be, of IPv4
    bool gso_v6 = false;             ///< and of IPv6
    bool announces_buffers = false;  ///< feature-rx-notify
};

/// How long a guest is waited for.
struct RxPatience {
    std::int64_t expiry_ns = limits::rx_expiry_ns;  ///< by a packet
    std::int64_t stall_ns = limits::rx_stall_ns;    ///< before it counts as stalled; 0: it never does
    std::int64_t (*clock)() noexcept = monotonic_ns;
};

class RxQueue {
public:
    static Result<std::unique_ptr<RxQueue>> create(ring::RxBackRing ring, xen::DomainId domain, xen::GrantTable& grants,
                                                   Port& port, RxFeatures features, RxPatience patience = {},
                                                   ReceiveStrategy strategy = ReceiveStrategy::bounce);
    RxQueue(const RxQueue&) = delete;
    RxQueue& operator=(const RxQueue&) = delete;
    ~RxQueue();

    /// It is queue `index` of a vif whose guest may have packets steered; `waker` has it look at what comes by it.
    void join(RxExchange& exchange, std::size_t index, Waker& waker) noexcept;
    /// What it receives is given to the guest only if it wants it. They outlive the queue.
    void filter_by(const MulticastGroups& groups) noexcept { groups_ = &groups; }
    /// Buffers in these pages are written to directly; `learner`, if any, hears of what was missed. Both outlive the
    /// queue.
    void use(const StaticTable& statics, PersistentGrants* learner = nullptr) noexcept {
        statics_ = &statics;
        learner_ = learner;
    }

    /// What to do by from now on; nullptr: nothing. Before any of the queues goes, all have had nullptr, and then
    /// given back what they have of others. Between turns.
    void steer_by(std::shared_ptr<const RxSteering> steering) noexcept;

    /// Lends the port the packets that it reads ahead into; `handler` hears when there are some.
    void read_ahead(ReadyHandler& handler) noexcept;

    struct Gathered {
        bool worked = false;      ///< there is something to publish, or packets were discarded
        bool port_empty = false;  ///< the port had nothing more: ask again when it is readable
    };
    /// Adds to `copies` what is then to be done. Without `may_receive` only packets that wait are moved.
    [[nodiscard]] Gathered gather(bool may_receive, CopyBatch& copies) noexcept;
    /// Gives the guest what `copies` have brought to its pages. True: it wants to hear of it, by one event.
    [[nodiscard]] bool publish(const CopyBatch& copies) noexcept;

    /// Not 0: packets that wait hold another guest's pages; at this moment release_held() is due.
    [[nodiscard]] std::int64_t hold_ends_ns() const noexcept { return hold_ends_ns_; }
    /// Copies those in the line into buffers of ours; the next turns discard the others. Between turns; `copies` is
    /// free for this.
    void release_held(xen::GrantTable& grants, CopyBatch& copies) noexcept;
    /// The guest has posted too little for too long.
    [[nodiscard]] bool stalled() const noexcept { return stalled_; }
    /// Not 0: at this moment another turn is due, whatever the guest does: a packet expires, or the guest is stalled.
    [[nodiscard]] std::int64_t due_ns() const noexcept { return due_ns_; }

    /// Gives back the packets that `concerns`, as the queue that they belong to goes away, or this one does.
    void give_back(const std::function<bool(const Packet&)>& concerns) noexcept;

    /// Before sleeping: when a packet waits for slots (or did, until the guest stalled; or the port always has one),
    /// asks for an event once they are there. False: they are.
    [[nodiscard]] bool arm() noexcept;

    /// More can be taken from the port; otherwise its readiness is of no interest.
    [[nodiscard]] bool wants_packets() const noexcept {
        return !free_.empty() && !waiting_.full() && (!direct_ || passed_waiting() == waiting_.packets().size());
    }

    [[nodiscard]] Rogue rogue() const noexcept { return rogue_; }
    [[nodiscard]] const RxCounters& counters() const noexcept { return counters_; }
    [[nodiscard]] std::size_t self_granted_pages() const noexcept { return buffers_.granted_pages(); }
    void count_copy_call() noexcept { ++counters_.copy_calls; }
    void count_notify() noexcept { ++counters_.notify_calls; }

    /// Slots that a packet takes on the ring.
    [[nodiscard]] std::uint32_t slots_needed(const Packet& packet) const noexcept;

    static constexpr std::size_t packets_per_turn = WaitingLine::capacity;

private:
    /// So that the guest works on the first packets while the next are copied. A whole ring of 64 KiB packets copied
    /// before it hears of the first would have it fall asleep meanwhile.
    static constexpr std::uint64_t bytes_per_turn = 128 * 1024;
    /// Requests that a packet received directly may take: pages for the longest, and the GSO extra.
    static constexpr std::uint32_t direct_slots = 17;
    /// So that neighbours that send without end leave the bridge its part.
    static constexpr std::size_t passed_waiting_max = packets_per_turn / 2;

    /// What stands before and beside a packet's octets on the ring.
    struct Heading {
        std::array<ring::ExtraInfo, 2> extras;
        std::uint32_t extra_count = 0;
        std::uint16_t flags = 0;
    };

    RxQueue(ring::RxBackRing ring, xen::DomainId domain, Port& port, RxFeatures features, const RxPatience& patience,
            ReceiveStrategy strategy, CopyBuffers buffers);

    /// One more than the largest packet: a larger one is seen.
    [[nodiscard]] std::uint32_t room_of_packet() const noexcept {
        return static_cast<std::uint32_t>(buffers_.pool.buffer_size());
    }
    /// Of another queue.
    [[nodiscard]] static bool is_passed(const Packet& packet) noexcept { return packet.home != nullptr; }
    [[nodiscard]] bool has_hash(const Packet& packet) const noexcept {
        return steering_ != nullptr && packet.hash.type != 0;
    }
    [[nodiscard]] bool has_passed() const noexcept {
        return port_.has_passed() || (exchange_ != nullptr && !exchange_->of(index_).packets.empty());
    }
    std::size_t next_passed(std::span<Packet*> packets) noexcept;
    void take_home() noexcept;
    void add_hash(Packet& packet) const noexcept;
    [[nodiscard]] std::size_t steer(std::span<Packet*> packets) noexcept;
    bool take_passed() noexcept;
    void discard_passed(std::span<Packet* const> packets) noexcept;
    bool receive() noexcept;
    void choose_way() noexcept;
    bool receive_directly(std::uint32_t segment) noexcept;
    std::uint32_t spread(Packet& packet, std::span<const ring::RxRequest> posted) noexcept;
    bool answer_directly(const Packet& packet, std::uint32_t room, std::span<const ring::RxRequest> posted,
                         std::uint32_t segment) noexcept;
    [[nodiscard]] std::size_t discard_unwanted(std::span<Packet*> packets) noexcept;
    [[nodiscard]] std::size_t passed_waiting() const noexcept;
    bool watch(bool moved, bool placed) noexcept;
    void watch_hold() noexcept;
    bool discard_expired(std::int64_t now_ns) noexcept;
    void watch_for_stall(std::int64_t now_ns) noexcept;
    bool copy_apart(Packet& passed, Packet& own, xen::GrantTable& grants, CopyBatch& copies) noexcept;
    bool deliver(CopyBatch& copies) noexcept;
    [[nodiscard]] bool takes_segments(GsoType type) const noexcept;
    [[nodiscard]] bool lacks_checksum(const Packet& packet) const noexcept;
    void finish_checksum(Packet& packet) noexcept;
    [[nodiscard]] Heading heading_of(const Packet& packet) const noexcept;
    [[nodiscard]] static ring::RxResponse respond_to(const ring::RxRequest& request, std::uint32_t size,
                                                     std::uint16_t flags, bool more) noexcept;
    void answer(const ring::RxSlot& slot, std::uint32_t first_segment) noexcept;
    void count(const Packet& packet, std::uint32_t slots) noexcept;
    bool place(Packet& packet, CopyBatch& copies) noexcept;
    void note_failures(const CopyBatch& copies) noexcept;
    void discard(RxDrop reason) noexcept;

    ring::RxBackRing ring_;
    xen::DomainId domain_;
    Port& port_;
    RxFeatures features_;
    Rogue rogue_ = Rogue::none;

    CopyBuffers buffers_;
    std::vector<Packet> packets_;  ///< packets_per_turn, and those lent to the port
    std::vector<Packet*> free_;
    WaitingLine waiting_;  ///< received and not yet on the ring

    const MulticastGroups* groups_ = nullptr;
    const StaticTable* statics_ = nullptr;  ///< none: the guest has no static or persistent grants
    PersistentGrants* learner_ = nullptr;   ///< none: no persistent ones
    ReceiveChoice choice_;
    bool direct_ = false;        ///< as last chosen
    bool expects_extra_ = true;  ///< the last packet of more than a page had one
    RxExchange* exchange_ = nullptr;
    std::size_t index_ = 0;
    std::shared_ptr<const RxSteering> steering_;
    CompletionQueue home_;  ///< of packets that were steered away

    std::int64_t hold_ends_ns_ = 0;
    std::uint64_t hold_slots_ = 0;  ///< counters_.slots when it began
    bool held_too_long_ = false;    ///< it was due, and packets have been waiting for room ever since
    RxPatience patience_;
    std::int64_t due_ns_ = 0;
    std::uint32_t starved_slots_ = 0;    ///< not 0: a packet needs or needed so many, and they have not been there
    std::int64_t starved_since_ns_ = 0;  ///< and no packet found room since then
    bool stalled_ = false;

    // This turn's answers, and for each its copies: those up to where the next one's begin.
    std::array<ring::RxSlot, ring::RxBackRing::size> answers_;
    std::array<std::uint32_t, ring::RxBackRing::size> first_segment_;
    std::uint32_t last_segment_ = 0;  ///< and one behind it
    std::uint32_t answer_count_ = 0;
    std::array<Packet*, packets_per_turn> copied_;  ///< of other queues: go home when the copies are done
    std::size_t copied_count_ = 0;

    RxCounters counters_;
};

}  // namespace uvif::netback
