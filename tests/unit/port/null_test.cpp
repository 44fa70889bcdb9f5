// SPDX-License-Identifier: MIT
#include "port/null.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <set>

#include "packet/checksum.hpp"
#include "packet/headers.hpp"
#include "packet/wire.hpp"
#include "unit/port/packets.hpp"

namespace uvif {
namespace {

using namespace frames;
using testing::ElementsAre;

const Octets udp_frame = ethernet(type_ipv4) + ipv4(17, 108) + udp(100) + payload(100);

std::unique_ptr<NullPort> open(NullMode mode, std::uint32_t length = 60) {
    NullConfig config;
    config.mode = mode;
    config.packet_length = length;
    auto port = NullPort::create(config);
    EXPECT_TRUE(port);
    return std::move(*port);
}

TEST(NullSink, CompletesAtOnceInOrder) {
    const auto port = open(NullMode::sink);
    Packets packets;
    const std::vector<Packet*> batch{packets.make(udp_frame), packets.make(udp_frame), packets.make(udp_frame)};
    port->submit(batch);
    EXPECT_THAT(packets.completed(), ElementsAre(0, 1, 2));
    EXPECT_FALSE(batch[0]->copied);
    EXPECT_EQ(port->counters().submitted, 3U);
    EXPECT_EQ(port->counters().submit_dropped, 0U);
    EXPECT_TRUE(port->writable());
    EXPECT_FALSE(port->always_ready());
    EXPECT_EQ(port->fd(), -1);
    EXPECT_EQ(port->receive(packets.rooms(4)), 0U);
}

TEST(NullSink, ReadsTheFirstCacheLine) {
    const auto port = open(NullMode::sink);
    Packets packets;
    Octets ones(128);
    ones[0] = std::byte{1};
    ones[56] = std::byte{1};
    ones[64] = std::byte{1};  // the next line
    const Octets tiny = octets({1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
    port->submit(std::vector<Packet*>{packets.make(ones), packets.make(tiny)});
    EXPECT_EQ(port->inspected(), 3U);
}

TEST(NullGenerate, MakesValidPacketsWithoutEnd) {
    for (const std::uint32_t length : {60U, 64U, 1514U, 65535U}) {
        const auto port = open(NullMode::generate, length);
        EXPECT_TRUE(port->always_ready());
        Packets packets;
        std::set<std::uint64_t> numbers;
        for (int burst = 0; burst < 2; ++burst) {
            const auto rooms = packets.rooms(8);
            ASSERT_EQ(port->receive(rooms), 8U);
            for (const Packet* packet : rooms) {
                EXPECT_EQ(packet->length, length);
                EXPECT_EQ(packet->fragments[0].length, length);
                EXPECT_EQ(packet->offload, (Offload{.checksum_blank = false, .data_validated = true}));
                const Octets octets = octets_of(*packet);
                const Headers headers = parse_headers(octets);
                ASSERT_EQ(headers.depth, HeaderDepth::transport);
                EXPECT_EQ(headers.l4_protocol, protocol_udp);
                EXPECT_EQ(load_be16(octets, 16), length - 14) << "IP length";
                EXPECT_EQ(load_be16(octets, 38), length - 34) << "UDP length";
                EXPECT_EQ(checksum_sum(std::span(octets).subspan(14, 20)), 0xffff) << "IP header checksum";
                std::uint64_t number = 0;
                std::memcpy(&number, octets.data() + 42, sizeof number);
                numbers.insert(number);
            }
        }
        EXPECT_EQ(numbers.size(), 16U);
        EXPECT_EQ(port->counters().received, 16U);
    }
}

TEST(NullGenerate, FillsPiecesThatLieApart) {
    const auto port = open(NullMode::generate, 1000);
    EXPECT_TRUE(port->scatters());
    Packets packets;
    Packet* packet = packets.room();
    packet->fragments[1] = {packet->fragments[0].data + 4096, 4096};
    packet->fragments[0].length = 128;
    packet->fragment_count = 2;
    ASSERT_EQ(port->receive(std::span(&packet, 1)), 1U);
    EXPECT_EQ(packet->length, 1000U);
    EXPECT_EQ(packet->fragment_count, 2U);
    EXPECT_EQ(packet->fragments[1].length, 872U);
}

TEST(NullGenerate, SwallowsWhatIsSubmitted) {
    const auto port = open(NullMode::generate);
    Packets packets;
    port->submit(std::vector<Packet*>{packets.make(udp_frame)});
    EXPECT_EQ(packets.completed().size(), 1U);
}

TEST(NullGenerate, StopsWhenTold) {
    const auto port = open(NullMode::generate);
    port->stop();
    Packets packets;
    EXPECT_FALSE(port->always_ready());
    EXPECT_EQ(port->receive(packets.rooms(2)), 0U);
}

TEST(NullGenerate, RefusesImpossibleLengths) {
    for (const std::uint32_t length : {0U, 59U, 65536U}) {
        NullConfig config;
        config.mode = NullMode::generate;
        config.packet_length = length;
        const auto port = NullPort::create(config);
        ASSERT_FALSE(port);
        EXPECT_EQ(port.error().code, EINVAL);
    }
}

TEST(NullReflect, SendsBackWithTheAddressesSwapped) {
    const auto port = open(NullMode::reflect);
    Packets packets;
    const Offload offload{.checksum_blank = true, .data_validated = true, .gso_type = GsoType::tcpv4, .gso_size = 1000};
    const Octets large = udp_frame + payload(60000);
    const std::vector<Packet*> batch{packets.make(udp_frame), packets.make(large, offload, {128, 4096, 8192})};
    port->submit(batch);
    EXPECT_THAT(packets.completed(), ElementsAre(0, 1));
    EXPECT_TRUE(batch[0]->copied);
    // The port has copies of its own: what the sender does to its memory now does not matter.
    for (const Packet* sent : batch) {
        for (const Fragment& piece : sent->pieces()) {
            std::memset(piece.data, 0, piece.length);
        }
    }
    const auto rooms = packets.rooms(3);
    ASSERT_EQ(port->receive(rooms), 2U);
    Octets expected = large;
    std::swap_ranges(expected.begin(), expected.begin() + 6, expected.begin() + 6);
    EXPECT_EQ(octets_of(*rooms[1]), expected);
    EXPECT_EQ(rooms[1]->length, expected.size());
    EXPECT_EQ(rooms[1]->offload, offload);
    EXPECT_EQ(rooms[0]->length, udp_frame.size());
    EXPECT_EQ(rooms[0]->offload, Offload{});
    EXPECT_EQ(port->receive(packets.rooms(1)), 0U);
}

TEST(NullReflect, DropsBeyondItsRoom) {
    const auto port = open(NullMode::reflect);
    Packets packets;
    std::vector<Packet*> batch;
    for (std::size_t i = 0; i < limits::reflected_packets + 5; ++i) {
        batch.push_back(packets.make(udp_frame));
    }
    port->submit(batch);
    EXPECT_EQ(packets.completed().size(), batch.size());
    EXPECT_EQ(port->counters().submit_dropped, 5U);
    EXPECT_EQ(port->counters().dropped_held_up, 5U);
    std::size_t back = 0;
    const auto rooms = packets.rooms(100);
    for (std::size_t got = 1; got != 0; back += got) {
        got = port->receive(rooms);
    }
    EXPECT_EQ(back, limits::reflected_packets);
    // And there is room again, many times over.
    for (int round = 0; round < 10; ++round) {
        port->submit(std::span(batch).first(100));
        EXPECT_EQ(packets.completed().size(), 100U);
        EXPECT_EQ(port->receive(rooms), 100U);
    }
    EXPECT_EQ(port->counters().submit_dropped, 5U);
}

}  // namespace
}  // namespace uvif
