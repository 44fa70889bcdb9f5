// SPDX-License-Identifier: MIT
#include "packet/headers.hpp"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <memory>
#include <string>

#include "unit/packet/frames.hpp"

namespace uvif {
namespace {

using namespace frames;

struct Case {
    std::string name;
    Octets frame;
    HeaderDepth depth;
    unsigned ip_version = 0;
    unsigned protocol = 0;
    bool fragment = false;
    unsigned l3 = 14;
    unsigned l4 = 0;
    unsigned l4_length = 0;
};

class HeadersTest : public testing::TestWithParam<Case> {};

TEST_P(HeadersTest, FindsWhatIsThere) {
    const Case& expected = GetParam();
    const Headers found = parse_headers(expected.frame);
    EXPECT_EQ(found.depth, expected.depth);
    EXPECT_EQ(found.ip_version, expected.ip_version);
    EXPECT_EQ(found.l4_protocol, expected.protocol);
    EXPECT_EQ(found.fragment, expected.fragment);
    EXPECT_EQ(found.l3_offset, expected.l3);
    EXPECT_EQ(found.l4_offset, expected.l4);
    EXPECT_EQ(found.l4_header_length, expected.l4_length);
}

/// Each prefix in memory of exactly its length, so that a sanitizer sees any octet read beyond it.
TEST_P(HeadersTest, EveryPrefixIsShallower) {
    const Case& whole = GetParam();
    HeaderDepth before = HeaderDepth::none;
    for (std::size_t length = 0; length <= whole.frame.size(); ++length) {
        const auto exact = std::make_unique<std::byte[]>(length);
        std::copy_n(whole.frame.begin(), length, exact.get());
        const Headers found = parse_headers({exact.get(), length});
        EXPECT_GE(found.depth, before) << "at " << length;
        EXPECT_LE(found.depth, whole.depth) << "at " << length;
        before = found.depth;
        if (found.depth == HeaderDepth::transport) {
            EXPECT_EQ(found.l4_offset, whole.l4);
            EXPECT_LE(found.checksum_offset() + 2U, length);
        }
    }
    EXPECT_EQ(before, whole.depth);
}

const Octets e4 = ethernet(type_ipv4);
const Octets e6 = ethernet(type_ipv6);
using enum HeaderDepth;

INSTANTIATE_TEST_SUITE_P(
    Frames, HeadersTest,
    testing::Values(
        Case{.name = "Empty", .frame = {}, .depth = none, .l3 = 0},
        Case{.name = "Arp", .frame = ethernet(type_arp) + payload(28), .depth = link},
        Case{.name = "Tcp4",
             .frame = e4 + ipv4(6, 20) + tcp(),
             .depth = transport,
             .ip_version = 4,
             .protocol = 6,
             .l4 = 34,
             .l4_length = 20},
        Case{.name = "Tcp4Options",
             .frame = e4 + ipv4(6, 60, 15) + tcp(15),
             .depth = transport,
             .ip_version = 4,
             .protocol = 6,
             .l4 = 74,
             .l4_length = 60},
        Case{.name = "TcpNonsenseLength",
             .frame = e4 + ipv4(6, 20) + tcp(2),
             .depth = transport,
             .ip_version = 4,
             .protocol = 6,
             .l4 = 34,
             .l4_length = 8},
        Case{.name = "Udp4",
             .frame = e4 + ipv4(17, 12) + udp(4) + payload(4),
             .depth = transport,
             .ip_version = 4,
             .protocol = 17,
             .l4 = 34,
             .l4_length = 8},
        Case{.name = "Icmp4",
             .frame = e4 + ipv4(1, 8) + payload(8),
             .depth = network,
             .ip_version = 4,
             .protocol = 1,
             .l4 = 34},
        Case{.name = "FirstFragment4",
             .frame = e4 + ipv4(17, 16, 5, 0x2000) + udp(8) + payload(8),
             .depth = network,
             .ip_version = 4,
             .protocol = 17,
             .fragment = true,
             .l4 = 34},
        Case{.name = "LaterFragment4",
             .frame = e4 + ipv4(17, 16, 5, 0x0010) + payload(16),
             .depth = network,
             .ip_version = 4,
             .protocol = 17,
             .fragment = true,
             .l4 = 34},
        Case{.name = "ReservedFlag4",
             .frame = e4 + ipv4(6, 20, 5, 0x8000) + tcp(),
             .depth = transport,
             .ip_version = 4,
             .protocol = 6,
             .l4 = 34,
             .l4_length = 20},
        Case{.name = "Ipv4HeaderTooShort", .frame = e4 + octets({0x44}) + payload(60), .depth = link},
        Case{.name = "Ipv4WithVersion6", .frame = e4 + ipv6(6, 20) + tcp(), .depth = link},
        Case{.name = "Ipv6WithVersion4", .frame = e6 + ipv4(6, 40) + tcp() + payload(40), .depth = link},
        Case{.name = "Tcp6",
             .frame = e6 + ipv6(6, 20) + tcp(),
             .depth = transport,
             .ip_version = 6,
             .protocol = 6,
             .l4 = 54,
             .l4_length = 20},
        Case{.name = "Udp6",
             .frame = e6 + ipv6(17, 8) + udp(0),
             .depth = transport,
             .ip_version = 6,
             .protocol = 17,
             .l4 = 54,
             .l4_length = 8},
        Case{.name = "Tcp6Extensions",
             .frame = e6 + ipv6(0, 52) + extension(60) + extension(43, 1) + extension(6) + tcp(),
             .depth = transport,
             .ip_version = 6,
             .protocol = 6,
             .l4 = 86,
             .l4_length = 20},
        Case{.name = "Tcp6Authentication",
             .frame = e6 + ipv6(51, 44) + octets({6, 4}) + Octets(22) + tcp(),
             .depth = transport,
             .ip_version = 6,
             .protocol = 6,
             .l4 = 78,
             .l4_length = 20},
        Case{.name = "AtomicFragment6",
             .frame = e6 + ipv6(44, 28) + fragment_header(6, 0) + tcp(),
             .depth = transport,
             .ip_version = 6,
             .protocol = 6,
             .l4 = 62,
             .l4_length = 20},
        Case{.name = "AtomicFragmentReservedBits6",
             .frame = e6 + ipv6(44, 28) + fragment_header(6, 6) + tcp(),
             .depth = transport,
             .ip_version = 6,
             .protocol = 6,
             .l4 = 62,
             .l4_length = 20},
        Case{.name = "FirstFragment6",
             .frame = e6 + ipv6(44, 28) + fragment_header(6, 1) + tcp(),
             .depth = network,
             .ip_version = 6,
             .protocol = 6,
             .fragment = true,
             .l4 = 62},
        Case{.name = "LaterFragmentOfExtension6",
             .frame = e6 + ipv6(44, 28) + fragment_header(60, 0x1000) + payload(20),
             .depth = network,
             .ip_version = 6,
             .protocol = 60,
             .fragment = true,
             .l4 = 62},
        Case{.name = "NoNextHeader6",
             .frame = e6 + ipv6(59, 0),
             .depth = network,
             .ip_version = 6,
             .protocol = 59,
             .l4 = 54},
        Case{.name = "TruncatedTcp6",
             .frame = e6 + ipv6(60, 20) + extension(6, 0) + payload(4),
             .depth = network,
             .ip_version = 6,
             .protocol = 6,
             .l4 = 62},
        Case{.name = "EightExtensions6",
             .frame = e6 + ipv6(60, 84) + extension(60) + extension(60) + extension(60) + extension(60) +
                      extension(60) + extension(60) + extension(60) + extension(6) + tcp(),
             .depth = transport,
             .ip_version = 6,
             .protocol = 6,
             .l4 = 118,
             .l4_length = 20},
        Case{.name = "NineExtensions6",
             .frame = e6 + ipv6(60, 92) + extension(60) + extension(60) + extension(60) + extension(60) +
                      extension(60) + extension(60) + extension(60) + extension(60) + extension(6) + tcp(),
             .depth = link},
        Case{.name = "Vlan",
             .frame = ethernet(type_vlan) + vlan(type_ipv4) + ipv4(6, 20) + tcp(),
             .depth = transport,
             .ip_version = 4,
             .protocol = 6,
             .l3 = 18,
             .l4 = 38,
             .l4_length = 20},
        Case{.name = "TwoVlans",
             .frame = ethernet(type_service_vlan) + vlan(type_vlan) + vlan(type_ipv6) + ipv6(17, 8) + udp(0),
             .depth = transport,
             .ip_version = 6,
             .protocol = 17,
             .l3 = 22,
             .l4 = 62,
             .l4_length = 8},
        Case{.name = "ThreeVlans",
             .frame = ethernet(type_vlan) + vlan(type_vlan) + vlan(type_vlan) + vlan(type_ipv4) + ipv4(6, 20) + tcp(),
             .depth = link,
             .l3 = 22}),
    [](const auto& each) { return each.param.name; });

TEST(Headers, AnExtensionThatClaimsMoreThanThereIsEndsTheSearch) {
    const Headers found = parse_headers(e6 + ipv6(60, 28) + octets({6, 200, 0, 0, 0, 0, 0, 0}) + tcp());
    EXPECT_EQ(found.depth, link);
    EXPECT_EQ(found.ip_version, 0);
}

RC_GTEST_PROP(HeadersProperty, OffsetsStayInside, (const std::vector<std::uint8_t>& noise, bool six, bool tag)) {
    Octets frame =
        tag ? ethernet(type_vlan) + vlan(six ? type_ipv6 : type_ipv4) : ethernet(six ? type_ipv6 : type_ipv4);
    frame = frame + octets({six ? 0x60U : 0x45U});
    for (const std::uint8_t value : noise) {
        // Mostly numbers that mean something to the parser.
        constexpr std::uint8_t interesting[] = {0, 6, 17, 43, 44, 51, 60};
        frame.push_back(static_cast<std::byte>(value < 128 ? interesting[value % 7] : value));
    }
    const Headers found = parse_headers(frame);
    RC_ASSERT(found.l3_offset <= frame.size());
    RC_ASSERT(found.l4_offset <= frame.size());
    if (found.depth == HeaderDepth::transport) {
        RC_ASSERT(found.checksum_offset() + 2U <= frame.size());
        RC_ASSERT(!found.fragment);
    }
}

}  // namespace
}  // namespace uvif
