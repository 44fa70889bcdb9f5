// SPDX-License-Identifier: MIT
//
// Packets that are received straight into the guest's pages, over the emulated hypervisor, single-threaded.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "grant/static_grants.hpp"
#include "netback/rx_queue.hpp"
#include "support/fake_port.hpp"
#include "support/mock_guest.hpp"

namespace uvif::netback {
namespace {

using ring::RxFlags;
using test::FakePort;
using test::Frame;
using test::MockGuest;

constexpr Offload gso{.checksum_blank = true, .data_validated = true, .gso_type = GsoType::tcpv4, .gso_size = 1448};

Frame frame(std::size_t length, const Offload& offload = {}) {
    static unsigned number = 0;
    Frame made{.data = std::vector<std::byte>(length), .offload = offload};
    ++number;
    for (std::size_t i = 0; i < length; ++i) {
        made.data[i] = static_cast<std::byte>(i * 7 + (i >> 12) * 29 + number);
    }
    return made;
}

class RxDirectTest : public testing::Test {
protected:
    RxDirectTest() { serve(ReceiveStrategy::direct); }
    ~RxDirectTest() override { end(); }

    void serve(ReceiveStrategy strategy,
               RxFeatures features = {
                   .scatter_gather = true, .checksum_v6 = true, .gso_v4 = true, .announces_buffers = true}) {
        end();
        std::array<std::byte*, 1> page{};
        EXPECT_EQ(grants->map(guest.id, std::array{guest.rx_ring_ref}, xen::Access::read_write, page, mapping), 0);
        auto ring = *ring::RxBackRing::attach(page[0]);
        ring.keep(journal);
        rx = std::move(*RxQueue::create(ring, guest.id, *grants, port, features, {}, strategy));
        rx->use(table);
        port.scattered = true;
    }
    void end() {
        if (rx) {
            rx.reset();
            EXPECT_EQ(grants->unmap(std::array{mapping}), 0);
        }
    }

    void enter(const MockGuest::Page& page, bool is_static) {
        if (is_static) {
            std::array pages{StaticGrants::Page{.ref = std::to_underlying(page.ref), .writable = true}};
            ASSERT_TRUE(statics.add(0, pages));
            table.enter(pages[0].ref, pages[0].address, true);
            entered.insert(pages[0].ref);
        }
    }
    /// Posts buffers: static ones, or such that only the hypervisor may write to.
    void post(std::size_t count, bool is_static = true) {
        for (; count != 0; --count) {
            auto& spare = spares[is_static ? 1 : 0];
            if (spare.empty()) {
                spare.push_back(guest.page(xen::Access::read_write));
                enter(spare.back(), is_static);
            }
            const MockGuest::Page page = spare.back();
            spare.pop_back();
            const std::uint16_t id = next_id++ % 512;  // as Windows: beyond 255
            posted[guest.rx.put({id, 0, std::to_underlying(page.ref)})] = {id, page};
        }
        (void)guest.rx.push_and_check_notify();
    }
    /// Takes all static grants back, as DEL between turns.
    void take_back() {
        for (const std::uint32_t ref : std::exchange(entered, {})) {
            table.remove(ref);
            statics.remove(0, ref);
        }
        spares = {};
    }

    /// Returns how many copies the hypervisor was asked for.
    std::uint32_t turns() {
        std::uint32_t segments = 0;
        for (bool worked = true; worked;) {
            copies.clear();
            worked = rx->gather(true, copies).worked;
            segments += copies.size();
            copies.flush(*grants);
            (void)rx->publish(copies);
        }
        return segments;
    }

