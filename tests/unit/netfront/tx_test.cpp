// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <random>
#include <set>

#include "unit/netfront/scripted_backend.hpp"

namespace uvif::netfront {
namespace {

using ::testing::HasSubstr;

/// A packet of `lengths`, in fresh buffers.
Packet make_packet(TxPair& pair, const std::vector<std::uint32_t>& lengths) {
    Packet packet;
    packet.fragment_count =
        static_cast<std::uint16_t>(pair.front.allocate({packet.fragments.data(), lengths.size()}, true));
    EXPECT_EQ(packet.fragment_count, lengths.size());
    for (std::size_t i = 0; i < lengths.size(); ++i) {
        packet.fragments[i].length = lengths[i];
    }
    return packet;
}

TxQueue::Sent send(TxPair& pair, const Packet& packet) {
    return pair.front.send({&packet, 1}, pair.statistics);
}

TEST(NetfrontTx, one_packet_is_one_slot) {
    TxPair pair;
    Packet packet = make_packet(pair, {60});
    packet.fragments[0].data += 128;
    packet.offload = {.checksum_blank = true, .data_validated = true};
    EXPECT_EQ(send(pair, packet).packets, 1U);
    const auto slots = pair.take();
    ASSERT_EQ(slots.size(), 1U);
    const ring::TxRequest request = slots[0].request();
    EXPECT_EQ(request.gref, TxPair::first_ref + packet.fragments[0].buffer);
    EXPECT_EQ(request.id, packet.fragments[0].buffer);
    EXPECT_EQ(request.offset, 128);
    EXPECT_EQ(request.size, 60);
    EXPECT_EQ(request.flags.bits, ring::TxFlags::checksum_blank | ring::TxFlags::data_validated);
    EXPECT_EQ(pair.statistics.tx_packets, 1U);
    EXPECT_EQ(pair.statistics.tx_bytes, 60U);
}

TEST(NetfrontTx, a_chain_tells_its_total_first_and_carries_flags_only_there) {
    TxPair pair;
    Packet packet = make_packet(pair, {100, 4096, 7});
    packet.offload = {.checksum_blank = true, .gso_type = GsoType::tcpv6, .gso_size = 1400};
    EXPECT_EQ(send(pair, packet).packets, 1U);
    const auto slots = pair.take();
    ASSERT_EQ(slots.size(), 4U);
    EXPECT_EQ(slots[0].request().size, 4203);
    EXPECT_EQ(slots[0].request().flags.bits,
              ring::TxFlags::checksum_blank | ring::TxFlags::more_data | ring::TxFlags::extra_info);
    EXPECT_EQ(slots[1].extra().type, static_cast<std::uint8_t>(ring::ExtraType::gso));
    EXPECT_EQ(slots[1].extra().flags, 0);
    EXPECT_EQ(slots[1].extra().gso_size(), 1400);
    EXPECT_EQ(slots[1].extra().gso_type(), static_cast<std::uint8_t>(GsoType::tcpv6));
    EXPECT_EQ(slots[2].request().size, 4096);
    EXPECT_EQ(slots[2].request().flags.bits, ring::TxFlags::more_data);
    EXPECT_EQ(slots[3].request().size, 7);
    EXPECT_EQ(slots[3].request().flags.bits, 0);
    // Answered out of order, and the extra with NULL: all three buffers come home.
    EXPECT_EQ(pair.free_buffers(), 221U);
    for (const std::uint32_t i : {2U, 0U}) {
        pair.answer(static_cast<std::uint16_t>(packet.fragments[i].buffer));
    }
    pair.answer(0xffff, ring::TxStatus::null);
    pair.answer(static_cast<std::uint16_t>(packet.fragments[1].buffer));
    static_cast<void>(pair.publish());
    EXPECT_EQ(pair.front.reap(pair.statistics), nullptr);
    EXPECT_EQ(pair.free_buffers(), 224U);
    EXPECT_EQ(pair.front.in_flight(), 0U);
    EXPECT_EQ(pair.statistics.tx_errors, 0U);
}

TEST(NetfrontTx, the_largest_packet_fits_sixteen_whole_pages) {
    TxPair pair;
    std::vector<std::uint32_t> lengths(16, 4096);
    lengths.back() = 4095;
    EXPECT_EQ(send(pair, make_packet(pair, lengths)).error, 0);
    EXPECT_EQ(pair.take()[0].request().size, 65535);
}

TEST(NetfrontTx, buffers_begin_at_different_lines_and_leave_room_for_a_frame) {
    TxPair pair;
    std::vector<Fragment> all(224);
    ASSERT_EQ(pair.front.allocate(all, false), 224U);
    std::set<std::uintptr_t> offsets;
    for (const Fragment& fragment : all) {
        const auto offset = reinterpret_cast<std::uintptr_t>(fragment.data) % 4096;
        offsets.insert(offset);
        EXPECT_EQ(offset % 64, 0U);
        EXPECT_GE(fragment.length, 2048U);
        EXPECT_EQ(offset + fragment.length, 4096U);
    }
    EXPECT_EQ(offsets.size(), 32U);
    EXPECT_EQ(pair.front.allocate(all, false), 0U);
}

constexpr TxFeatures everything{true, true, true, true, true};

/// A packet with its headers in a slot of the header area.
Packet make_header_packet(TxPair& pair, std::uint32_t header, const std::vector<std::uint32_t>& payload) {
    Packet packet;
    EXPECT_EQ(pair.front.allocate_headers({packet.fragments.data(), 1}), 1U);
    packet.fragments[0].length = header;
    EXPECT_EQ(pair.front.allocate({packet.fragments.data() + 1, payload.size()}, true), payload.size());
    for (std::size_t i = 0; i < payload.size(); ++i) {
        packet.fragments[1 + i].length = payload[i];
    }
    packet.fragment_count = static_cast<std::uint16_t>(1 + payload.size());
    return packet;
}

TEST(NetfrontTxHeaders, go_first_from_slots_of_few_pages_and_come_home_by_their_own_numbers) {
    TxPair pair(224, everything, 0xfffffff0, 256);
    EXPECT_EQ(pair.free_headers(), 256U);
    std::vector<Packet> packets;
    std::set<std::uint16_t> ids;
    std::set<std::uint32_t> header_refs;
    for (std::uint32_t i = 0; i < 100; ++i) {
        packets.push_back(make_header_packet(pair, 54, {1000}));
        EXPECT_EQ(packets.back().fragments[0].data,
                  pair.memory.page(225) + (packets.back().fragments[0].buffer - 256) * 256);
    }
    EXPECT_EQ(pair.front.send(packets, pair.statistics).packets, 100U);
    const auto slots = pair.take();
    ASSERT_EQ(slots.size(), 200U);
    for (std::size_t i = 0; i < slots.size(); i += 2) {
        const ring::TxRequest header = slots[i].request();
        const ring::TxRequest payload = slots[i + 1].request();
        EXPECT_EQ(header.size, 1054);
        EXPECT_EQ(header.flags.bits, ring::TxFlags::more_data);
        EXPECT_EQ(header.offset % 256, 0);
        EXPECT_GE(header.gref, TxPair::first_ref + 224);
        EXPECT_EQ(payload.size, 1000);
        EXPECT_LT(payload.gref, TxPair::first_ref + 224);
        header_refs.insert(header.gref);
        ids.insert(header.id);
        ids.insert(payload.id);
    }
    EXPECT_EQ(header_refs.size(), 7U) << "sixteen to a page";
    EXPECT_EQ(ids.size(), 200U);
    EXPECT_EQ(pair.free_headers(), 156U);
    for (const std::uint16_t id : ids) {
        pair.answer(id);
    }
    static_cast<void>(pair.publish());
    EXPECT_EQ(pair.front.reap(pair.statistics), nullptr);
    EXPECT_EQ(pair.free_headers(), 256U);
    EXPECT_EQ(pair.free_buffers(), 224U);
}

TEST(NetfrontTxHeaders, a_short_packet_fits_a_slot_and_the_largest_one_behind_it) {
    TxPair pair(224, everything, 0, 16);
    EXPECT_EQ(send(pair, make_header_packet(pair, 256, {})).packets, 1U);
    std::vector<std::uint32_t> payload(16, 4096);
    payload.back() = 4095 - 66;
    EXPECT_EQ(send(pair, make_header_packet(pair, 66, payload)).packets, 1U);
    const auto slots = pair.take();
    ASSERT_EQ(slots.size(), 18U);
    EXPECT_EQ(slots[0].request().size, 256);
    EXPECT_EQ(slots[1].request().size, 65535);
}

TEST(NetfrontTxHeaders, are_none_where_none_were_asked_for) {
    TxPair pair;
    EXPECT_EQ(pair.free_headers(), 0U);
    Packet packet = make_packet(pair, {60});
    packet.fragments[0].buffer = 256;
    EXPECT_EQ(send(pair, packet).error, EINVAL);
}

TEST(NetfrontTxHeaders, are_refused_elsewhere_and_stay_with_the_application) {
    const auto refused = [](void (*spoil)(Packet&)) {
        TxPair pair(224, everything, 0, 20);
        const Packet good = make_header_packet(pair, 54, {100, 100});
        Packet bad = good;
        spoil(bad);
        EXPECT_EQ(send(pair, bad).error, EINVAL);
        EXPECT_EQ(send(pair, good).packets, 1U) << "all of it is still the application's";
        EXPECT_EQ(send(pair, good).error, EINVAL) << "and now none of it";
        pair.front.free({good.fragments.data(), 3});
        EXPECT_EQ(pair.free_headers(), 19U);
    };
    refused([](Packet& p) { std::swap(p.fragments[0], p.fragments[1]); });
    refused([](Packet& p) { p.fragments[2] = p.fragments[0]; });
    refused([](Packet& p) { p.fragments[0].length = 257; });
    refused([](Packet& p) { p.fragments[0].length = 13; });
    refused([](Packet& p) { p.fragments[0].data += 203; });
    refused([](Packet& p) { p.fragments[0].data -= 1; });
    refused([](Packet& p) { p.fragments[0].data += 256; });
    refused([](Packet& p) { p.fragments[0].buffer += 1; });
    refused([](Packet& p) { p.fragments[0].buffer = 256 + 20; });
    refused([](Packet& p) { p.fragments[0].buffer = 256 + 19; });  // there, and not allocated
    refused([](Packet& p) { p.fragments[0].buffer = 255; });
}

TEST(NetfrontTxHeaders, that_the_backend_does_not_hold_are_no_answers) {
    for (const std::uint16_t id : {std::uint16_t{256}, std::uint16_t{256 + 20}, std::uint16_t{511}}) {
        TxPair pair(224, everything, 0, 20);
        const Packet packet = make_header_packet(pair, 54, {100});
        const Packet held = make_header_packet(pair, 54, {100});
        ASSERT_EQ(packet.fragments[0].buffer, 256U);
        EXPECT_EQ(send(pair, packet).packets, 1U);
        pair.take();
        pair.answer(id == 256 ? static_cast<std::uint16_t>(held.fragments[0].buffer) : id);
        static_cast<void>(pair.publish());
        EXPECT_THAT(pair.front.reap(pair.statistics), HasSubstr("not in flight")) << id;
    }
}

TEST(NetfrontTxGroups, are_asked_for_by_a_request_without_data) {
    TxPair pair(224, {.scatter_gather = true, .groups = true}, 0, 16);
    const std::array<std::uint8_t, 6> group{0x01, 0x00, 0x5e, 0, 0, 9};
    bool notify = false;
    EXPECT_EQ(pair.front.ask_for_group(ring::ExtraType::mcast_add, group, notify), 0);
    EXPECT_TRUE(notify);
    EXPECT_EQ(pair.front.ask_for_group(ring::ExtraType::mcast_del, group, notify), 0);
    const auto slots = pair.take();
    ASSERT_EQ(slots.size(), 4U);
    EXPECT_EQ(slots[0].request().flags.bits, ring::TxFlags::extra_info);
    EXPECT_EQ(slots[1].extra().type, 2);
    EXPECT_EQ(slots[1].extra().flags, 0);
    EXPECT_EQ(slots[1].extra().data, group);
    EXPECT_EQ(slots[3].extra().type, 3);
    for (const auto status : {ring::TxStatus::okay, ring::TxStatus::error}) {
        pair.answer(slots[0].request().id, status);
        pair.answer(0, ring::TxStatus::null);
    }
    static_cast<void>(pair.publish());
    EXPECT_EQ(pair.front.reap(pair.statistics), nullptr);
    EXPECT_EQ(pair.statistics.groups_refused, 1U);
    EXPECT_EQ(pair.statistics.tx_packets, 0U);
    EXPECT_EQ(pair.statistics.tx_errors, 0U);
    EXPECT_EQ(pair.front.ask_for_group(ring::ExtraType::mcast_add, group, notify), 0);
    pair.take();
    pair.answer(slots[0].request().id);
    pair.answer(slots[0].request().id);
    static_cast<void>(pair.publish());
    EXPECT_THAT(pair.front.reap(pair.statistics), HasSubstr("not in flight")) << "answered twice";
}

TEST(NetfrontTxGroups, that_cannot_be_are_refused_at_once) {
    const std::array<std::uint8_t, 6> group{0x33, 0x33, 0, 0, 0, 1};
    const std::array<std::uint8_t, 6> host{0x00, 0x16, 0x3e, 0, 0, 1};
    bool notify = true;
    TxPair without;
    EXPECT_EQ(without.front.ask_for_group(ring::ExtraType::mcast_add, group, notify), EOPNOTSUPP);
    EXPECT_FALSE(notify);
    TxPair pair(256, {.scatter_gather = true, .groups = true});
    EXPECT_EQ(pair.front.ask_for_group(ring::ExtraType::mcast_add, host, notify), EINVAL);
    for (int i = 0; i < 128; ++i) {
        EXPECT_EQ(pair.front.ask_for_group(ring::ExtraType::mcast_add, group, notify), 0);
    }
    EXPECT_EQ(pair.front.ask_for_group(ring::ExtraType::mcast_add, group, notify), EAGAIN);
    EXPECT_EQ(pair.take().size(), 256U);
}

struct Refusal {
    const char* name;
    int error;
    void (*spoil)(Packet&);
    std::vector<std::uint32_t> lengths = {100};
    TxFeatures features = {true, true, true, true, true};
};

class NetfrontTxRefuses : public ::testing::TestWithParam<Refusal> {};

TEST_P(NetfrontTxRefuses, and_leaves_the_buffers_with_the_application) {
    const Refusal& refusal = GetParam();
    TxPair pair(224, refusal.features);
    const Packet good = make_packet(pair, {64});
    Packet bad = make_packet(pair, refusal.lengths);
    const Packet original = bad;
    refusal.spoil(bad);
    const std::array<Packet, 3> run{good, bad, make_packet(pair, {64})};
    const TxQueue::Sent sent = pair.front.send(run, pair.statistics);
    EXPECT_EQ(sent.packets, 1U) << "the run ends at the bad packet";
    EXPECT_EQ(sent.error, refusal.error);
    EXPECT_EQ(pair.take().size(), 1U);
    pair.front.free({original.fragments.data(), refusal.lengths.size()});
    pair.front.free({run[2].fragments.data(), 1});
    EXPECT_EQ(pair.free_buffers(), 223U);
}

INSTANTIATE_TEST_SUITE_P(
    table, NetfrontTxRefuses,
    ::testing::Values(
        Refusal{"no_fragment", EINVAL, [](Packet& p) { p.fragment_count = 0; }},
        Refusal{"short_header", EINVAL, [](Packet& p) { p.fragments[0].length = 13; }},
        Refusal{"empty_fragment", EINVAL, [](Packet& p) { p.fragments[1].length = 0; }, {100, 100}},
        Refusal{"beyond_the_page", EINVAL, [](Packet& p) { p.fragments[0].length = 4097; }},
        Refusal{"beyond_the_page_by_offset", EINVAL, [](Packet& p) { p.fragments[0].data += 4000; }},
        Refusal{"before_the_buffer", EINVAL, [](Packet& p) { p.fragments[0].data -= 1; }},
        Refusal{"another_buffers_page", EINVAL, [](Packet& p) { p.fragments[0].data += 4096; }},
        Refusal{"no_such_buffer", EINVAL, [](Packet& p) { p.fragments[0].buffer = 224; }},
        Refusal{"huge_buffer_number", EINVAL, [](Packet& p) { p.fragments[0].buffer = 0xffffffff; }},
        Refusal{"buffer_not_allocated", EINVAL, [](Packet& p) { p.fragments[0].buffer = 200; }},
        Refusal{"same_buffer_twice", EINVAL, [](Packet& p) { p.fragments[1] = p.fragments[0]; }, {100, 100}},
        Refusal{"too_long", EMSGSIZE, [](Packet&) {}, std::vector<std::uint32_t>(17, 4096)},
        Refusal{"one_octet_too_long", EMSGSIZE, [](Packet&) {}, std::vector<std::uint32_t>(16, 4096)},
        Refusal{"too_many_fragments", EMSGSIZE, [](Packet&) {}, std::vector<std::uint32_t>(19, 20)},
        Refusal{"absurd_count", EMSGSIZE, [](Packet& p) { p.fragment_count = 0xffff; }},
        Refusal{"chain_without_sg", EOPNOTSUPP, [](Packet&) {}, {100, 100}, {false, true, true, true, true}},
        Refusal{"gso4_not_offered",
                EOPNOTSUPP,
                [](Packet& p) { p.offload = {.gso_type = GsoType::tcpv4, .gso_size = 1}; },
                {100},
                {true, false, true, true, true}},
        Refusal{"gso6_not_offered",
                EOPNOTSUPP,
                [](Packet& p) { p.offload = {.gso_type = GsoType::tcpv6, .gso_size = 1}; },
                {100},
                {true, true, false, true, true}},
        Refusal{"gso_without_size", EINVAL, [](Packet& p) { p.offload.gso_type = GsoType::tcpv4; }},
        Refusal{"size_without_gso", EINVAL, [](Packet& p) { p.offload.gso_size = 5; }},
        Refusal{"unknown_gso", EINVAL,
                [](Packet& p) { p.offload = {.gso_type = static_cast<GsoType>(3), .gso_size = 9}; }},
        Refusal{"blank_checksum_never_taken",
                EOPNOTSUPP,
                [](Packet& p) { p.offload.checksum_blank = true; },
                {100},
                {true, true, true, false, false}}),
    [](const auto& test) { return test.param.name; });

TEST(NetfrontTx, a_full_ring_is_no_error) {
    TxPair pair(256);
    std::vector<Packet> packets;
    for (int i = 0; i < 200; ++i) {  // two slots each
        packets.push_back(make_packet(pair, {100}));
        packets.back().offload = {.checksum_blank = true, .gso_type = GsoType::tcpv4, .gso_size = 1000};
    }
    const TxQueue::Sent sent = pair.front.send(packets, pair.statistics);
    EXPECT_EQ(sent.packets, 128U);
    EXPECT_EQ(sent.error, 0);
    EXPECT_EQ(pair.front.in_flight(), 256U);
    EXPECT_EQ(pair.take().size(), 256U);
}

TEST(NetfrontTx, notifies_once_and_only_when_asked) {
    TxPair pair;
    EXPECT_TRUE(send(pair, make_packet(pair, {60})).notify) << "a fresh ring asks";
    EXPECT_FALSE(send(pair, make_packet(pair, {60})).notify);
    EXPECT_EQ(pair.take().size(), 2U);
    EXPECT_TRUE(pair.back.arm());
    const std::array<Packet, 2> run{make_packet(pair, {60}), make_packet(pair, {60})};
    EXPECT_TRUE(pair.front.send(run, pair.statistics).notify);
}

TEST(NetfrontTx, an_error_counts_once_a_packet) {
    TxPair pair;
    const Packet failed = make_packet(pair, {100, 100, 100});
    const Packet dropped = make_packet(pair, {100});
    EXPECT_EQ(send(pair, failed).packets, 1U);
    EXPECT_EQ(send(pair, dropped).packets, 1U);
    pair.take();
    for (std::size_t i = 0; i < 3; ++i) {
        pair.answer(static_cast<std::uint16_t>(failed.fragments[i].buffer), ring::TxStatus::error);
    }
    pair.answer(static_cast<std::uint16_t>(dropped.fragments[0].buffer), ring::TxStatus::dropped);
    static_cast<void>(pair.publish());
    EXPECT_EQ(pair.front.reap(pair.statistics), nullptr);
    EXPECT_EQ(pair.statistics.tx_errors, 2U);
    EXPECT_EQ(pair.free_buffers(), 224U);
}

TEST(NetfrontTx, freeing_what_is_not_ones_own_changes_nothing) {
    TxPair pair;
    std::array<Fragment, 2> buffers{};
    ASSERT_EQ(pair.front.allocate(buffers, false), 2U);
    pair.front.free(buffers);
    pair.front.free(buffers);
    EXPECT_EQ(pair.free_buffers(), 224U);
    const Packet sent = make_packet(pair, {100});
    EXPECT_EQ(send(pair, sent).packets, 1U);
    pair.front.free({sent.fragments.data(), 1});
    Fragment wild = sent.fragments[0];
    wild.buffer = 12345;
    pair.front.free({&wild, 1});
    EXPECT_EQ(pair.free_buffers(), 223U);
    EXPECT_EQ(send(pair, sent).error, EINVAL) << "it is the backend's now";
}

TEST(NetfrontTxBreach, more_answers_than_requests) {
    TxPair pair;
    EXPECT_EQ(send(pair, make_packet(pair, {100})).packets, 1U);
    ring::TxBackRing::Shared shared(pair.memory.page(0));
    shared.rsp_prod().store(2);
    EXPECT_THAT(pair.front.reap(pair.statistics), HasSubstr("more answers"));
}

TEST(NetfrontTxBreach, ids_that_are_not_in_flight) {
    for (const std::uint16_t id : {std::uint16_t{0xffff}, std::uint16_t{256}, std::uint16_t{224}, std::uint16_t{5}}) {
        TxPair pair;
        const Packet packet = make_packet(pair, {100});
        ASSERT_NE(packet.fragments[0].buffer, id);
        EXPECT_EQ(send(pair, packet).packets, 1U);
        pair.take();
        pair.answer(id);
        static_cast<void>(pair.publish());
        EXPECT_THAT(pair.front.reap(pair.statistics), HasSubstr("not in flight")) << id;
    }
}

TEST(NetfrontTxBreach, an_id_of_a_buffer_that_the_application_holds) {
    TxPair pair;
    const Packet held = make_packet(pair, {100});
    EXPECT_EQ(send(pair, make_packet(pair, {100})).packets, 1U);
    pair.take();
    pair.answer(static_cast<std::uint16_t>(held.fragments[0].buffer));
    static_cast<void>(pair.publish());
    EXPECT_THAT(pair.front.reap(pair.statistics), HasSubstr("not in flight"));
}

TEST(NetfrontTxBreach, the_same_id_twice) {
    TxPair pair;
    const Packet first = make_packet(pair, {100});
    EXPECT_EQ(send(pair, first).packets, 1U);
    EXPECT_EQ(send(pair, make_packet(pair, {100})).packets, 1U);
    pair.take();
    pair.answer(static_cast<std::uint16_t>(first.fragments[0].buffer));
    pair.answer(static_cast<std::uint16_t>(first.fragments[0].buffer));
    static_cast<void>(pair.publish());
    EXPECT_THAT(pair.front.reap(pair.statistics), HasSubstr("not in flight"));
}

TEST(NetfrontTxBreach, null_for_an_extra_that_was_not_sent) {
    TxPair pair;
    const Packet packet = make_packet(pair, {100});
    EXPECT_EQ(send(pair, packet).packets, 1U);
    pair.take();
    pair.answer(static_cast<std::uint16_t>(packet.fragments[0].buffer), ring::TxStatus::null);
    static_cast<void>(pair.publish());
    EXPECT_THAT(pair.front.reap(pair.statistics), HasSubstr("extra slot"));
}

TEST(NetfrontTx, patient_arming_waits_for_half_but_never_past_an_answer) {
    TxPair pair;
    std::vector<std::uint16_t> ids;
    for (int i = 0; i < 10; ++i) {
        const Packet packet = make_packet(pair, {100});
        ids.push_back(static_cast<std::uint16_t>(packet.fragments[0].buffer));
        EXPECT_EQ(send(pair, packet).packets, 1U);
    }
    pair.take();
    EXPECT_TRUE(pair.front.arm(true));
    for (int i = 0; i < 5; ++i) {
        pair.answer(ids[static_cast<std::size_t>(i)]);
        EXPECT_FALSE(pair.publish()) << i;
    }
    pair.answer(ids[5]);
    EXPECT_TRUE(pair.publish());
    EXPECT_FALSE(pair.front.arm(true)) << "answers stand there";
    EXPECT_EQ(pair.front.reap(pair.statistics), nullptr);
    EXPECT_TRUE(pair.front.arm(false));
    pair.answer(ids[6]);
    EXPECT_TRUE(pair.publish());
    EXPECT_FALSE(pair.front.arm(true)) << "one answer of four stands there, and nobody sleeps over it";
}

constexpr std::uint16_t extra_id = 0xdead;

/// Stands for a slot that has to be answered NULL.
ring::TxSlot an_extra() {
    ring::TxRequest request;
    request.id = extra_id;
    return ring::TxSlot::from(request);
}

/// Random traffic and answers in random order: every buffer comes home, also across the wrap of the indices.
TEST(NetfrontTx, buffers_survive_random_traffic_across_the_wrap) {
    for (const ring::Index start : {0U, 0xffffff00U, 0xfffffff0U}) {
        TxPair pair(100, everything, start, 30);
        std::mt19937 random(start + 1);
        std::vector<ring::TxSlot> owed;
        for (int round = 0; round < 2000; ++round) {
            std::vector<std::uint32_t> lengths(1 + random() % 18, 0);
            std::ranges::generate(lengths, [&] { return 14 + static_cast<std::uint32_t>(random() % 3000); });
            Packet packet;
            std::size_t got = random() % 2 == 0 ? pair.front.allocate_headers({packet.fragments.data(), 1}) : 0;
            got += pair.front.allocate(std::span(packet.fragments).subspan(got, lengths.size() - got), true);
            packet.fragment_count = static_cast<std::uint16_t>(got);
            for (std::size_t i = 0; i < got; ++i) {
                packet.fragments[i].length = packet.fragments[i].buffer < 256 ? lengths[i] : 14 + lengths[i] % 243;
            }
            if (random() % 2 == 0) {
                packet.offload = {.checksum_blank = true, .gso_type = GsoType::tcpv4, .gso_size = 1448};
            }
            if (got == 0 || send(pair, packet).packets == 0) {
                pair.front.free({packet.fragments.data(), got});
            }
            bool extra = false;
            for (const ring::TxSlot& slot : pair.take()) {
                owed.push_back(extra ? an_extra() : slot);
                extra = !extra && slot.request().flags.has(ring::TxFlags::extra_info);
            }
            std::ranges::shuffle(owed, random);
            for (std::size_t n = random() % (owed.size() + 1); n != 0; --n) {
                const std::uint16_t id = owed.back().request().id;
                owed.pop_back();
                pair.answer(id, id == extra_id ? ring::TxStatus::null : ring::TxStatus::okay);
            }
            static_cast<void>(pair.publish());
            ASSERT_EQ(pair.front.reap(pair.statistics), nullptr);
        }
        while (!owed.empty()) {
            const std::uint16_t id = owed.back().request().id;
            owed.pop_back();
            pair.answer(id, id == extra_id ? ring::TxStatus::null : ring::TxStatus::okay);
        }
        static_cast<void>(pair.publish());
        ASSERT_EQ(pair.front.reap(pair.statistics), nullptr);
        EXPECT_EQ(pair.front.in_flight(), 0U);
        EXPECT_EQ(pair.free_buffers(), 100U);
        EXPECT_EQ(pair.free_headers(), 30U);
        EXPECT_GT(pair.statistics.tx_packets, 300U);
    }
}

}  // namespace
}  // namespace uvif::netfront
