// SPDX-License-Identifier: MIT
#include "packet/toeplitz.hpp"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <vector>

#define XEN_NETIF_DEFINE_TOEPLITZ
extern "C" {
#include <xen/grant_table.h>
#include <xen/io/netif.h>
}

namespace uvif {
namespace {

/// The key that Microsoft's "Verifying the RSS Hash Calculation" uses.
constexpr std::array<std::uint8_t, 40> rss_key{0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67,
                                               0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb,
                                               0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
                                               0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa};

std::vector<std::byte> octets(std::initializer_list<unsigned> values) {
    std::vector<std::byte> all;
    for (const unsigned value : values) {
        all.push_back(static_cast<std::byte>(value));
    }
    return all;
}

/// An IPv6 address of eight groups.
std::vector<std::byte> groups(std::initializer_list<unsigned> values) {
    std::vector<std::byte> all;
    for (const unsigned value : values) {
        all.push_back(static_cast<std::byte>(value >> 8));
        all.push_back(static_cast<std::byte>(value & 0xff));
    }
    return all;
}

struct Vector {
    std::vector<std::byte> source, destination;
    unsigned source_port, destination_port;
    std::uint32_t addresses, with_ports;
};

TEST(Toeplitz, GivesMicrosoftsVectors) {
    const Vector vectors[] = {
        {octets({66, 9, 149, 187}), octets({161, 142, 100, 80}), 2794, 1766, 0x323e8fc2, 0x51ccc178},
        {octets({199, 92, 111, 2}), octets({65, 69, 140, 83}), 14230, 4739, 0xd718262a, 0xc626b0ea},
        {octets({24, 19, 198, 95}), octets({12, 22, 207, 184}), 12898, 38024, 0xd2d0a5de, 0x5c2b394a},
        {octets({38, 27, 205, 30}), octets({209, 142, 163, 6}), 48228, 2217, 0x82989176, 0xafc7327f},
        {octets({153, 39, 163, 191}), octets({202, 188, 127, 2}), 44251, 1303, 0x5d1809c5, 0x10e828a2},
        {groups({0x3ffe, 0x2501, 0x200, 0x1fff, 0, 0, 0, 7}), groups({0x3ffe, 0x2501, 0x200, 3, 0, 0, 0, 1}), 2794,
         1766, 0x2cc18cd5, 0x40207d3d},
        {groups({0x3ffe, 0x501, 8, 0, 0x260, 0x97ff, 0xfe40, 0xefab}), groups({0xff02, 0, 0, 0, 0, 0, 0, 1}), 14230,
         4739, 0x0f0c461c, 0xdde51bbf},
        {groups({0x3ffe, 0x1900, 0x4545, 3, 0x200, 0xf8ff, 0xfe21, 0x67cf}),
         groups({0xfe80, 0, 0, 0, 0x200, 0xf8ff, 0xfe21, 0x67cf}), 44251, 38024, 0x4b61e985, 0x02d1feef},
    };
    const Toeplitz hash(rss_key);
    for (const Vector& v : vectors) {
        std::vector<std::byte> input = v.source;
        input.insert(input.end(), v.destination.begin(), v.destination.end());
        EXPECT_EQ(hash(input), v.addresses);
        const auto ports = groups({v.source_port, v.destination_port});
        input.insert(input.end(), ports.begin(), ports.end());
        EXPECT_EQ(hash(input), v.with_ports);
    }
}

RC_GTEST_PROP(Toeplitz, AgreesWithTheReferenceOfNetifH, ()) {
    const auto key = *rc::gen::container<std::vector<std::uint8_t>>(rc::gen::arbitrary<std::uint8_t>());
    const auto length = *rc::gen::inRange<std::size_t>(0, Toeplitz::input_max + 1);
    const auto input = *rc::gen::container<std::vector<std::uint8_t>>(length, rc::gen::arbitrary<std::uint8_t>());
    const auto expected = xen_netif_toeplitz_hash(key.data(), static_cast<unsigned>(key.size()), input.data(),
                                                  static_cast<unsigned>(input.size()));
    RC_ASSERT(Toeplitz(key)(std::as_bytes(std::span(input))) == expected);
}

}  // namespace
}  // namespace uvif
