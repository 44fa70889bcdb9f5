// SPDX-License-Identifier: MIT
#include "packet/gro.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>

#include "packet/checksum.hpp"
#include "packet/segment.hpp"
#include "packet/wire.hpp"
#include "runtime/limits.hpp"
#include "unit/packet/cut.hpp"
#include "unit/packet/frames.hpp"

namespace uvif {
namespace {

using namespace frames;

struct Case {
    std::string name;
    Octets headers;
    std::size_t payload;
    std::uint16_t size;
};

void PrintTo(const Case& test, std::ostream* out) {
    *out << test.name;
}

Octets pushed(Octets header) {
    header[tcp_flags] |= tcp_psh;
    return header;
}

const Case cases[] = {
    {"Ipv4", ethernet(type_ipv4) + ipv4(6, 5020) + tcp(), 5000, 1000},
    {"Ipv4ThatCounts", ethernet(type_ipv4) + ipv4(6, 5020, 5, 0) + tcp(), 5000, 1000},
    {"Ipv4ShortLast", ethernet(type_ipv4) + ipv4(6, 3021) + tcp(), 3001, 1000},
    {"Ipv4OddSize", ethernet(type_ipv4) + ipv4(6, 2520) + tcp(), 2500, 999},
    {"TcpOptions", ethernet(type_ipv4) + ipv4(6, 1060) + tcp(8), 1028, 500},
    {"Pushed", ethernet(type_ipv4) + ipv4(6, 3020) + pushed(tcp()), 3000, 1000},
    {"Ipv6", ethernet(type_ipv6) + ipv6(6, 5020) + tcp(), 5000, 1440},
    {"Largest", ethernet(type_ipv4) + ipv4(6, 65501) + tcp(), 65481, 1448},
};

Headers headers_of(const Octets& frame) {
    return parse_headers(std::span(frame).first(std::min<std::size_t>(frame.size(), limits::header_octets)));
}

GsoType type_of(const Octets& frame) {
    return headers_of(frame).ip_version == 4 ? GsoType::tcpv4 : GsoType::tcpv6;
}

/// Lengths and checksums are made right.
Octets finished(Octets frame) {
    const Headers headers = headers_of(frame);
    const auto length = static_cast<std::uint32_t>(frame.size());
    finish_ip(headers, 0, frame, length);
    store_be16(frame, headers.checksum_offset(), pseudo_header_sum(frame, headers, length));
    const Fragment whole{frame.data(), length};
    store_be16(frame, headers.checksum_offset(), completed_checksum(std::span(&whole, 1), headers));
    return frame;
}

std::vector<Octets> cut(const Octets& packet, std::uint16_t size) {
    return frames::cut(packet, type_of(packet), size);
}

constexpr GsoFeatures all_tcp{.tcpv4 = true, .tcpv6 = true};
constexpr GsoFeatures only_v4{.tcpv4 = true};
constexpr GsoFeatures only_v6{.tcpv6 = true};

/// One packet, and what becomes of it.
struct Joining {
    explicit Joining(const Octets& first, Offload offload = {}, std::uint32_t room = 65535,
                     const GsoFeatures& taken = all_tcp)
        : memory(65535), gro(taken) {
        std::ranges::copy(first, memory.begin());
        packet.length = static_cast<std::uint32_t>(first.size());
        packet.fragments[0] = {memory.data(), packet.length};
        packet.fragment_count = 1;
        packet.offload = offload;
        gro.begin(packet, room, headers_of(first));
    }
    bool append(const Octets& frame, bool blank = false) { return gro.append(frame, headers_of(frame), blank); }
    [[nodiscard]] Octets result() {
        gro.end();
        EXPECT_EQ(packet.fragments[0].length, packet.length);
        return {memory.begin(), memory.begin() + packet.length};
    }

