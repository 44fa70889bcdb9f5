// SPDX-License-Identifier: MIT
#include "packet/segment.hpp"

#include <gtest/gtest.h>

#include <string>

#include "packet/checksum.hpp"
#include "packet/gather.hpp"
#include "packet/wire.hpp"
#include "runtime/limits.hpp"
#include "unit/packet/cut.hpp"
#include "unit/packet/frames.hpp"

namespace uvif {
namespace {

using namespace frames;

Octets with_flags(Octets header, std::byte flags) {
    header[tcp_flags] = flags;
    return header;
}

struct Case {
    std::string name;
    Octets headers;
    GsoType type;
    std::size_t l3;  ///< where they begin
    std::size_t l4;
    std::size_t payload;
    std::uint16_t size;
    std::size_t count;
};

void PrintTo(const Case& test, std::ostream* out) {
    *out << test.name;
}

const Octets all_flags = with_flags(tcp(5), tcp_fin | tcp_psh | tcp_ack | tcp_cwr);

const Case cases[] = {
    {"Ipv4", ethernet(type_ipv4) + ipv4(6, 5020) + all_flags, GsoType::tcpv4, 14, 34, 5000, 1000, 5},
    {"Ipv4ShortLast", ethernet(type_ipv4) + ipv4(6, 3021) + all_flags, GsoType::tcpv4, 14, 34, 3001, 1000, 4},
    {"Ipv4OddSize", ethernet(type_ipv4) + ipv4(6, 2520) + all_flags, GsoType::tcpv4, 14, 34, 2500, 999, 3},
    {"Ipv4Options", ethernet(type_ipv4) + ipv4(6, 1060, 7) + with_flags(tcp(8), tcp_ack), GsoType::tcpv4, 14, 42, 1028,
     500, 3},
    {"Ipv6", ethernet(type_ipv6) + ipv6(6, 5020) + all_flags, GsoType::tcpv6, 14, 54, 5000, 1440, 4},
    {"Ipv6Extension", ethernet(type_ipv6) + ipv6(0, 2028) + extension(6) + all_flags, GsoType::tcpv6, 14, 62, 2000, 600,
     4},
    {"Vlan", ethernet(type_vlan) + vlan(type_ipv4) + ipv4(6, 2020) + all_flags, GsoType::tcpv4, 18, 38, 2000, 700, 3},
    {"One", ethernet(type_ipv4) + ipv4(6, 520) + all_flags, GsoType::tcpv4, 14, 34, 500, 1000, 1},
    {"NoPayload", ethernet(type_ipv4) + ipv4(6, 20) + all_flags, GsoType::tcpv4, 14, 34, 0, 1000, 1},
    {"Largest", ethernet(type_ipv4) + ipv4(6, 65501) + all_flags, GsoType::tcpv4, 14, 34, 65481, 64, 1024},
};

Octets packet_of(const Case& test) {
    return test.headers + payload(test.payload);
}

std::vector<Octets> cut(const Case& test, const Octets& packet) {
    const auto plan = plan_segments({.checksum_blank = true, .gso_type = test.type, .gso_size = test.size}, packet,
                                    static_cast<std::uint32_t>(packet.size()));
    if (plan) {
        EXPECT_EQ(plan->header_length, test.headers.size());
        std::size_t at = plan->header_length;
        for (std::uint32_t i = 0; i < plan->count; ++i) {
            at += plan->payload_of(i);
        }
        EXPECT_EQ(at, packet.size());
    }
    return frames::cut(packet, test.type, test.size);
}

/// One's complement sum of words, one after the other.
unsigned sum(const Octets& octets) {
    unsigned total = 0;
    for (std::size_t i = 0; i < octets.size(); i += 2) {
        const unsigned low = i + 1 < octets.size() ? std::to_integer<unsigned>(octets[i + 1]) : 0;
        total += std::to_integer<unsigned>(octets[i]) << 8 | low;
        total = (total & 0xffff) + (total >> 16);
    }
    return total;
}

Octets part(const Octets& octets, std::size_t from, std::size_t to) {
    return {octets.begin() + static_cast<std::ptrdiff_t>(from), octets.begin() + static_cast<std::ptrdiff_t>(to)};
}

/// What a receiver sums over a TCP packet, pseudo header included.
unsigned tcp_sum(const Octets& segment, const Case& test) {
    const bool v4 = test.type == GsoType::tcpv4;
    const Octets addresses = v4 ? part(segment, test.l3 + 12, test.l3 + 20) : part(segment, test.l3 + 8, test.l3 + 40);
    return sum(addresses + be16(6) + be16(static_cast<unsigned>(segment.size() - test.l4)) +
               part(segment, test.l4, segment.size()));
}

class SegmentTest : public testing::TestWithParam<Case> {};

TEST_P(SegmentTest, CarriesThePayloadInOrder) {
    const Case& test = GetParam();
    const auto segments = cut(test, packet_of(test));
    ASSERT_EQ(segments.size(), test.count);
    Octets all;
    for (const Octets& segment : segments) {
        ASSERT_GE(segment.size(), test.headers.size());
        all = all + part(segment, test.headers.size(), segment.size());
        if (&segment != &segments.back()) {
            EXPECT_EQ(segment.size(), test.headers.size() + test.size);
        }
    }
    EXPECT_EQ(all, payload(test.payload));
}

TEST_P(SegmentTest, HasTheHeadersOfAPacketOfItsOwn) {
    const Case& test = GetParam();
    const Octets packet = packet_of(test);
    const auto segments = cut(test, packet);
    ASSERT_EQ(segments.size(), test.count);
    for (std::size_t i = 0; i < segments.size(); ++i) {
        const Octets& segment = segments[i];
        if (test.type == GsoType::tcpv4) {
            EXPECT_EQ(load_be16(segment, test.l3 + 2), segment.size() - test.l3);
            EXPECT_EQ(load_be16(segment, test.l3 + 4), 1 + i) << "identification";
            const unsigned words = std::to_integer<unsigned>(segment[test.l3]) & 0xf;
            EXPECT_EQ(sum(part(segment, test.l3, test.l3 + words * 4)), 0xffffU);
        } else {
            EXPECT_EQ(load_be16(segment, test.l3 + 4), segment.size() - test.l3 - 40);
        }
        const std::uint32_t sequence =
            std::uint32_t{load_be16(segment, test.l4 + 4)} << 16 | load_be16(segment, test.l4 + 6);
        EXPECT_EQ(sequence, 1 + i * test.size);
        std::byte expected = test.headers[test.l4 + tcp_flags];
        expected &= i == 0 ? ~std::byte{0} : ~tcp_cwr;
        expected &= i + 1 == segments.size() ? ~std::byte{0} : ~(tcp_fin | tcp_psh);
        EXPECT_EQ(segment[test.l4 + tcp_flags], expected) << "flags of segment " << i;
        EXPECT_EQ(tcp_sum(segment, test), 0xffffU) << "checksum of segment " << i;
        // The rest is as it was: addresses, ports, acknowledgement, window, options.
        EXPECT_EQ(part(segment, 0, test.l3), part(packet, 0, test.l3));
        EXPECT_EQ(part(segment, test.l4, test.l4 + 4), part(packet, test.l4, test.l4 + 4));
        EXPECT_EQ(part(segment, test.l4 + 8, test.l4 + 13), part(packet, test.l4 + 8, test.l4 + 13));
        EXPECT_EQ(part(segment, test.l4 + 18, test.headers.size()), part(packet, test.l4 + 18, test.headers.size()));
    }
}

INSTANTIATE_TEST_SUITE_P(Packets, SegmentTest, testing::ValuesIn(cases),
                         [](const auto& test) { return test.param.name; });

TEST(Segment, CountsOnInSequenceAndIdentificationPastTheirEnds) {
    Case test = cases[0];
    std::fill_n(test.headers.begin() + 14 + 4, 2, std::byte{0xff});
    std::fill_n(test.headers.begin() + 34 + 4, 4, std::byte{0xff});
    const auto segments = cut(test, packet_of(test));
    ASSERT_EQ(segments.size(), 5U);
    EXPECT_EQ(load_be16(segments[1], 18), 0);
    EXPECT_EQ(load_be16(segments[1], 38), 0);
    EXPECT_EQ(load_be16(segments[1], 40), 999);
    EXPECT_EQ(tcp_sum(segments[1], test), 0xffffU);
}

TEST(Segment, RefusesWhatIsNotSuchAPacket) {
    struct Refusal {
        const char* why;
        Octets packet;
        GsoType type;
        std::uint16_t size;
    };
    Octets short_header = ethernet(type_ipv4) + ipv4(6, 5020) + tcp(5) + payload(5000);
    short_header[34 + 12] = std::byte{4 << 4};
    const Octets good = ethernet(type_ipv4) + ipv4(6, 5020) + tcp(5) + payload(5000);
    const Refusal refusals[] = {
        {"no GSO", good, GsoType::none, 1000},
        {"size 0", good, GsoType::tcpv4, 0},
        {"the other IP", good, GsoType::tcpv6, 1000},
        {"UDP", ethernet(type_ipv4) + ipv4(17, 5008) + udp(5000) + payload(5000), GsoType::tcpv4, 1000},
        {"a fragment", ethernet(type_ipv4) + ipv4(6, 5020, 5, 0x2000) + tcp(5) + payload(5000), GsoType::tcpv4, 1000},
        {"a TCP header of 16 octets", short_header, GsoType::tcpv4, 1000},
        {"headers cut off", ethernet(type_ipv4) + ipv4(6, 40) + part(tcp(10), 0, 30), GsoType::tcpv4, 1000},
        {"headers beyond what is contiguous",
         ethernet(type_ipv6) + ipv6(0, 3000) + extension(6, 6) + tcp(5) + payload(2900), GsoType::tcpv6, 1000},
        {"too many segments", ethernet(type_ipv4) + ipv4(6, 65501) + tcp(5) + payload(65481), GsoType::tcpv4, 63},
        {"nothing at all", {}, GsoType::tcpv4, 1000},
    };
    for (const Refusal& refusal : refusals) {
        EXPECT_FALSE(plan_segments({.gso_type = refusal.type, .gso_size = refusal.size}, refusal.packet,
                                   static_cast<std::uint32_t>(refusal.packet.size())))
            << refusal.why;
    }
    EXPECT_TRUE(plan_segments({.gso_type = GsoType::tcpv4, .gso_size = 1000}, good, 5054));
}

TEST(Gather, ReadsAcrossPieces) {
    Octets octets = payload(100);
    const std::vector<Fragment> pieces{{octets.data(), 10},
                                       {octets.data() + 10, 0},
                                       {octets.data() + 10, 1},
                                       {octets.data() + 11, 80},
                                       {octets.data() + 91, 9}};
    for (const std::size_t step : {1U, 7U, 10U, 33U, 100U}) {
        Gather gather(pieces);
        Octets all;
        for (std::size_t at = 0; at < octets.size(); at += step) {
            Octets some(std::min(step, octets.size() - at));
            EXPECT_TRUE(gather.copy(some));
            all = all + some;
        }
        EXPECT_EQ(all, octets);
        Octets more(1);
        EXPECT_FALSE(gather.copy(more));
    }
    Gather gather(pieces);
    EXPECT_TRUE(gather.skip(95));
    Octets rest(5);
    EXPECT_TRUE(gather.copy(rest));
    EXPECT_EQ(rest, part(octets, 95, 100));
    EXPECT_FALSE(gather.skip(1));
}

}  // namespace
}  // namespace uvif
