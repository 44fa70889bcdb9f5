// SPDX-License-Identifier: MIT
//
// Queues whose guest has static grants, over the emulated hypervisor,
// single-threaded.
#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "grant/static_grants.hpp"
#include "unit/netback/standing_queues.hpp"

namespace uvif::netback {
namespace {

using ring::TxFlags;
using ring::TxRequest;
using test::Frame;
using test::MockGuest;

class StaticQueueTest : public testing::Test, protected test::StandingQueues {
protected:
    StaticQueueTest() : StandingQueues({}) {
        tx->use(table);
        rx->use(table);
    }
    ~StaticQueueTest() override { end(); }

    /// A page of the guest's that the table has.
    MockGuest::Page page(xen::Access access) {
        const MockGuest::Page made = guest.page(access);
        std::array pages{
            StaticGrants::Page{.ref = std::to_underlying(made.ref), .writable = access == xen::Access::read_write}};
        EXPECT_TRUE(statics.add(0, pages));
        table.enter(pages[0].ref, pages[0].address, pages[0].writable);
        return made;
    }

    PageBudget budget{limits::static_grants};
    StaticGrants statics{*grants, guest.id, 1, budget};
};

TEST_F(StaticQueueTest, PacketsAreSentFromTheirPagesAndAnsweredWhenThePortIsDone) {
    const auto a = page(xen::Access::read_only);
    const auto b = page(xen::Access::read_write);
    const auto c = page(xen::Access::read_only);
    port.defer = true;
    send({a}, {60});
    EXPECT_EQ(turn(), 0U);
    EXPECT_EQ(guest.tx_answers().size(), 1U) << "all of it is ours";
    EXPECT_FALSE(tx->uses(table.find(std::to_underlying(a.ref))));
    send({b, c}, {100, 3000});
    EXPECT_EQ(turn(), 0U);
    EXPECT_EQ(port.sent, expected);
    EXPECT_TRUE(tx->uses(table.find(std::to_underlying(c.ref))));
    EXPECT_FALSE(tx->uses(table.find(std::to_underlying(b.ref)))) << "all of that one was header";
    EXPECT_EQ(guest.tx_answers().size(), 0U);
    port.finish(2);
    (void)turn();
    EXPECT_EQ(guest.tx_answers().size(), 2U);
    EXPECT_FALSE(tx->uses(table.find(std::to_underlying(c.ref))));
    const TxCounters counters = tx->counters();
    EXPECT_EQ(counters.by_static, 2U);
    EXPECT_EQ(counters.static_hits, 3U);
    EXPECT_EQ(counters.static_misses, 0U);
    EXPECT_EQ(counters.copied_bytes, 60U + 100U) << "the header slot of the second, and no payload";
}

TEST_F(StaticQueueTest, APacketThatLiesThereInPartIsCopied) {
    const auto a = page(xen::Access::read_only);
    send({a, guest.page()}, {100, 3000});
    EXPECT_EQ(turn(), 2U);
    EXPECT_EQ(port.sent, expected);
    EXPECT_EQ(tx->counters().by_copy, 1U);
    EXPECT_EQ(tx->counters().static_misses, 2U);
}

TEST_F(StaticQueueTest, ThePartThatIsParsedIsOurs) {
    const auto a = page(xen::Access::read_only);
    port.defer = true;
    send({a}, {1500});
    (void)turn();
    ASSERT_EQ(port.held_count(), 1U);
    const Packet& packet = *port.held()[0];
    guest.memory.page(a.frame)[12] ^= std::byte{0xff};
    EXPECT_EQ(packet.fragments[0].length, 128U);
    EXPECT_EQ(packet.fragments[0].data[12], expected[0].data[12]);
    guest.memory.page(a.frame)[12] ^= std::byte{0xff};
}

/// One page has the headers of sixteen packets, so its reference occurs sixteen times in a turn.
TEST_F(StaticQueueTest, OfPacketsWithAHeaderAreaNoPayloadIsRead) {
    const auto headers = page(xen::Access::read_only);
    std::vector<MockGuest::Page> payload;
    port.defer = true;
    for (std::uint32_t i = 0; i < 16; ++i) {
        payload.push_back(page(xen::Access::read_only));
        Frame frame;
        const auto fill = [&](std::span<std::byte> octets) {
            for (std::byte& octet : octets) {
                octet = static_cast<std::byte>(next++);
                frame.data.push_back(octet);
            }
        };
        fill(guest.memory.page(headers.frame).subspan(256 * i, 54));
        fill(guest.memory.page(payload.back().frame).first(1000));
        guest.tx.put(ring::TxSlot::from(TxRequest{.gref = std::to_underlying(headers.ref),
                                                  .offset = static_cast<std::uint16_t>(256 * i),
                                                  .flags = {TxFlags::more_data},
                                                  .id = static_cast<std::uint16_t>(256 + i),
                                                  .size = 1054}));
        guest.tx.put(ring::TxSlot::from(TxRequest{.gref = std::to_underlying(payload.back().ref),
                                                  .offset = 0,
                                                  .flags = {},
                                                  .id = static_cast<std::uint16_t>(i),
                                                  .size = 1000}));
        expected.push_back(std::move(frame));
    }
    (void)guest.tx.push_and_check_notify();
    EXPECT_EQ(turn(), 0U);
    EXPECT_EQ(port.sent, expected);
    EXPECT_EQ(tx->counters().copied_bytes, 16U * 54);
    EXPECT_EQ(tx->counters().static_hits, 32U);
    EXPECT_FALSE(tx->uses(table.find(std::to_underlying(headers.ref)))) << "that was copied apart";
    EXPECT_TRUE(tx->uses(table.find(std::to_underlying(payload[15].ref))));
    EXPECT_EQ(guest.tx_answers().size(), 0U);
    port.finish(16);
    (void)turn();
    std::set<std::uint16_t> ids;
    for (const ring::TxResponse& answer : guest.tx_answers()) {
        EXPECT_TRUE(ids.insert(answer.id).second) << answer.id;
    }
    EXPECT_EQ(ids.size(), 32U);
    EXPECT_FALSE(tx->uses(table.find(std::to_underlying(payload[15].ref))));
}

/// What of a packet with blank checksum is copied apart: its first slot if the headers end there, 128 octets if not.
TEST_F(StaticQueueTest, HeadersThatGoOnBehindTheFirstSlotAreCopiedApartToo) {
    const auto a = page(xen::Access::read_only);
    const auto b = page(xen::Access::read_only);
    port.defer = true;
    const auto copied = [&](std::uint32_t first, unsigned tcp_words, std::uint16_t flags) {
        std::array<std::byte, 256> frame{};
        frame[12] = std::byte{8};
        frame[14] = std::byte{0x45};
        frame[23] = std::byte{6};
        frame[46] = static_cast<std::byte>(tcp_words << 4);
        std::memcpy(guest.memory.page(a.frame).data(), frame.data(), first);
        std::memcpy(guest.memory.page(b.frame).data(), frame.data() + first, frame.size() - first);
        TxRequest request{.gref = std::to_underlying(a.ref),
                          .offset = 0,
                          .flags = {static_cast<std::uint16_t>(flags | TxFlags::more_data)},
                          .id = 1,
                          .size = 256};
        guest.tx.put(ring::TxSlot::from(request));
        request = {.gref = std::to_underlying(b.ref),
                   .offset = 0,
                   .flags = {},
                   .id = 2,
                   .size = static_cast<std::uint16_t>(256 - first)};
        guest.tx.put(ring::TxSlot::from(request));
        (void)guest.tx.push_and_check_notify();
        const std::uint64_t before = tx->counters().copied_bytes;
        EXPECT_EQ(turn(), 0U);
        EXPECT_EQ(port.sent.back().data, std::vector(frame.begin(), frame.end()));
        port.finish(1);
        (void)turn();
        return tx->counters().copied_bytes - before;
    };
    EXPECT_EQ(copied(14, 5, 0), 14U) << "nobody has to parse more";
    EXPECT_EQ(copied(54, 5, TxFlags::checksum_blank), 54U);
    EXPECT_EQ(copied(66, 8, TxFlags::checksum_blank), 66U);
    EXPECT_EQ(copied(54, 8, TxFlags::checksum_blank), 128U) << "TCP has options";
    EXPECT_EQ(copied(53, 5, TxFlags::checksum_blank), 128U);
    EXPECT_EQ(copied(14, 5, TxFlags::checksum_blank), 128U);
    EXPECT_EQ(copied(200, 5, TxFlags::checksum_blank), 128U);
}

TEST_F(StaticQueueTest, APortThatHoldsPacketsDoesNotHoldTheirSlotsForLong) {
    const auto a = page(xen::Access::read_only);
    port.defer = true;
    send({a}, {1500});
    copies.clear();
    ASSERT_TRUE(tx->gather(copies));
    (void)tx->publish(copies);
    port.room = false;
    tx->send(copies);
    ASSERT_NE(tx->hold_ends_ns(), 0);
    tx->release_held();
    EXPECT_FALSE(tx->uses(table.find(std::to_underlying(a.ref))));
    (void)turn();
    EXPECT_EQ(guest.tx_answers().size(), 1U);
    port.room = true;
    port.finish(1);
    (void)turn();
    EXPECT_EQ(guest.tx_answers().size(), 0U) << "once is enough";
    EXPECT_EQ(port.sent, expected);
}

TEST_F(StaticQueueTest, BuffersAreWrittenToDirectlyWhereTheGuestLetsUs) {
    const auto a = page(xen::Access::read_write);
    const auto b = page(xen::Access::read_write);
    const auto read_only = page(xen::Access::read_only);
    const auto other = guest.page(xen::Access::read_write);
    Frame frame;
    for (unsigned i = 0; i < 5000; ++i) {
        frame.data.push_back(static_cast<std::byte>(i * 7));
    }
    for (const auto& buffer : {a, b, a, other, read_only}) {
        guest.rx.put({.id = 511, .gref = std::to_underlying(buffer.ref)});
    }
    (void)guest.rx.push_and_check_notify();
    const auto arrived = [&](const ring::RxSlot& slot, const MockGuest::Page& in, std::size_t from) {
        const auto response = slot.response();
        ASSERT_GT(response.status, 0);
        EXPECT_EQ(std::memcmp(guest.memory.page(in.frame).data() + response.offset, frame.data.data() + from,
                              static_cast<std::size_t>(response.status)),
                  0);
    };
    port.to_receive = {frame};
    EXPECT_EQ(turn(), 0U);
    auto answers = guest.rx_answers();
    ASSERT_EQ(answers.size(), 2U);
    arrived(answers[0], a, 0);
    arrived(answers[1], b, 4096);
    port.to_receive = {frame};
    EXPECT_EQ(turn(), 1U) << "half by us, half by the hypervisor";
    answers = guest.rx_answers();
    ASSERT_EQ(answers.size(), 2U);
    arrived(answers[0], a, 0);
    arrived(answers[1], other, 4096);
    port.to_receive = {Frame{.data = std::vector<std::byte>(60), .offload = {}}};
    EXPECT_EQ(turn(), 1U);
    answers = guest.rx_answers();
    ASSERT_EQ(answers.size(), 1U);
    EXPECT_LT(answers[0].response().status, 0) << "a read-only entry is for TX alone";
    EXPECT_EQ(rx->counters().static_hits, 3U);
    EXPECT_EQ(rx->counters().static_misses, 2U);
}

TEST_F(StaticQueueTest, EachPacketWhoseCopyFailsIsCountedOnce) {
    const auto stays = page(xen::Access::read_write);
    const auto read_only = guest.page(xen::Access::read_only);
    // Two packets whose first page cannot be written to, the one with a page behind it that stays mapped.
    for (const auto& buffer : {read_only, stays, read_only}) {
        guest.rx.put({0, 0, std::to_underlying(buffer.ref)});
    }
    (void)guest.rx.push_and_check_notify();
    port.to_receive = {Frame{.data = std::vector<std::byte>(5000), .offload = {}},
                       Frame{.data = std::vector<std::byte>(60), .offload = {}}};
    EXPECT_EQ(turn(), 2U);
    EXPECT_EQ(guest.rx_answers().size(), 3U);
    EXPECT_EQ(rx->counters().drops[static_cast<std::size_t>(RxDrop::rx_grant_failed)], 2U);
    EXPECT_EQ(rx->counters().packets, 0U);
}

}  // namespace
}  // namespace uvif::netback
