// SPDX-License-Identifier: MIT
#include "port/vxlan_lent.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "unit/port/packets.hpp"

namespace uvif {
namespace {

using Ids = std::vector<std::uint32_t>;

class LentPacketsTest : public testing::Test {
protected:
    Packet* make() { return packets_.make(frames::payload(100)); }

    Packets packets_;
    LentPackets lent_;
};

TEST_F(LentPacketsTest, ComeHomeWithTheLastUse) {
    Packet* const packet = make();
    const auto at = lent_.enter(packet);
    LentPackets::List first;
    LentPackets::List second;
    for (LentPackets::List* list : {&first, &first, &second}) {
        lent_.use(at, *list);
    }
    EXPECT_EQ(first.count, 1U) << "a message uses a packet once";
    lent_.release(first, false);
    EXPECT_TRUE(packets_.completed().empty());
    lent_.release(first, false);
    EXPECT_TRUE(packets_.completed().empty()) << "it has nothing left to release";
    lent_.release(second, false);
    EXPECT_EQ(packets_.completed(), Ids{packet->id});
    EXPECT_FALSE(packet->copied);
}

TEST_F(LentPacketsTest, AreCopiedWhenAnyOfThemIs) {
    for (const bool first_is : {true, false}) {
        Packet* const packet = make();
        const auto at = lent_.enter(packet);
        LentPackets::List first;
        LentPackets::List second;
        lent_.use(at, first);
        lent_.use(at, second);
        lent_.release(first, first_is);
        lent_.release(second, !first_is);
        EXPECT_TRUE(packet->copied);
    }
}

TEST_F(LentPacketsTest, ShareAMessageAndMakeRoomAgain) {
    std::vector<LentPackets::List> lists(LentPackets::packets_max / LentPackets::message_packets_max);
    for (int round = 0; round < 3; ++round) {
        Ids ids;
        for (LentPackets::List& list : lists) {
            for (std::size_t i = 0; i < LentPackets::message_packets_max; ++i) {
                ASSERT_TRUE(lent_.has_room());
                Packet* const packet = make();
                ids.push_back(packet->id);
                lent_.use(lent_.enter(packet), list);
            }
        }
        EXPECT_FALSE(lent_.has_room());
        for (LentPackets::List& list : lists) {
            lent_.release(list, false);
            EXPECT_TRUE(lent_.has_room());
        }
        EXPECT_EQ(packets_.completed(), ids);
    }
}

}  // namespace
}  // namespace uvif
