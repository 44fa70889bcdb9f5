// SPDX-License-Identifier: MIT
#include "packet/checksum.hpp"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "packet/wire.hpp"
#include "unit/packet/frames.hpp"

namespace uvif {
namespace {

using namespace frames;

/// As RFC 1071 says it, one word after the other.
std::uint16_t reference_sum(std::span<const std::byte> data) {
    std::uint32_t sum = 0;
    for (std::size_t i = 0; i < data.size(); i += 2) {
        const unsigned low = i + 1 < data.size() ? std::to_integer<unsigned>(data[i + 1]) : 0;
        sum += std::to_integer<unsigned>(data[i]) << 8 | low;
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return static_cast<std::uint16_t>(sum);
}

/// The octets that a TCP or UDP checksum covers, pseudo header included, with the field set to zero.
std::uint16_t reference_checksum(const Octets& frame, const Headers& headers) {
    const std::size_t length = frame.size() - headers.l4_offset;
    Octets covered;
    const auto address = [&](unsigned at, unsigned count) {
        covered.insert(covered.end(), frame.begin() + headers.l3_offset + at,
                       frame.begin() + headers.l3_offset + at + count);
    };
    headers.ip_version == 4 ? address(12, 8) : address(8, 32);
    covered = covered + octets({0, headers.l4_protocol}) + be16(static_cast<unsigned>(length >> 16)) +
              be16(static_cast<unsigned>(length & 0xffff));
    Octets segment(frame.begin() + headers.l4_offset, frame.end());
    store_be16(segment, static_cast<std::size_t>(headers.checksum_offset() - headers.l4_offset), 0);
    const auto checksum = static_cast<std::uint16_t>(~reference_sum(covered + segment));
    return checksum == 0 ? 0xffff : checksum;
}

/// A frame as a guest hands it over: the field holds the pseudo header's sum.
Octets blank(Octets frame) {
    const Headers headers = parse_headers(frame);
    store_be16(frame, headers.checksum_offset(),
               pseudo_header_sum(frame, headers, static_cast<std::uint32_t>(frame.size())));
    return frame;
}

std::vector<Fragment> cut(Octets& frame, std::size_t first, std::size_t piece) {
    std::vector<Fragment> pieces{{frame.data(), static_cast<std::uint32_t>(first)}};
    for (std::size_t at = first; at < frame.size(); at += piece) {
        pieces.push_back({frame.data() + at, static_cast<std::uint32_t>(std::min(piece, frame.size() - at))});
    }
    return pieces;
}

TEST(Checksum, KnownSum) {
    // The example of RFC 1071, section 3.
    EXPECT_EQ(checksum_sum(octets({0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7})), 0xddf2);
    EXPECT_EQ(checksum_sum({}), 0);
    EXPECT_EQ(checksum_sum(octets({0x12})), 0x1200);
}

TEST(Checksum, AdditionCarriesAround) {
    EXPECT_EQ(checksum_add(0xffff, 1), 1);
    EXPECT_EQ(checksum_add(0x8000, 0x8000), 1);
    EXPECT_EQ(checksum_add(1, 2), 3);
}

RC_GTEST_PROP(ChecksumProperty, SumIsTheReferences, (const std::vector<std::uint8_t>& values)) {
    Octets data;
    for (const std::uint8_t value : values) {
        data.insert(data.end(), 5, static_cast<std::byte>(value));
    }
    const std::uint16_t sum = checksum_sum(data);
    const std::uint16_t expected = reference_sum(data);
    RC_ASSERT(sum == expected);
}

TEST(Checksum, SumsOfTheLongestPacket) {
    const Octets ones(65535, std::byte{0xff});
    EXPECT_EQ(checksum_sum(ones), reference_sum(ones));
}

TEST(Checksum, CompletesWhateverThePieces) {
    const Octets frames[] = {
        ethernet(type_ipv4) + ipv4(6, 520) + tcp() + payload(500),
        ethernet(type_ipv4) + ipv4(17, 509) + udp(501) + payload(501),
        ethernet(type_ipv6) + ipv6(6, 533) + tcp(8) + payload(501),
        ethernet(type_ipv6) + ipv6(17, 508) + udp(500) + payload(500),
        ethernet(type_vlan) + vlan(type_ipv6) + ipv6(60, 528) + extension(6) + tcp() + payload(500),
    };
    for (const Octets& frame : frames) {
        const Headers headers = parse_headers(frame);
        const std::uint16_t expected = reference_checksum(frame, headers);
        for (const std::size_t piece : {1U, 2U, 3U, 64U, 333U, 10000U}) {
            for (const std::size_t first : {128U, 129U}) {
                Octets work = blank(frame);
                EXPECT_TRUE(complete_checksum(cut(work, first, piece)));
                EXPECT_EQ(load_be16(work, headers.checksum_offset()), expected);
            }
        }
    }
}

RC_GTEST_PROP(ChecksumProperty, CompletionIsTheReferences,
              (const std::vector<std::uint8_t>& values, bool six, bool datagram)) {
    Octets data;
    for (const std::uint8_t value : values) {
        data.push_back(static_cast<std::byte>(value));
    }
    const auto length = static_cast<unsigned>(data.size());
    const Octets l4 = datagram ? udp(length) : tcp();
    const auto l4_length = static_cast<unsigned>(l4.size()) + length;
    const unsigned protocol = datagram ? 17 : 6;
    const Octets frame =
        (six ? ethernet(type_ipv6) + ipv6(protocol, l4_length) : ethernet(type_ipv4) + ipv4(protocol, l4_length)) + l4 +
        data;
    Octets work = blank(frame);
    const std::size_t first = static_cast<std::size_t>(
        *rc::gen::inRange(std::min<int>(74, static_cast<int>(work.size())), static_cast<int>(work.size()) + 1));
    const auto piece = static_cast<std::size_t>(*rc::gen::inRange(1, 50));
    const Headers headers = parse_headers(frame);
    RC_PRE(headers.checksum_offset() + 2U <= first);
    RC_ASSERT(complete_checksum(cut(work, first, piece)));
    RC_ASSERT(load_be16(work, headers.checksum_offset()) == reference_checksum(frame, headers));
}

TEST(Checksum, NeverSendsNone) {
    // A UDP packet whose sum comes to 0xffff: its checksum would be 0, which means "none".
    Octets frame = ethernet(type_ipv4) + ipv4(17, 10) + udp(2) + octets({0, 0});
    const Headers headers = parse_headers(frame);
    const std::uint16_t checksum = reference_checksum(frame, headers);
    store_be16(frame, frame.size() - 2, checksum);
    Octets work = blank(frame);
    EXPECT_TRUE(complete_checksum(cut(work, work.size(), 1)));
    EXPECT_EQ(load_be16(work, headers.checksum_offset()), 0xffff);
}

TEST(Checksum, LeavesOtherPacketsAlone) {
    for (Octets frame : {ethernet(type_arp) + payload(46), ethernet(type_ipv4) + ipv4(1, 40) + payload(40),
                         ethernet(type_ipv4) + ipv4(17, 16, 5, 0x2000) + udp(8) + payload(8), Octets()}) {
        const Octets before = frame;
        EXPECT_FALSE(complete_checksum(cut(frame, frame.size(), 1)));
        EXPECT_EQ(frame, before);
    }
    EXPECT_FALSE(complete_checksum({}));
}

TEST(CompleteChecksumAt, WritesTheFieldThatIsNamed) {
    const Octets inner = blank(ethernet(type_ipv4) + ipv4(17, 108) + udp(100) + payload(100));
    const auto size = static_cast<unsigned>(inner.size());
    Octets tunnelled = ethernet(type_ipv4) + ipv4(17, 16 + size) + udp(8 + size) + payload(8) + inner;
    const std::size_t outer = tunnelled.size() - inner.size();
    const Headers headers = parse_headers(inner);
    const auto start = static_cast<std::uint16_t>(outer + headers.l4_offset);
    const auto offset = static_cast<std::uint16_t>(headers.checksum_offset() - headers.l4_offset);
    ASSERT_TRUE(complete_checksum_at(tunnelled, start, offset));
    const Octets completed(tunnelled.begin() + static_cast<std::ptrdiff_t>(outer), tunnelled.end());
    EXPECT_EQ(load_be16(completed, headers.checksum_offset()), reference_checksum(inner, headers));

    const Octets before = tunnelled;
    EXPECT_FALSE(complete_checksum_at(tunnelled, static_cast<std::uint16_t>(tunnelled.size() - 1), 0));
    EXPECT_FALSE(complete_checksum_at(tunnelled, 0xffff, 0xffff));
    EXPECT_EQ(tunnelled, before);
}

}  // namespace
}  // namespace uvif