    /// All that has arrived, looked at as by a driver that goes by positions, and one that goes by ids.
    std::vector<Frame> arrived() {
        const std::vector<ring::RxSlot> answers = guest.rx_answers();
        ring::Index at = guest.rx.consumed() - static_cast<ring::Index>(answers.size());
        std::vector<Frame> frames;
        std::vector<MockGuest::Page> answered;
        bool more = false;
        bool extra = false;
        for (const ring::RxSlot& answer : answers) {
            const auto [id, page] = posted.at(at);
            posted.erase(at++);
            answered.push_back(page);
            if (std::exchange(extra, false)) {
                frames.back().offload.gso_type = GsoType{answer.extra().gso_type()};
                frames.back().offload.gso_size = answer.extra().gso_size();
                continue;
            }
            const ring::RxResponse response = answer.response();
            EXPECT_EQ(response.id, id);
            EXPECT_GE(response.status, 0);
            if (!std::exchange(more, response.flags.has(RxFlags::more_data))) {
                frames.push_back({});
                frames.back().offload.checksum_blank = response.flags.has(RxFlags::checksum_blank);
                frames.back().offload.data_validated = response.flags.has(RxFlags::data_validated);
                extra = response.flags.has(RxFlags::extra_info);
            }
            const auto octets =
                guest.memory.page(page.frame)
                    .subspan(response.offset, static_cast<std::size_t>(std::max<int>(response.status, 0)));
            frames.back().data.insert(frames.back().data.end(), octets.begin(), octets.end());
        }
        EXPECT_FALSE(more) << "a packet was published in part";
        for (const MockGuest::Page& page : answered) {
            spares[entered.contains(std::to_underlying(page.ref)) ? 1 : 0].push_back(page);
        }
        return frames;
    }
    [[nodiscard]] std::uint64_t drops(RxDrop reason) const {
        return rx->counters().drops[static_cast<std::size_t>(reason)];
    }

