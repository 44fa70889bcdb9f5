// SPDX-License-Identifier: MIT
#include "packet/vnet_header.hpp"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "unit/packet/frames.hpp"

namespace uvif {
namespace {

using namespace frames;

constexpr Offload blank{.checksum_blank = true, .data_validated = true};
constexpr Offload blank_only{.checksum_blank = true};
constexpr Offload validated{.data_validated = true};

constexpr Offload segments(GsoType type, std::uint16_t size, bool checksum_blank = true) {
    return {.checksum_blank = checksum_blank, .data_validated = true, .gso_type = type, .gso_size = size};
}

auto translate(const Offload& offload, const Octets& frame) {
    return to_vnet(offload, frame, static_cast<std::uint32_t>(frame.size()));
}

const Octets tcp4 = ethernet(type_ipv4) + ipv4(6, 3032) + tcp(8) + payload(3000);
const Octets tcp6 = ethernet(type_ipv6) + ipv6(6, 3020) + tcp() + payload(3000);
const Octets udp4 = ethernet(type_ipv4) + ipv4(17, 108) + udp(100) + payload(100);
const Octets udp6 = ethernet(type_ipv6) + ipv6(17, 108) + udp(100) + payload(100);
const Octets icmp = ethernet(type_ipv4) + ipv4(1, 64) + payload(64);
const Octets arp = ethernet(type_arp) + payload(46);

TEST(ToVnet, NothingIsNothing) {
    for (const Octets& frame : {tcp4, arp, ethernet(0)}) {
        const auto result = translate({}, frame);
        ASSERT_TRUE(result);
        EXPECT_EQ(result->header.flags, 0);
        EXPECT_EQ(result->header.gso_type, VnetHeader::gso_none);
        EXPECT_FALSE(result->gso_fixup);
    }
}

TEST(ToVnet, ValidatedDataIsValidWhateverItIs) {
    for (const Octets& frame : {tcp4, icmp, arp}) {
        const auto result = translate(validated, frame);
        ASSERT_TRUE(result);
        EXPECT_EQ(result->header.flags, VnetHeader::data_valid);
        EXPECT_EQ(result->header.csum_start, 0);
    }
}

TEST(ToVnet, BlankChecksumsAreLocatedByParsing) {
    const struct {
        const Octets& frame;
        unsigned start;
        unsigned offset;
    } cases[] = {{tcp4, 34, 16}, {tcp6, 54, 16}, {udp4, 34, 6}, {udp6, 54, 6}};
    for (const auto& expected : cases) {
        for (const Offload& offload : {blank, blank_only}) {
            const auto result = translate(offload, expected.frame);
            ASSERT_TRUE(result);
            EXPECT_EQ(result->header.flags, VnetHeader::needs_csum);
            EXPECT_EQ(result->header.csum_start, expected.start);
            EXPECT_EQ(result->header.csum_offset, expected.offset);
            EXPECT_EQ(result->header.gso_type, VnetHeader::gso_none);
            EXPECT_EQ(result->header.gso_size, 0);
        }
    }
}

TEST(ToVnet, BlankChecksumsBehindTagsOptionsAndExtensions) {
    const auto tagged = translate(blank, ethernet(type_vlan) + vlan(type_ipv4) + ipv4(6, 20) + tcp());
    ASSERT_TRUE(tagged);
    EXPECT_EQ(tagged->header.csum_start, 38);
    const auto options = translate(blank, ethernet(type_ipv4) + ipv4(17, 8, 15) + udp(0));
    ASSERT_TRUE(options);
    EXPECT_EQ(options->header.csum_start, 74);
    const auto extended = translate(blank, ethernet(type_ipv6) + ipv6(60, 28) + extension(6) + tcp());
    ASSERT_TRUE(extended);
    EXPECT_EQ(extended->header.csum_start, 62);
}

TEST(ToVnet, ABlankChecksumNeedsOne) {
    EXPECT_FALSE(translate(blank, arp));
    EXPECT_FALSE(translate(blank, icmp));
    EXPECT_FALSE(translate(blank, ethernet(type_ipv4) + ipv4(17, 16, 5, 0x2000) + udp(8) + payload(8)));
    EXPECT_FALSE(translate(blank, ethernet(type_ipv6) + ipv6(44, 28) + fragment_header(6, 1) + tcp()));
    EXPECT_FALSE(translate(blank, ethernet(type_ipv4)));
}

TEST(ToVnet, TruncatedHeadersAreRefusedAtEveryLength) {
    const Octets frame = ethernet(type_vlan) + vlan(type_ipv6) + ipv6(0, 36) + extension(6, 1) + tcp();
    for (std::size_t length = 14; length < frame.size(); ++length) {
        const Octets cut(frame.begin(), frame.begin() + static_cast<std::ptrdiff_t>(length));
        EXPECT_FALSE(translate(blank, cut)) << length;
        EXPECT_FALSE(translate(segments(GsoType::tcpv6, 1000), cut)) << length;
    }
    EXPECT_TRUE(translate(blank, frame));
}

TEST(ToVnet, HeadersLieOnlyInsideThePacket) {
    // The span may be longer than the packet when buffers are padded: the rest is not the packet's.
    EXPECT_FALSE(to_vnet(blank, tcp4, 40));
    EXPECT_TRUE(to_vnet(blank, tcp4, 54));
}

TEST(ToVnet, SegmentsGoOneToOne) {
    const auto four = translate(segments(GsoType::tcpv4, 1448), tcp4);
    ASSERT_TRUE(four);
    EXPECT_EQ(four->header.gso_type, VnetHeader::gso_tcpv4);
    EXPECT_EQ(four->header.gso_size, 1448);
    EXPECT_EQ(four->header.hdr_len, 14 + 20 + 32);
    EXPECT_EQ(four->header.flags, VnetHeader::needs_csum);
    EXPECT_EQ(four->header.csum_start, 34);
    EXPECT_EQ(four->header.csum_offset, 16);
    EXPECT_FALSE(four->gso_fixup);

    const auto six = translate(segments(GsoType::tcpv6, 1428), tcp6);
    ASSERT_TRUE(six);
    EXPECT_EQ(six->header.gso_type, VnetHeader::gso_tcpv6);
    EXPECT_EQ(six->header.hdr_len, 14 + 40 + 20);
}

TEST(ToVnet, SegmentsWithoutABlankChecksumAreFixed) {
    for (const bool data_validated : {false, true}) {
        Offload offload = segments(GsoType::tcpv4, 1448, false);
        offload.data_validated = data_validated;
        const auto result = translate(offload, tcp4);
        ASSERT_TRUE(result);
        EXPECT_TRUE(result->gso_fixup);
        EXPECT_EQ(result->header.flags, VnetHeader::needs_csum);
        EXPECT_EQ(result->header.csum_start, 34);
    }
}

TEST(ToVnet, SegmentsMustBeThatTcp) {
    EXPECT_FALSE(translate(segments(GsoType::tcpv6, 1448), tcp4));
    EXPECT_FALSE(translate(segments(GsoType::tcpv4, 1448), tcp6));
    EXPECT_FALSE(translate(segments(GsoType::tcpv4, 1448), udp4));
    EXPECT_FALSE(translate(segments(GsoType::tcpv4, 1448), icmp));
    EXPECT_FALSE(translate(segments(GsoType::tcpv4, 1448), arp));
    EXPECT_FALSE(translate(segments(GsoType::tcpv4, 0), tcp4));
    EXPECT_FALSE(translate(segments(static_cast<GsoType>(3), 1448), tcp6));
    const Octets fragment = ethernet(type_ipv4) + ipv4(6, 120, 5, 0x2000) + tcp() + payload(100);
    EXPECT_FALSE(translate(segments(GsoType::tcpv4, 50), fragment));
}

TEST(ToVnet, SegmentsNeedTheirWholeHeader) {
    EXPECT_FALSE(translate(segments(GsoType::tcpv4, 50), ethernet(type_ipv4) + ipv4(6, 120) + tcp(4) + payload(100)));
    const Octets header = ethernet(type_ipv4) + ipv4(6, 60) + tcp(15);
    EXPECT_TRUE(translate(segments(GsoType::tcpv4, 50), header));
    EXPECT_FALSE(to_vnet(segments(GsoType::tcpv4, 50), header, static_cast<std::uint32_t>(header.size() - 1)));
    // The parser sees 128 octets of a packet whose TCP header is longer than that.
    const Octets deep = ethernet(type_ipv6) + ipv6(60, 0) + extension(6, 4) + tcp(15) + payload(1000);
    const std::span<const std::byte> seen = std::span(deep).first(128);
    const auto result = to_vnet(segments(GsoType::tcpv6, 500), seen, static_cast<std::uint32_t>(deep.size()));
    ASSERT_TRUE(result);
    EXPECT_EQ(result->header.hdr_len, 14 + 40 + 40 + 60);
}

TEST(ToVnet, ASegmentSizeAboveThePacketIsTheKernelsAffair) {
    // Linux takes such a packet for an ordinary one.
    EXPECT_TRUE(translate(segments(GsoType::tcpv4, 65535), tcp4));
}

TEST(FromVnet, TruthTable) {
    const auto from = [](unsigned flags, unsigned type = 0, unsigned size = 0) {
        VnetHeader header;
        header.flags = static_cast<std::uint8_t>(flags);
        header.gso_type = static_cast<std::uint8_t>(type);
        header.gso_size = static_cast<std::uint16_t>(size);
        return from_vnet(header);
    };
    EXPECT_EQ(from(0), Offload{});
    EXPECT_EQ(from(VnetHeader::needs_csum), blank);
    EXPECT_EQ(from(VnetHeader::data_valid), validated);
    EXPECT_EQ(from(VnetHeader::needs_csum | VnetHeader::data_valid), blank);
    EXPECT_EQ(from(1, VnetHeader::gso_tcpv4, 1448), segments(GsoType::tcpv4, 1448));
    EXPECT_EQ(from(1, VnetHeader::gso_tcpv6, 1428), segments(GsoType::tcpv6, 1428));
    EXPECT_EQ(from(1, VnetHeader::gso_tcpv4 | VnetHeader::gso_ecn, 1448), segments(GsoType::tcpv4, 1448));
    EXPECT_EQ(from(0, VnetHeader::gso_none | VnetHeader::gso_ecn), Offload{});
    EXPECT_EQ(from(1, VnetHeader::gso_tcpv4, 0), std::nullopt);
    for (const unsigned udp : {3U, 5U, 0x20U}) {
        EXPECT_EQ(from(1, udp, 1448), std::nullopt);
    }
}

TEST(FromVnet, GoesBackToWhatItCameFrom) {
    for (const Offload& offload : {Offload{}, validated, blank, segments(GsoType::tcpv4, 1448)}) {
        const auto there = translate(offload, tcp4);
        ASSERT_TRUE(there);
        EXPECT_EQ(from_vnet(there->header), offload);
    }
}

RC_GTEST_PROP(VnetProperty, WhatItSaysLiesInsideThePacket,
              (const std::vector<std::uint8_t>& noise, bool six, bool checksum_blank, std::uint8_t gso,
               std::uint16_t size)) {
    Octets frame = ethernet(six ? type_ipv6 : type_ipv4) + octets({six ? 0x60U : 0x45U});
    for (const std::uint8_t value : noise) {
        frame.push_back(static_cast<std::byte>(value < 128 ? value % 2 * 6 : value));
    }
    const auto length = static_cast<std::uint32_t>(frame.size());
    const auto result = to_vnet({.checksum_blank = checksum_blank,
                                 .data_validated = false,
                                 .gso_type = static_cast<GsoType>(gso % 4),
                                 .gso_size = size},
                                frame, length);
    if (result && (result->header.flags & VnetHeader::needs_csum) != 0) {
        RC_ASSERT(result->header.csum_start + result->header.csum_offset + 2U <= length);
        RC_ASSERT(result->header.hdr_len <= length);
    }
}

}  // namespace
}  // namespace uvif
