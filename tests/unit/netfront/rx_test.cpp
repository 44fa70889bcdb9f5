// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "unit/netfront/scripted_backend.hpp"

namespace uvif::netfront {
namespace {

using ring::RxFlags;
using ::testing::HasSubstr;

constexpr std::uint16_t more = RxFlags::more_data;
constexpr std::uint16_t extra = RxFlags::extra_info;

TEST(NetfrontRx, keeps_the_ring_full_with_ids_that_are_positions) {
    RxPair pair;
    std::set<std::uint32_t> grefs;
    for (std::uint32_t i = 0; i < 256; ++i) {
        const ring::RxRequest request = pair.take();
        EXPECT_EQ(request.id, i);
        grefs.insert(request.gref);
    }
    EXPECT_EQ(grefs.size(), 256U);
    EXPECT_EQ(pair.back.available(), 0U);
}

TEST(NetfrontRx, one_slot_is_one_packet_where_the_backend_wrote_it) {
    RxPair pair;
    const ring::RxRequest request = pair.answer(60, RxFlags::checksum_blank, 2);
    static_cast<void>(pair.publish());
    EXPECT_EQ(pair.receive().packets, 1U);
    const Packet& packet = pair.packets[0];
    EXPECT_EQ(packet.length, 60U);
    EXPECT_EQ(packet.fragment_count, 1U);
    EXPECT_EQ(packet.fragments[0].data, pair.buffer_of(request) + 2);
    EXPECT_EQ(packet.fragments[0].length, 60U);
    EXPECT_GE(packet.fragments[0].buffer, RxPair::first_buffer);
    EXPECT_EQ(packet.offload, (Offload{.checksum_blank = true}));
    EXPECT_EQ(pair.front.lent(), 1U);
    static_cast<void>(pair.front.release(pair.packets));
    pair.expect_all_posted();
}

TEST(NetfrontRx, a_chain_with_gso_becomes_one_packet) {
    RxPair pair;
    std::vector<ring::RxRequest> requests;
    requests.push_back(pair.answer(4096, more | extra | RxFlags::checksum_blank | RxFlags::data_validated));
    ring::ExtraInfo hash;
    hash.type = static_cast<std::uint8_t>(ring::ExtraType::hash);
    ring::ExtraInfo gso = ring::ExtraInfo::gso(GsoType::tcpv4, 1448);
    gso.flags = ring::ExtraInfo::more;
    pair.extra(gso);
    pair.extra(hash);
    requests.push_back(pair.answer(4096, more));
    requests.push_back(pair.answer(100));
    static_cast<void>(pair.publish());
    EXPECT_EQ(pair.receive().packets, 1U);
    const Packet& packet = pair.packets[0];
    EXPECT_EQ(packet.length, 8292U);
    ASSERT_EQ(packet.fragment_count, 3U);
    for (std::size_t i = 0; i < 3; ++i) {
        EXPECT_EQ(packet.fragments[i].data, pair.buffer_of(requests[i]));
    }
    EXPECT_EQ(packet.offload, (Offload{true, true, GsoType::tcpv4, 1448}));
    EXPECT_EQ(pair.front.lent(), 3U) << "the buffers of the extras went back to the ring";
    static_cast<void>(pair.front.release(pair.packets));
    pair.expect_all_posted();
    EXPECT_EQ(pair.statistics.rx_slots, 5U);
}

TEST(NetfrontRx, nineteen_slots_pass_and_twenty_are_given_up) {
    for (const int slots : {18, 19, 20, 40}) {
        RxPair pair;
        for (int i = 1; i <= slots; ++i) {
            pair.answer(100, i < slots ? more : 0);
        }
        pair.answer(77);
        static_cast<void>(pair.publish());
        const auto received = pair.receive();
        EXPECT_EQ(received.breach, nullptr);
        EXPECT_EQ(received.packets, slots <= 19 ? 2U : 1U) << slots;
        EXPECT_EQ(pair.packets.back().length, 77U);
        EXPECT_EQ(pair.statistics.rx_errors, slots <= 19 ? 0U : 1U);
        static_cast<void>(pair.front.release(pair.packets));
        pair.expect_all_posted();
    }
}

struct BadSlot {
    const char* name;
    std::vector<ring::RxResponse> slots;  // ids are filled in
};

std::vector<ring::RxResponse> one_octet_too_long() {
    std::vector<ring::RxResponse> slots(16, {0, 0, {more}, 4096});
    slots.back().flags = {};
    return slots;
}

class NetfrontRxGivesUp : public ::testing::TestWithParam<BadSlot> {};

TEST_P(NetfrontRxGivesUp, the_packet_and_nothing_else) {
    RxPair pair;
    pair.answer(60);
    for (const ring::RxResponse& slot : GetParam().slots) {
        pair.answer(slot.status, slot.flags.bits, slot.offset);
    }
    pair.answer(40, more);
    pair.answer(21);
    static_cast<void>(pair.publish());
    const auto received = pair.receive();
    EXPECT_EQ(received.breach, nullptr);
    ASSERT_EQ(received.packets, 2U);
    EXPECT_EQ(pair.packets[1].length, 61U);
    EXPECT_EQ(pair.statistics.rx_errors, 1U);
    EXPECT_EQ(pair.front.lent(), 3U);
    static_cast<void>(pair.front.release(pair.packets));
    pair.expect_all_posted();
}

INSTANTIATE_TEST_SUITE_P(
    table, NetfrontRxGivesUp,
    ::testing::Values(BadSlot{"error", {{0, 0, {}, -1}}}, BadSlot{"error_with_offset", {{0, 100, {}, -1}}},
                      BadSlot{"error_that_a_sum_would_hide", {{0, 100, {more}, -1}, {0, 0, {}, 50}}},
                      BadSlot{"worst_error", {{0, 0, {}, -32768}}},
                      BadSlot{"error_first", {{0, 0, {more}, -1}, {0, 0, {}, 100}}},
                      BadSlot{"error_in_the_middle", {{0, 0, {more}, 100}, {0, 0, {more}, -1}, {0, 0, {}, 100}}},
                      BadSlot{"longer_than_a_page", {{0, 0, {}, 4097}}}, BadSlot{"offset_beyond", {{0, 4000, {}, 97}}},
                      BadSlot{"huge_offset", {{0, 65535, {}, 32767}}}, BadSlot{"short_of_a_header", {{0, 0, {}, 13}}},
                      BadSlot{"empty", {{0, 0, {}, 0}}}, BadSlot{"empty_chain", {{0, 0, {more}, 0}, {0, 0, {}, 0}}},
                      BadSlot{"too_long", one_octet_too_long()}),
    [](const auto& test) { return test.param.name; });

TEST(NetfrontRx, empty_slots_of_a_chain_bring_nothing) {
    RxPair pair;
    pair.answer(0, more);
    pair.answer(100, more);
    pair.answer(0, more);
    pair.answer(20);
    static_cast<void>(pair.publish());
    ASSERT_EQ(pair.receive().packets, 1U);
    EXPECT_EQ(pair.packets[0].fragment_count, 2U);
    EXPECT_EQ(pair.packets[0].length, 120U);
    static_cast<void>(pair.front.release(pair.packets));
    pair.expect_all_posted();
}

TEST(NetfrontRx, gso_that_cannot_be_is_given_up) {
    struct Case {
        std::uint8_t type;
        std::uint16_t size;
        RxFeatures features;
        std::size_t packets;
    };
    const Case cases[] = {{1, 1448, {true, true}, 1},  {2, 1448, {true, true}, 1}, {1, 0, {true, true}, 0},
                          {0, 1448, {true, true}, 0},  {3, 1448, {true, true}, 0}, {255, 1, {true, true}, 0},
                          {1, 1448, {false, true}, 0}, {2, 1448, {true, false}, 0}};
    for (const Case& c : cases) {
        RxPair pair(256, c.features);
        pair.answer(1000, extra);
        pair.extra(ring::ExtraInfo::gso(static_cast<GsoType>(c.type), c.size));
        static_cast<void>(pair.publish());
        const auto received = pair.receive();
        EXPECT_EQ(received.breach, nullptr);
        EXPECT_EQ(received.packets, c.packets) << int{c.type} << ' ' << c.size;
        static_cast<void>(pair.front.release(pair.packets));
        pair.expect_all_posted();
    }
}

TEST(NetfrontRx, an_unfinished_chain_waits_for_its_rest) {
    RxPair pair;
    pair.answer(100, more);
    static_cast<void>(pair.publish());
    EXPECT_EQ(pair.receive().packets, 0U);
    EXPECT_EQ(pair.receive().packets, 0U);
    EXPECT_TRUE(pair.front.arm());
    pair.answer(100, more);
    static_cast<void>(pair.publish());
    EXPECT_FALSE(pair.front.arm());
    EXPECT_EQ(pair.receive().packets, 0U);
    pair.answer(50);
    pair.answer(60, extra);
    static_cast<void>(pair.publish());
    ASSERT_EQ(pair.receive().packets, 1U);
    EXPECT_EQ(pair.packets[0].length, 250U);
    static_cast<void>(pair.front.release(pair.packets));
    pair.extra(ring::ExtraInfo::gso(GsoType::tcpv4, 7));
    static_cast<void>(pair.publish());
    ASSERT_EQ(pair.receive().packets, 1U);
    EXPECT_EQ(pair.packets[0].offload.gso_size, 7);
    static_cast<void>(pair.front.release(pair.packets));
    pair.expect_all_posted();
}

TEST(NetfrontRx, a_span_smaller_than_the_backlog_gets_the_rest_later) {
    RxPair pair;
    for (std::uint32_t i = 0; i < 10; ++i) {
        pair.answer(100, more);
        pair.answer(static_cast<std::int16_t>(20 + i));
    }
    static_cast<void>(pair.publish());
    for (std::uint32_t i = 0; i < 10; ++i) {
        ASSERT_EQ(pair.receive(1).packets, 1U);
        EXPECT_EQ(pair.packets[0].length, 120 + i);
        static_cast<void>(pair.front.release(pair.packets));
    }
    EXPECT_EQ(pair.receive(1).packets, 0U);
    pair.expect_all_posted();
}

TEST(NetfrontRxBreach, more_answers_than_requests) {
    RxPair pair;
    ring::RxBackRing::Shared shared(pair.memory.page(0));
    shared.rsp_prod().store(257);
    EXPECT_THAT(pair.receive().breach, HasSubstr("more answers"));
}

TEST(NetfrontRxBreach, an_id_that_is_not_of_its_slot) {
    for (const std::uint16_t id : {std::uint16_t{1}, std::uint16_t{256}, std::uint16_t{0xffff}}) {
        RxPair pair;
        pair.take();
        pair.respond(ring::RxSlot::from(ring::RxResponse{id, 0, {}, 60}));
        static_cast<void>(pair.publish());
        EXPECT_THAT(pair.receive().breach, HasSubstr("not that of the request")) << id;
    }
}

TEST(NetfrontRxBreach, an_id_inside_a_chain_that_is_not_of_its_slot) {
    RxPair pair;
    pair.answer(100, more);
    pair.take();
    pair.respond(ring::RxSlot::from(ring::RxResponse{0, 0, {}, 60}));
    static_cast<void>(pair.publish());
    EXPECT_THAT(pair.receive().breach, HasSubstr("not that of the request"));
}

TEST(NetfrontRxBreach, extras_of_unknown_types) {
    for (const std::uint8_t type : {std::uint8_t{0}, std::uint8_t{5}, std::uint8_t{255}}) {
        RxPair pair;
        pair.answer(100, extra);
        ring::ExtraInfo unknown;
        unknown.type = type;
        pair.extra(unknown);
        static_cast<void>(pair.publish());
        EXPECT_THAT(pair.receive().breach, HasSubstr("unknown type"));
    }
}

TEST(NetfrontRxBreach, extras_behind_the_first_slot) {
    RxPair pair;
    pair.answer(100, more);
    pair.answer(100, extra);
    static_cast<void>(pair.publish());
    EXPECT_THAT(pair.receive().breach, HasSubstr("behind the first"));
}

TEST(NetfrontRx, releasing_what_is_not_ones_own_changes_nothing) {
    RxPair pair;
    pair.answer(60);
    static_cast<void>(pair.publish());
    ASSERT_EQ(pair.receive().packets, 1U);
    std::vector<Packet> wild(3, pair.packets[0]);
    wild[1].fragments[0].buffer = 3;  // a TX buffer's number
    wild[2].fragment_count = 0xffff;
    for (std::size_t i = 1; i < max_fragments; ++i) {
        wild[2].fragments[i] = {nullptr, 0, 0xfffffff0};
    }
    static_cast<void>(pair.front.release(wild));
    static_cast<void>(pair.front.release(wild));
    EXPECT_EQ(pair.front.lent(), 0U);
    pair.expect_all_posted();
}

TEST(NetfrontRx, an_application_may_hold_every_buffer) {
    RxPair pair(64);
    for (int round = 0; round < 20; ++round) {
        for (int i = 0; i < 64; ++i) {
            pair.answer(60);
        }
        static_cast<void>(pair.publish());
        ASSERT_EQ(pair.receive(100).packets, 64U);
        EXPECT_EQ(pair.back.available(), 0U);
        const std::vector<Packet> held = pair.packets;
        EXPECT_EQ(pair.receive(1).packets, 0U);
        for (const Packet& packet : held) {
            static_cast<void>(pair.front.release({&packet, 1}));
        }
        pair.expect_all_posted();
    }
}

TEST(NetfrontRx, requests_are_published_in_batches_unless_few_are_left) {
    RxPair pair;
    for (int i = 0; i < 20; ++i) {
        pair.answer(60);
    }
    static_cast<void>(pair.publish());
    ASSERT_EQ(pair.receive(20).packets, 20U);
    const std::span<const Packet> packets(pair.packets);
    static_cast<void>(pair.front.release(packets.first(15)));
    EXPECT_EQ(pair.back.available(), 236U);
    static_cast<void>(pair.front.release(packets.subspan(15, 1)));
    EXPECT_EQ(pair.back.available(), 252U);
    static_cast<void>(pair.front.release(packets.subspan(16)));
    EXPECT_EQ(pair.receive(1).packets, 0U) << "a dry ring publishes all";
    EXPECT_EQ(pair.back.available(), 256U);

    RxPair few(19);
    few.answer(60);
    static_cast<void>(few.publish());
    ASSERT_EQ(few.receive(1).packets, 1U);
    static_cast<void>(few.front.release(few.packets));
    EXPECT_EQ(few.back.available(), 19U);
}

TEST(NetfrontRx, tells_the_backend_only_when_it_asked) {
    RxPair pair(19);
    for (int i = 0; i < 19; ++i) {
        pair.answer(60);
    }
    static_cast<void>(pair.publish());
    EXPECT_TRUE(pair.back.arm()) << "it waits for one more request";
    ASSERT_EQ(pair.receive(19).packets, 19U);
    const std::span<const Packet> packets(pair.packets);
    EXPECT_TRUE(pair.front.release(packets.first(1)));
    EXPECT_FALSE(pair.front.release(packets.subspan(1)));
}

/// A backend that writes anything at all into the answers, over and over: no buffer is lost, none is used twice, and
/// the queue either goes on or says that it was betrayed.
TEST(NetfrontRx, random_answers_lose_no_buffer) {
    unsigned breaches = 0;
    for (std::uint32_t seed = 0; seed < 400; ++seed) {
        const ring::Index start = seed % 2 == 0 ? 0 : 0xffffffc0;
        RxPair pair(20 + seed % 237, {true, seed % 3 == 0}, start);
        std::mt19937 random(seed);
        std::vector<Packet> held;
        bool betrayed = false;
        for (int round = 0; round < 60 && !betrayed; ++round) {
            for (ring::Index n = pair.back.available(); n != 0 && random() % 8 != 0; --n) {
                const ring::RxRequest request = pair.take();
                ring::RxResponse response{request.id, static_cast<std::uint16_t>(random() % 300), {}, 0};
                response.status = static_cast<std::int16_t>(random() % 5000);
                response.flags.bits = static_cast<std::uint16_t>(random() % 4 == 0 ? random() % 16 : random() % 8);
                if (random() % 500 == 0) {
                    response = std::bit_cast<ring::RxResponse>(std::uint64_t{random()} << 32 | random());
                }
                const bool is_extra = random() % 4 == 0;
                const ring::ExtraInfo gso = ring::ExtraInfo::gso(static_cast<GsoType>(random() % 4), 1000);
                pair.respond(is_extra ? ring::RxSlot::from(gso) : ring::RxSlot::from(response));
            }
            static_cast<void>(pair.publish());
            const auto received = pair.receive(1 + random() % 40);
            betrayed = received.breach != nullptr;
            if (betrayed) {
                break;
            }
            for (const Packet& packet : pair.packets) {
                std::uint32_t length = 0;
                for (std::size_t i = 0; i < packet.fragment_count; ++i) {
                    const Fragment& f = packet.fragments[i];
                    const std::byte* page = pair.memory.page(1 + f.buffer - RxPair::first_buffer);
                    ASSERT_GE(f.data, page);
                    ASSERT_LE(f.data + f.length, page + 4096);
                    ASSERT_GT(f.length, 0U);
                    length += f.length;
                }
                ASSERT_EQ(length, packet.length);
                ASSERT_GE(length, 14U);
                ASSERT_LE(length, 65535U);
                held.push_back(packet);
            }
            std::ranges::shuffle(held, random);
            const std::size_t keep = random() % (held.size() + 1);
            static_cast<void>(pair.front.release(std::span(held).subspan(keep)));
            held.resize(keep);
        }
        breaches += betrayed ? 1 : 0;
        if (!betrayed) {
            // At most one unfinished chain keeps buffers that are neither in the ring nor with the application.
            static_cast<void>(pair.front.flush());
            const std::size_t accounted = pair.back.available() + pair.back.owed() + pair.front.lent();
            ASSERT_LE(accounted, pair.buffers);
            ASSERT_GE(accounted + max_fragments, pair.buffers);
        }
    }
    EXPECT_GT(breaches, 50U);
}

/// Honest traffic across the wrap of the indices, released in random order.
TEST(NetfrontRx, honest_traffic_goes_on_across_the_wrap) {
    RxPair pair(256, {true, true}, 0xfffffff0);
    std::mt19937 random(7);
    std::vector<Packet> held;
    std::vector<std::uint32_t> expected;
    std::size_t seen = 0;
    for (int round = 0; round < 3000; ++round) {
        while (pair.back.available() > 20 && random() % 4 != 0) {
            const std::uint32_t slots = 1 + static_cast<std::uint32_t>(random() % 18);
            std::uint32_t length = 0;
            for (std::uint32_t i = 1; i <= slots; ++i) {
                const std::uint32_t size = 14 + static_cast<std::uint32_t>(random() % 3000);
                length += size;
                pair.answer(static_cast<std::int16_t>(size), i < slots ? more : 0,
                            static_cast<std::uint16_t>(random() % 1000));
            }
            expected.push_back(length);
        }
        static_cast<void>(pair.publish());
        ASSERT_EQ(pair.receive(1 + random() % 8).breach, nullptr);
        for (const Packet& packet : pair.packets) {
            ASSERT_EQ(packet.length, expected[seen++]);
            held.push_back(packet);
        }
        std::ranges::shuffle(held, random);
        const std::size_t keep = random() % (held.size() + 1);
        static_cast<void>(pair.front.release(std::span(held).subspan(keep)));
        held.resize(keep);
    }
    EXPECT_GT(seen, 2000U);
    while (pair.receive(64).packets != 0) {
        static_cast<void>(pair.front.release(pair.packets));
    }
    static_cast<void>(pair.front.release(held));
    pair.expect_all_posted();
}

}  // namespace
}  // namespace uvif::netfront
