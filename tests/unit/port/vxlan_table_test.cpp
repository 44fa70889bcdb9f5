// SPDX-License-Identifier: MIT
#include "port/vxlan_table.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace uvif {
namespace {

constexpr Mac guest{0x00, 0x16, 0x3e, 0, 0, 1};
constexpr Mac other{0x00, 0x16, 0x3e, 0, 0, 2};

const UnderlayAddress first = *parse_underlay_address("192.0.2.2");
const UnderlayAddress second = *parse_underlay_address("2001:db8::2");

Mac numbered(std::uint32_t number) {
    return {0x02,
            0,
            static_cast<std::uint8_t>(number >> 24),
            static_cast<std::uint8_t>(number >> 16),
            static_cast<std::uint8_t>(number >> 8),
            static_cast<std::uint8_t>(number)};
}

TEST(VxlanTable, KnowsWhatItWasTold) {
    VxlanTable table(std::vector<VxlanConfig::Static>{{other, second}, {guest, first}});
    EXPECT_EQ(table.find(guest, 0), first);
    EXPECT_EQ(table.find(other, 4'000'000'000), second) << "never grows old";
    EXPECT_EQ(table.find(numbered(1), 0), std::nullopt);
    table.learn(guest, second, 5);
    EXPECT_EQ(table.find(guest, 5), first) << "nobody takes it over";
}

TEST(VxlanTable, Learns) {
    VxlanTable table({});
    EXPECT_EQ(table.find(guest, 100), std::nullopt);
    table.learn(guest, first, 100);
    EXPECT_EQ(table.find(guest, 100), first);
    EXPECT_EQ(table.find(other, 100), std::nullopt);
    table.learn(guest, second, 101);
    EXPECT_EQ(table.find(guest, 101), second) << "it has moved";
}

TEST(VxlanTable, ForgetsWhoIsSilent) {
    VxlanTable table({});
    table.learn(guest, first, 100);
    EXPECT_EQ(table.find(guest, 100 + limits::vxlan_age_s - 1), first);
    EXPECT_EQ(table.find(guest, 100 + limits::vxlan_age_s), std::nullopt);
    EXPECT_EQ(table.find(guest, 99), first) << "another thread's clock may be behind";
    table.learn(guest, first, 350);
    EXPECT_EQ(table.find(guest, 350 + limits::vxlan_age_s - 1), first);
    table.learn(other, first, 0xffffffff);
    EXPECT_EQ(table.find(other, 10), first) << "seconds begin anew";
}

TEST(VxlanTable, LearnsOnlyAddressesOfMachines) {
    VxlanTable table({});
    for (const Mac& mac : {Mac{}, Mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, Mac{0x01, 0, 0x5e, 0, 0, 1}}) {
        table.learn(mac, first, 1);
        EXPECT_EQ(table.find(mac, 1), std::nullopt);
    }
}

TEST(VxlanTable, HoldsTheMostRecent) {
    VxlanTable table({});
    constexpr std::uint32_t many = 20 * limits::vxlan_learned_entries;
    for (std::uint32_t i = 0; i < many; ++i) {
        table.learn(numbered(i), first, i / 1000);
    }
    std::size_t known = 0;
    for (std::uint32_t i = 0; i < many; ++i) {
        known += table.find(numbered(i), many / 1000) ? 1 : 0;
    }
    EXPECT_GT(known, limits::vxlan_learned_entries / 2);
    EXPECT_LE(known, limits::vxlan_learned_entries);
    EXPECT_EQ(table.find(numbered(many - 1), many / 1000), first);
}

/// Sixteen octets do not change at once; nobody may see half an address.
TEST(VxlanTable, IsReadWhileItLearns) {
    VxlanTable table({});
    UnderlayAddress ones;
    UnderlayAddress twos;
    ones.octets.fill(1);
    twos.octets.fill(2);
    table.learn(guest, ones, 1);
    std::atomic<bool> done = false;
    std::thread reader([&] {
        for (int reads = 0, found = 0; found < 500000 && reads < 50000000; ++reads) {
            const auto at = table.find(guest, 1);
            found += at ? 1 : 0;
            if (at && *at != ones && *at != twos) {
                ADD_FAILURE() << to_string(*at);
                break;
            }
        }
        done = true;
    });
    for (unsigned i = 0; !done; ++i) {
        table.learn(guest, i % 2 == 0 ? twos : ones, 1);
    }
    reader.join();
}

}  // namespace
}  // namespace uvif