    std::unique_ptr<xen::LocalHost> host = *xen::LocalHost::create();
    MockGuest guest{*host, 0xffffff80U};
    std::unique_ptr<xen::Hypervisor> hypervisor = host->open(test::backend_domain);
    std::unique_ptr<xen::GrantTable> grants = *hypervisor->open_grant_table();
    PageBudget budget{limits::static_grants};
    StaticGrants statics{*grants, guest.id, 1, budget};
    StaticTable table;
    std::set<std::uint32_t> entered;
    std::array<std::vector<MockGuest::Page>, 2> spares;  ///< not posted: others, and static ones
    ring::RxBackRing::Journal journal{};
    xen::MappingId mapping;
    FakePort port;
    CopyBatch copies;
    std::unique_ptr<RxQueue> rx;
    std::map<ring::Index, std::pair<std::uint16_t, MockGuest::Page>> posted;  // by ring index
    std::uint16_t next_id = 300;
};

TEST_F(RxDirectTest, NothingButTheFirstOctetsIsCopied) {
    for (const Offload& offload : {gso, Offload{}}) {
        turns();
        for (const std::size_t length : {14U, 60U, 127U, 128U, 129U, 4095U, 4096U, 4097U, 8191U, 8192U, 8193U, 12288U,
                                         61440U, 61441U, 65534U, 65535U}) {
            const bool learns = length > 4096 && rx->counters().direct_missed == (offload == gso ? 0U : 1U) &&
                                offload != gso && length == 4097;
            post(17 - posted.size());
            const Frame sent = frame(length, offload);
            port.to_receive = {sent};
            const std::uint64_t before = rx->counters().copied_bytes;
            EXPECT_EQ(turns(), 0U);
            EXPECT_EQ(arrived(), std::vector{sent}) << length;
            if (!learns && rx->counters().direct_missed == 0) {
                EXPECT_EQ(rx->counters().copied_bytes - before, std::min<std::size_t>(length, 128)) << length;
            }
        }
    }
    EXPECT_EQ(rx->counters().packets, 32U);
    EXPECT_EQ(rx->counters().direct, 31U);
    EXPECT_EQ(rx->counters().direct_missed, 1U) << "the first long one without an extra";
}

TEST_F(RxDirectTest, APacketThatIsLongerThanWhatIsPostedWaitsForMore) {
    post(2);
    const Frame sent = frame(20000, gso);
    const Frame next = frame(9000, gso);
    port.to_receive = {sent, next};
    turns();
    EXPECT_EQ(port.to_receive.size(), 1U) << "one waits; the others stay where they are";
    EXPECT_FALSE(rx->wants_packets());
    EXPECT_TRUE(arrived().empty());
    EXPECT_EQ(journal.owed(0xffffff80U).count, 0U) << "nothing was consumed";
    post(3);
    turns();
    EXPECT_TRUE(arrived().empty());
    post(5);
    turns();
    EXPECT_EQ(arrived(), (std::vector{sent, next}));
    EXPECT_EQ(rx->counters().direct, 1U);
    EXPECT_EQ(rx->counters().direct_missed, 1U);
}

TEST_F(RxDirectTest, APacketForWhichNothingIsPostedWaits) {
    const Frame sent = frame(5000);
    port.to_receive = {sent};
    turns();
    EXPECT_TRUE(port.to_receive.empty());
    post(2);
    turns();
    EXPECT_EQ(arrived(), std::vector{sent});
}

TEST_F(RxDirectTest, ABufferThatIsNotStaticIsCopiedToByTheHypervisor) {
    for (const std::size_t foreign : {0U, 1U, 2U, 3U}) {
        for (std::size_t i = 0; i < 5; ++i) {
            post(1, i != foreign);
        }
        const std::vector sent{frame(9000, gso), frame(60)};
        port.to_receive.assign(sent.begin(), sent.end());
        EXPECT_EQ(turns(), foreign == 1 ? 0U : 1U) << "the slot of the extra has no octets";
        EXPECT_EQ(arrived(), sent) << foreign;
    }
}

/// Where the second page of a packet goes is known only when it is read.
TEST_F(RxDirectTest, ThePlaceOfThePagesIsThatOfTheLastPacket) {
    std::vector<Frame> sent;
    for (const Offload& offload : {gso, gso, Offload{}, Offload{}, Offload{}, gso, gso}) {
        sent.push_back(frame(9000, offload));
        sent.push_back(frame(1000, offload));
    }
    port.to_receive.assign(sent.begin(), sent.end());
    post(100);
    EXPECT_EQ(turns(), 0U);
    EXPECT_EQ(arrived(), sent);
    EXPECT_EQ(rx->counters().direct_missed, 2U);
}

TEST_F(RxDirectTest, NobodyLooksAtHeadersInTheGuestsPages) {
    post(40);
    // The guest writes wherever a packet may have been put, before anybody has looked at it.
    port.on_filled = [](Packet& packet) {
        for (const Fragment& piece : packet.pieces().subspan(std::min<std::size_t>(1, packet.fragment_count))) {
            std::fill_n(piece.data, std::min<std::size_t>(piece.length, 8), std::byte{0xee});
        }
    };
    const Frame direct = frame(9000, gso);
    const Frame missed = frame(9000);
    port.to_receive = {direct, missed};
    turns();
    const auto got = arrived();
    ASSERT_EQ(got.size(), 2U);
    for (const auto& [was, is] : {std::pair(direct, got[0]), std::pair(missed, got[1])}) {
        ASSERT_EQ(is.data.size(), was.data.size());
        EXPECT_TRUE(std::equal(was.data.begin(), was.data.begin() + 128, is.data.begin()));
        EXPECT_EQ(is.data[128], std::byte{0xee}) << "what is the guest's own to spoil";
        EXPECT_EQ(is.offload, was.offload);
    }
}

TEST_F(RxDirectTest, WhatTheGuestDoesNotTakeIsDropped) {
    serve(ReceiveStrategy::direct, {.announces_buffers = true});
    post(20);
    const Frame taken = frame(4000);
    port.to_receive = {frame(1000, gso), frame(5000), taken};
    turns();
    EXPECT_EQ(arrived(), std::vector{taken});
    EXPECT_EQ(drops(RxDrop::no_segments), 1U);
    EXPECT_EQ(drops(RxDrop::no_scatter_gather), 1U);
}

TEST_F(RxDirectTest, AChecksumThatTheGuestDoesNotTakeIsCompleted) {
    serve(ReceiveStrategy::direct, {.scatter_gather = true, .checksum_v4 = false, .announces_buffers = true});
    post(20);
    Frame sent{.data = std::vector<std::byte>(2000), .offload = {.checksum_blank = true, .data_validated = true}};
    sent.data[12] = std::byte{8};
    sent.data[14] = std::byte{0x45};
    sent.data[23] = std::byte{6};
    sent.data[46] = std::byte{5 << 4};
    port.to_receive = {sent, frame(2000)};
    turns();
    const auto got = arrived();
    ASSERT_EQ(got.size(), 2U);
    EXPECT_FALSE(got[0].offload.checksum_blank);
    EXPECT_NE(got[0].data[50], std::byte{0});
    EXPECT_EQ(rx->counters().direct, 1U);
}

/// The rule of the journal: a request is stored before anything is done with it. Here something is done with the page
/// first; but the request still stands in the ring, for whoever comes next.
TEST_F(RxDirectTest, UntilItIsAnsweredAPacketHasConsumedNothing) {
    post(40);
    std::size_t owed = 0;
    port.on_filled = [&](Packet& /*packet*/) { owed += journal.owed(0xffffff80U).count; };
    port.to_receive = {frame(65535, gso)};
    turns();
    EXPECT_EQ(owed, 0U);
    EXPECT_EQ(journal.owed(0xffffff80U + 17).count, 0U);
    EXPECT_EQ(arrived().size(), 1U);
}

TEST_F(RxDirectTest, WhatIsTakenBackBetweenTurnsIsNotWrittenTo) {
    post(60);
    port.to_receive = {frame(9000, gso)};
    EXPECT_EQ(turns(), 0U);
    EXPECT_EQ(guest.grants_in_use(), 1U + 60);
    take_back();
    EXPECT_EQ(guest.grants_in_use(), 1U) << "nothing but the ring is held, whatever has been received";
    const std::vector sent{frame(9000, gso), frame(60)};
    port.to_receive.assign(sent.begin(), sent.end());
    EXPECT_EQ(turns(), 4U);
    const auto got = arrived();
    ASSERT_EQ(got.size(), 3U);
    EXPECT_EQ(got[1], sent[0]);
    EXPECT_EQ(got[2], sent[1]);
}

TEST_F(RxDirectTest, AnIndexThatCannotBeIsNotFollowed) {
    post(4);
    guest.rx.put({0, 0, 0});
    std::atomic_ref(*reinterpret_cast<std::uint32_t*>(guest.memory.page(guest.rx_frame).data())).store(12345);
    port.to_receive = {frame(9000, gso)};
    copies.clear();
    (void)rx->gather(true, copies);
    EXPECT_EQ(rx->rogue(), Rogue::impossible_producer);
    EXPECT_EQ(port.to_receive.size(), 1U);
}

TEST_F(RxDirectTest, AutoGoesByTheLengthOfWhatComes) {
    serve(ReceiveStrategy::automatic);
    const auto receive = [&](std::size_t count, std::size_t length) {
        const std::uint64_t before = rx->counters().direct;
        for (std::size_t i = 0; i < count; ++i) {
            const Frame sent = frame(length, length > 1500 ? gso : Offload{});
            port.offer(sent);
            post(200 - posted.size());
            turns();
            EXPECT_EQ(arrived(), std::vector{sent}) << i;
        }
        return rx->counters().direct - before;
    };
    EXPECT_EQ(receive(100, 1500), 0U);
    EXPECT_EQ(receive(1, 65535), 0U) << "one does not make a stream";
    EXPECT_GT(receive(50, 65535), 40U);
    EXPECT_LT(receive(100, 500), 80U);
    EXPECT_EQ(receive(100, 1500), 0U);
}

/// Any lengths, any buffers, and guests that post when they like.
TEST_F(RxDirectTest, NothingIsLostOrReordered) {
    for (const ReceiveStrategy strategy : {ReceiveStrategy::direct, ReceiveStrategy::automatic}) {
        serve(strategy);
        std::mt19937 random(7);
        std::vector<Frame> sent;
        std::vector<Frame> got;
        const auto collect = [&] {
            for (Frame& one : arrived()) {
                got.push_back(std::move(one));
            }
        };
        for (unsigned round = 0; round < 400; ++round) {
            const bool is_long = round / 50 % 2 == 1;
            for (unsigned i = random() % 4; i != 0; --i) {
                const std::size_t length = 14 + random() % (is_long ? 65521U : 3000U);
                sent.push_back(frame(length, random() % 3 == 0 ? Offload{} : gso));
                port.offer(sent.back());
            }
            while (posted.size() < 100 && random() % 16 != 0) {
                post(1, random() % 32 != 0);
            }
            turns();
            collect();
            if (round % 100 == 99) {
                take_back();
            }
        }
        for (unsigned round = 0; got.size() < sent.size() && round < 10000; ++round) {
            post(100 - posted.size());
            turns();
            collect();
        }
        EXPECT_EQ(got, sent);
        EXPECT_GT(rx->counters().direct, 50U);
        EXPECT_GT(rx->counters().direct_missed, 10U);
    }
}

TEST_F(RxDirectTest, NotForAGuestThatFilters) {
    MulticastGroups groups;
    rx->filter_by(groups);
    groups.request(true);
    post(40);
    Frame stranger = frame(9000, gso);
    stranger.data[0] = std::byte{1};
    port.to_receive = {stranger};
    turns();
    EXPECT_EQ(drops(RxDrop::unwanted_group), 1U);
    EXPECT_EQ(rx->counters().direct + rx->counters().direct_missed, 0U);
}

}  // namespace
}  // namespace uvif::netback