    Octets memory;
    Packet packet;
    Gro gro;
};

class GroTest : public testing::TestWithParam<Case> {};

TEST_P(GroTest, JoinsWhatASegmentationHasCut) {
    const Case& test = GetParam();
    const Octets whole = test.headers + payload(test.payload);
    const auto segments = cut(whole, test.size);
    Joining joining(segments[0]);
    for (std::size_t i = 1; i < segments.size(); ++i) {
        ASSERT_TRUE(joining.append(segments[i])) << "segment " << i;
    }
    const Octets result = joining.result();
    Octets expected = whole;
    const Headers headers = headers_of(expected);
    finish_ip(headers, 0, expected, expected.size());
    store_be16(expected, headers.checksum_offset(),
               pseudo_header_sum(expected, headers, static_cast<std::uint32_t>(expected.size())));
    EXPECT_EQ(result, expected);
    EXPECT_EQ(
        joining.packet.offload,
        (Offload{.checksum_blank = true, .data_validated = true, .gso_type = type_of(whole), .gso_size = test.size}));
    EXPECT_EQ(cut(result, test.size), segments) << "and cut again they are what they were";
}

TEST_P(GroTest, TakesBlankChecksumsAtTheirWord) {
    const Case& test = GetParam();
    auto segments = cut(test.headers + payload(test.payload), test.size);
    for (Octets& segment : segments) {
        store_be16(segment, headers_of(segment).checksum_offset(), 0xdead);
    }
    Joining joining(segments[0], {.checksum_blank = true, .data_validated = true});
    EXPECT_TRUE(joining.append(segments[1], true));
}

INSTANTIATE_TEST_SUITE_P(Packets, GroTest, testing::ValuesIn(cases), [](const auto& test) { return test.param.name; });

const Octets two = ethernet(type_ipv4) + ipv4(6, 2020, 5, 0) + tcp(6) + payload(2000);
constexpr std::size_t l3 = 14;
constexpr std::size_t l4 = 34;

/// What is wrong with the second of two packets that would be joined otherwise.
struct Refusal {
    const char* name;
    std::function<void(Octets&)> change;
    bool finish = true;  ///< lengths and checksums after it
};

void PrintTo(const Refusal& refusal, std::ostream* out) {
    *out << refusal.name;
}

std::function<void(Octets&)> flip(std::size_t at, unsigned bits = 1) {
    return [=](Octets& frame) { frame[at] ^= static_cast<std::byte>(bits); };
}

class GroRefusalTest : public testing::TestWithParam<Refusal> {};

TEST_P(GroRefusalTest, IsNotJoinedAndSpoilsNothing) {
    const auto segments = cut(two, 1000);
    Octets changed = segments[1];
    GetParam().change(changed);
    if (GetParam().finish) {
        changed = finished(changed);
    }
    Joining joining(segments[0]);
    EXPECT_FALSE(joining.append(changed));
    EXPECT_TRUE(joining.append(segments[1])) << "what follows is still taken";
    Joining alone(segments[0]);
    EXPECT_FALSE(alone.append(changed));
    EXPECT_EQ(alone.result(), segments[0]);
    EXPECT_EQ(alone.packet.offload, Offload{});
}

INSTANTIATE_TEST_SUITE_P(
    Packets, GroRefusalTest,
    testing::Values(Refusal{"AnotherReceiver", flip(0)}, Refusal{"AnotherSender", flip(6)},
                    Refusal{"AnotherServiceClass", flip(l3 + 1)}, Refusal{"AnotherIdentification", flip(l3 + 5, 4)},
                    Refusal{"AnotherDontFragment", flip(l3 + 6, 0x40)}, Refusal{"AnotherTimeToLive", flip(l3 + 8)},
                    Refusal{"AnotherAddress", flip(l3 + 19)}, Refusal{"AnotherPort", flip(l4)},
                    Refusal{"AnotherSequence", flip(l4 + 7)}, Refusal{"AnotherAcknowledgement", flip(l4 + 11)},
                    Refusal{"AnotherWindow", flip(l4 + 15)}, Refusal{"AnotherTcpOption", flip(l4 + 20)},
                    Refusal{"AnUrgentPointer", flip(l4 + 19)}, Refusal{"Fin", flip(l4 + tcp_flags, 0x01)},
                    Refusal{"Syn", flip(l4 + tcp_flags, 0x02)}, Refusal{"Rst", flip(l4 + tcp_flags, 0x04)},
                    Refusal{"NoAck", flip(l4 + tcp_flags, 0x10)}, Refusal{"Urg", flip(l4 + tcp_flags, 0x20)},
                    Refusal{"Ece", flip(l4 + tcp_flags, 0x40)}, Refusal{"Cwr", flip(l4 + tcp_flags, 0x80)},
                    Refusal{"Reserved", flip(l4 + tcp_flags - 1)}, Refusal{"AFragment", flip(l3 + 6, 0x20)},
                    Refusal{"Udp", flip(l3 + 9, 6 ^ 17), false}, Refusal{"ASpoiltOctet", flip(500), false},
                    Refusal{"ASpoiltChecksum", flip(l4 + 16), false},
                    Refusal{"ASpoiltIpChecksum", flip(l3 + 10), false},
                    Refusal{"NoPayload", [](Octets& frame) { frame.resize(l4 + 24); }},
                    Refusal{"Padding", [](Octets& frame) { frame.push_back(std::byte{0}); }, false},
                    Refusal{"More", [](Octets& frame) { frame = frame + payload(1); }},
                    Refusal{"Short", [](Octets& frame) { frame.resize(l4 + 19); }, false},
                    Refusal{"LongHeader", flip(l4 + 12, 0x90), false}),
    [](const auto& test) { return test.param.name; });

TEST(Gro, WhereNobodyMayFragmentIdentificationsAreFree) {
    auto segments = cut(ethernet(type_ipv4) + ipv4(6, 2020) + tcp() + payload(2000), 1000);
    store_be16(segments[1], l3 + 4, 7);
    Joining joining(segments[0]);
    EXPECT_TRUE(joining.append(finished(segments[1])));
}

TEST(Gro, JoinsNothingThatALinuxGuestWouldNotTake) {
    for (const Octets& headers :
         {ethernet(type_vlan) + vlan(type_ipv4) + ipv4(6, 2020) + tcp(), ethernet(type_ipv4) + ipv4(6, 2020, 6) + tcp(),
          ethernet(type_ipv6) + ipv6(0, 2028) + extension(6) + tcp()}) {
        const auto segments = cut(headers + payload(2000), 1000);
        EXPECT_FALSE(can_be_gso(headers_of(segments[0])));
        EXPECT_FALSE(Joining(segments[0]).append(segments[1]));
    }
}

TEST(Gro, AFirstPacketThatIsWrongStaysAlone) {
    auto segments = cut(two, 1000);
    segments[0][500] ^= std::byte{1};
    Joining joining(segments[0]);
    EXPECT_FALSE(joining.append(segments[1]));
    EXPECT_EQ(joining.result(), segments[0]);
    EXPECT_EQ(joining.packet.offload, Offload{});
}

TEST(Gro, EndsWithAShorterPacketOrAPush) {
    const Octets three = ethernet(type_ipv4) + ipv4(6, 3020) + tcp() + payload(3000);
    const auto segments = cut(three, 1000);
    Octets shorter = segments[1];
    shorter.resize(shorter.size() - 1);
    shorter = finished(shorter);
    Octets next = segments[2];
    store_be16(next, 34 + 6, static_cast<std::uint16_t>(load_be16(next, 34 + 6) - 1));
    Joining joining(segments[0]);
    EXPECT_TRUE(joining.append(shorter));
    EXPECT_FALSE(joining.append(finished(next)));

    Octets pushing = segments[1];
    pushing[34 + tcp_flags] |= tcp_psh;
    Joining pushed_to(segments[0]);
    EXPECT_TRUE(pushed_to.append(finished(pushing)));
    EXPECT_FALSE(pushed_to.append(segments[2]));
    EXPECT_EQ(pushed_to.result()[34 + tcp_flags] & tcp_psh, tcp_psh);

    Octets pushing_first = segments[0];
    pushing_first[34 + tcp_flags] |= tcp_psh;
    Joining from_pushed(finished(pushing_first));
    EXPECT_FALSE(from_pushed.append(segments[1]));
}

TEST(Gro, FillsThePacketsRoomAndNoMore) {
    const auto segments = cut(two, 1000);
    const auto both = static_cast<std::uint32_t>(segments[0].size() + 1000);
    EXPECT_TRUE(Joining(segments[0], {}, both).append(segments[1]));
    EXPECT_FALSE(Joining(segments[0], {}, both - 1).append(segments[1]));
}

TEST(Gro, MakesNoMorePacketsOfOneThanCanBeCutAgain) {
    const Octets whole = ethernet(type_ipv4) + ipv4(6, 2044) + tcp() + payload(1024);
    const auto segments = cut(whole, 1);
    ASSERT_EQ(segments.size(), limits::segments_per_packet);
    Joining joining(segments[0]);
    for (std::size_t i = 1; i < segments.size(); ++i) {
        ASSERT_TRUE(joining.append(segments[i]));
    }
    Octets another = segments.back();
    store_be16(another, 34 + 6, static_cast<std::uint16_t>(load_be16(another, 34 + 6) + 1));
    EXPECT_FALSE(joining.append(finished(another)));
}

TEST(Gro, MakesOnlyWhatIsTaken) {
    const auto v4 = cut(two, 1000);
    const auto v6 = cut(ethernet(type_ipv6) + ipv6(6, 2020) + tcp() + payload(2000), 1000);
    EXPECT_FALSE(Joining(v4[0], {}, 65535, only_v6).append(v4[1]));
    EXPECT_FALSE(Joining(v6[0], {}, 65535, only_v4).append(v6[1]));
    EXPECT_TRUE(Joining(v4[0], {}, 65535, only_v4).append(v4[1]));
    EXPECT_TRUE(Joining(v6[0], {}, 65535, only_v6).append(v6[1]));
}

TEST(Gro, AGsoPacketIsNotAddedTo) {
    const auto segments = cut(two, 1000);
    EXPECT_FALSE(Joining(segments[0], {.checksum_blank = true, .gso_type = GsoType::tcpv4, .gso_size = 1000})
                     .append(segments[1]));
}

TEST(Gro, NothingIsAddedToNothing) {
    const auto segments = cut(two, 1000);
    Gro gro(all_tcp);
    EXPECT_FALSE(gro.append(segments[0], headers_of(segments[0]), false));
    gro.end();
    Joining joining(segments[0]);
    joining.gro.end();
    EXPECT_FALSE(joining.append(segments[1])) << "it has ended";
}

}  // namespace
}  // namespace uvif
