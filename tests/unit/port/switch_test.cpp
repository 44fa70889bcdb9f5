// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <vector>

#include "port/null.hpp"
#include "port/switch_port.hpp"
#include "unit/port/packets.hpp"

namespace uvif {
namespace {

class SwitchTableTest : public testing::Test {
protected:
    Switch::MemberId join(SwitchMember& member, MacNumber mac) {
        member.mac = mac;
        return table.join(member);
    }

    Switch table;
    SwitchMember one, two;
};

TEST_F(SwitchTableTest, FindsWhoHasJoinedUntilHeLeaves) {
    const Switch::MemberId id = join(one, 0x00163e000001);
    ASSERT_NE(id, Switch::no_member);
    ASSERT_NE(join(two, 0x00163e000002), Switch::no_member);
    EXPECT_EQ(table.find(0x00163e000001), &one);
    EXPECT_EQ(table.find(0x00163e000002), &two);
    EXPECT_EQ(table.find(0x00163e000003), nullptr);
    table.leave(id);
    EXPECT_EQ(table.find(0x00163e000001), nullptr);
    EXPECT_EQ(table.find(0x00163e000002), &two);
}

TEST_F(SwitchTableTest, AnAddressOfAnotherMemberIsRefused) {
    ASSERT_NE(join(one, 1), Switch::no_member);
    EXPECT_EQ(join(two, 1), Switch::no_member);
    EXPECT_EQ(table.find(1), &one);
}

TEST_F(SwitchTableTest, LearnsAndFollowsAnAddressThatMoves) {
    const Switch::MemberId first = join(one, 1);
    const Switch::MemberId second = join(two, 2);
    table.learn(77, first);
    EXPECT_EQ(table.find(77), &one);
    table.learn(77, second);
    EXPECT_EQ(table.find(77), &two);
    EXPECT_EQ(one.learned, 0U);
    EXPECT_EQ(two.learned, 1U);
    table.leave(second);
    EXPECT_EQ(table.find(77), nullptr);
}

TEST_F(SwitchTableTest, NobodyTakesAMembersOwnAddress) {
    ASSERT_NE(join(one, 1), Switch::no_member);
    const Switch::MemberId thief = join(two, 2);
    table.learn(1, thief);
    EXPECT_EQ(table.find(1), &one);
    EXPECT_EQ(two.learned, 0U);
}

TEST_F(SwitchTableTest, WhoJoinsTakesHisAddressFromOneWhoOnlySentWithIt) {
    const Switch::MemberId thief = join(two, 2);
    table.learn(1, thief);
    ASSERT_NE(join(one, 1), Switch::no_member);
    EXPECT_EQ(table.find(1), &one);
    EXPECT_EQ(two.learned, 0U);
}

TEST_F(SwitchTableTest, AGuestFillsOnlyItsOwnShare) {
    const Switch::MemberId greedy = join(two, 2);
    for (MacNumber mac = 1000; mac < 100000; ++mac) {
        table.learn(mac, greedy);
    }
    EXPECT_EQ(two.learned, limits::switch_learned);
    ASSERT_NE(join(one, 1), Switch::no_member);
    EXPECT_EQ(table.find(1), &one);
}

TEST_F(SwitchTableTest, ForgetsWhoIsSilentButNoMember) {
    const Switch::MemberId id = join(one, 1);
    table.learn(77, id);
    table.learn(78, id);
    for (unsigned i = 0; i < limits::switch_ages; ++i) {
        table.age();
        table.learn(78, id);
    }
    table.age();
    EXPECT_EQ(table.find(77), nullptr);
    EXPECT_EQ(table.find(78), &one);
    EXPECT_EQ(table.find(1), &one);
    EXPECT_EQ(one.learned, 1U);
}

TEST_F(SwitchTableTest, WhoSendsFromBehindTheBridgeHasHisAddressBack) {
    const Switch::MemberId thief = join(one, 1);
    table.learn(77, thief);
    table.seen_outside(77);
    table.seen_outside(1);
    EXPECT_EQ(table.find(77), nullptr);
    EXPECT_EQ(table.find(1), &one) << "a member's own stays";
    EXPECT_EQ(one.learned, 0U);
}

TEST_F(SwitchTableTest, IsFullOneDay) {
    std::vector<std::unique_ptr<SwitchMember>> members;
    Switch::MemberId id = 0;
    while (id != Switch::no_member && members.size() <= limits::switch_members) {
        members.push_back(std::make_unique<SwitchMember>());
        id = join(*members.back(), 0x00163e000000 + members.size());
    }
    EXPECT_EQ(id, Switch::no_member);
    EXPECT_GT(members.size(), limits::switch_members / 2);
    table.leave(0);
    EXPECT_NE(join(one, 0x00163e000001), Switch::no_member);
}

// What goes past the bridge

struct Awake final : Waker {
    unsigned woken = 0;
    void wake() noexcept override { ++woken; }
};

/// A member with one port, which all its packets for others leave by a sink.
struct Seat {
    Seat(Switch& table, MacNumber mac, const SwitchFeatures& features) : id(Switch::no_member) {
        member.mac = mac;
        member.features = features;
        auto sink = NullPort::create({});
        port = std::make_unique<SwitchPort>(std::move(*sink), SwitchPort::Seat{table, member, 0, id}, awake);
        member.ports.push_back(port.get());
        id = table.join(member);
    }
    SwitchMember member;
    std::atomic<Switch::MemberId> id;
    Awake awake;
    std::unique_ptr<SwitchPort> port;
};

struct Case {
    const char* name;
    std::uint32_t length = 100;
    MacNumber to = 2;
    Offload offload = {};
    SwitchFeatures features = {};
    bool passed = true;
};

void PrintTo(const Case& c, std::ostream* out) {
    *out << c.name;
}

class SwitchPortTest : public testing::TestWithParam<Case> {};

TEST_P(SwitchPortTest, PassesOnWhatTheReceiverTakes) {
    const Case& c = GetParam();
    Switch table;
    Seat from(table, 1, {});
    Seat to(table, 2, c.features);
    frames::Octets octets =
        frames::ethernet(frames::type_ipv4) + frames::ipv4(protocol_tcp, c.length - 34) + frames::tcp();
    octets.resize(c.length);
    for (unsigned i = 0; i < 6; ++i) {
        octets[i] = static_cast<std::byte>(c.to >> (8 * (5 - i)));
        octets[6 + i] = static_cast<std::byte>(i == 5 ? 1 : 0);
    }
    Packets packets;
    Packet* const packet = packets.make(octets, c.offload);
    const std::array<Packet*, 1> batch{packet};
    from.port->classify(batch);
    EXPECT_EQ(packet->route != nullptr, c.passed);
    from.port->submit(batch);
    std::array<Packet*, 4> got{};
    ASSERT_EQ(to.port->take_passed(got), c.passed ? 1U : 0U);
    EXPECT_EQ(to.awake.woken, c.passed ? 1U : 0U);
    EXPECT_EQ(from.port->prefers_granted(), c.passed);
    if (c.passed) {
        EXPECT_EQ(got[0], packet);
        EXPECT_TRUE(packets.completed().empty());
        complete_from_elsewhere(got[0]);
    }
    EXPECT_EQ(packets.completed(), std::vector{packet->id});
}

constexpr Offload blank{.checksum_blank = true, .data_validated = true, .gso_type = GsoType::none, .gso_size = 0};
constexpr Offload segments{
    .checksum_blank = true, .data_validated = true, .gso_type = GsoType::tcpv4, .gso_size = 1448};

INSTANTIATE_TEST_SUITE_P(
    Cases, SwitchPortTest,
    testing::Values(
        Case{.name = "Whole"}, Case{.name = "Unknown", .to = 3, .passed = false},
        Case{.name = "Itself", .to = 1, .passed = false},
        Case{.name = "Broadcast", .to = 0xffffffffffff, .passed = false},
        Case{.name = "Multicast", .to = 0x01005e000001, .passed = false},
        Case{.name = "BlankChecksum", .offload = blank, .features = {.checksum_v4 = true}},
        Case{.name = "BlankChecksumNotTaken", .offload = blank, .features = {.checksum_v6 = true}, .passed = false},
        Case{.name = "Segments", .length = 20000, .offload = segments, .features = {.gso_v4 = true}},
        Case{.name = "SegmentsNotTaken",
             .length = 20000,
             .offload = segments,
             .features = {.gso_v6 = true},
             .passed = false},
        Case{.name = "SegmentsThatAreNoTcpOfThatVersion",
             .length = 20000,
             .offload = {.checksum_blank = true, .data_validated = true, .gso_type = GsoType::tcpv6, .gso_size = 1448},
             .features = {.gso_v6 = true},
             .passed = false},
        Case{.name = "LongerThanItsMtu", .length = 1515, .passed = false},
        Case{.name = "LongFrame", .length = 9000, .features = {.frame_max = 9018, .scatter_gather = true}},
        Case{
            .name = "LongFrameWithoutScatterGather", .length = 9000, .features = {.frame_max = 9018}, .passed = false}),
    [](const auto& test) { return test.param.name; });

/// One frame of `from` with the address `source`, for address 2. True: it was passed on.
bool passes(Seat& from, MacNumber source, Packets& packets) {
    frames::Octets octets = frames::ethernet(frames::type_ipv4) + frames::ipv4(protocol_tcp, 66) + frames::tcp();
    octets.resize(100);
    for (unsigned i = 0; i < 6; ++i) {
        octets[i] = static_cast<std::byte>(i == 5 ? 2 : 0);
        octets[6 + i] = static_cast<std::byte>(source >> (8 * (5 - i)));
    }
    Packet* const packet = packets.make(octets, {});
    const std::array<Packet*, 1> batch{packet};
    from.port->classify(batch);
    const bool passed = packet->route != nullptr;
    from.port->submit(batch);
    return passed;
}

TEST(SwitchPort, OwnAddressOnly) {
    Switch table;
    Seat from(table, 1, {});
    Seat to(table, 2, {});
    Packets packets;
    from.member.own_address_only = true;
    EXPECT_TRUE(passes(from, 1, packets));
    EXPECT_FALSE(passes(from, 3, packets));
    EXPECT_FALSE(passes(from, 2, packets));
    EXPECT_EQ(from.port->counters().submitted, 3U);
    EXPECT_EQ(from.port->counters().dropped_spoofed, 2U);
    EXPECT_EQ(from.port->counters().submit_dropped, 2U);
    EXPECT_EQ(table.find(3), nullptr) << "nothing is learned from it";
    from.member.own_address_only = false;
    EXPECT_TRUE(passes(from, 3, packets));
    EXPECT_EQ(table.find(3), &from.member);
    std::array<Packet*, 4> got{};
    for (Packet* packet : std::span(got).first(to.port->take_passed(got))) {
        complete_from_elsewhere(packet);
    }
    EXPECT_EQ(packets.completed().size(), 4U);
}

TEST(SwitchPort, NothingIsPassedOnBetweenTwoThatAreIsolated) {
    Switch table;
    Seat from(table, 1, {});
    Seat to(table, 2, {});
    Packets packets;
    from.member.isolated = true;
    EXPECT_TRUE(passes(from, 1, packets));
    to.member.isolated = true;
    EXPECT_FALSE(passes(from, 1, packets));
    from.member.isolated = false;
    EXPECT_TRUE(passes(from, 1, packets));
    std::array<Packet*, 4> got{};
    for (Packet* packet : std::span(got).first(to.port->take_passed(got))) {
        complete_from_elsewhere(packet);
    }
    EXPECT_EQ(packets.completed().size(), 3U);
}

}  // namespace
}  // namespace uvif
