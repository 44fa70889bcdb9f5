// SPDX-License-Identifier: MIT
//
// Long datagrams leave from where a packet is (vxlan_underlay.hpp).
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <memory>
#include <set>
#include <vector>

#include "packet/checksum.hpp"
#include "packet/headers.hpp"
#include "unit/port/vxlan_underlay.hpp"

namespace uvif {
namespace {

using namespace frames;

/// Of long datagrams the kernel sends the payload from where it is.
class VxlanPagesTest : public VxlanUnderlayTest {
protected:
    static constexpr std::size_t page = 4096;
    static constexpr std::size_t head = limits::header_octets;
    static constexpr std::size_t frame_octets = 9000;

    void SetUp() override {
        VxlanUnderlayTest::SetUp();
        if (IsSkipped()) {
            return;
        }
        ASSERT_TRUE(run("ip link set uvif-u mtu 9100 && ip link set uvif-v mtu 9100"));
        set_neighbour("unres_qlen_bytes", 10 << 20);
        port_.reset();
        auto port = endpoint_->queue(0, true);
        ASSERT_TRUE(port) << port.error().message;
        port_ = std::move(*port);
        ASSERT_EQ(port_->pins_from(), page);
    }

    /// As netback hands it over: a header that was copied apart, and pieces in pages of their own.
    Packet* mapped(const Octets& octets, const Offload& offload = {}, std::size_t piece = page) {
        std::vector<std::size_t> cuts{head};
        for (std::size_t at = head + piece; at < octets.size(); at += piece) {
            cuts.push_back(at);
        }
        Packet* packet = packets_.make(octets, offload, cuts);
        for (Fragment& part : std::span(packet->fragments).subspan(1, packet->fragment_count - 1U)) {
            std::byte* const own = pages_.emplace_back(std::make_unique<Page>())->data();
            part.data = std::copy_n(part.data, part.length, own) - part.length;
        }
        return packet;
    }

    std::vector<Packet*> send(const Mac& to, unsigned count, std::size_t octets = frame_octets,
                              std::size_t piece = page) {
        std::vector<Packet*> batch;
        for (unsigned i = 0; i < count; ++i) {
            batch.push_back(mapped(frame(to, i, octets - 14), {}, piece));
        }
        port_->submit(batch);
        return batch;
    }

    /// Seven segments, which are two messages.
    static Octets super_frame(const Mac& to) {
        constexpr unsigned octets = 60000;
        Octets frame = ethernet(type_ipv4) + ipv4(protocol_tcp, 20 + octets) + tcp() + payload(octets);
        std::memcpy(frame.data(), to.data(), to.size());
        return frame;
    }
    static constexpr Offload gso{.checksum_blank = true, .gso_type = GsoType::tcpv4, .gso_size = 8900};

    /// So many packets are home in the end, each once.
    void expect_home(std::size_t count) {
        for (const std::int64_t deadline = monotonic_ns() + 20 * ns_per_s;;) {
            const auto ids = packets_.completed();
            home_ += ids.size();
            EXPECT_EQ(std::set(ids.begin(), ids.end()).size(), ids.size());
            if (home_ >= count || monotonic_ns() > deadline) {
                break;
            }
            settle(20);
        }
        EXPECT_EQ(home_, count);
    }

    struct alignas(page) Page : std::array<std::byte, page> {};
    std::deque<std::unique_ptr<Page>> pages_;
    std::size_t home_ = 0;
};

TEST_F(VxlanPagesTest, LeavesFromWhereTheyAre) {
    const DropAll drop("uvif-v");
    if (!drop) {
        GTEST_SKIP() << "this kernel cannot drop what a device receives before it is looked at (TCX)";
    }
    for (unsigned sent = 8; sent <= 40; sent += 8) {
        const auto batch = send(near, 8);
        expect_home(sent);
        EXPECT_TRUE(std::ranges::none_of(batch, &Packet::copied));
    }
    EXPECT_EQ(counters().zerocopy_sent, 10U) << "four of them, of four pieces each, share a message";
    EXPECT_EQ(counters().zerocopy_copied + counters().submit_dropped, 0U);
    EXPECT_GT(sent_by_device(), 40 * frame_octets);
}

TEST_F(VxlanPagesTest, CopiesWhatIsShortOrForManyOrInManyPieces) {
    const DropAll drop("uvif-v");
    for (const Packet* packet : send(near, 8, page - 1)) {
        EXPECT_TRUE(packet->copied);
    }
    for (const Packet* packet : send(near, 4, frame_octets, 500)) {
        EXPECT_TRUE(packet->copied);
    }
    expect_home(12);
    const auto whole = packets_.make(frame(near, 1, frame_octets));
    port_->submit(std::span(&whole, 1));
    EXPECT_TRUE(whole->copied) << "it is no guest's page";
    expect_home(13);
    const auto unknown = send({2, 0, 0, 0, 0, 99}, 1);
    expect_home(14);
    EXPECT_EQ(counters().dropped_refused, 1U) << "there is no remote";
    EXPECT_EQ(counters().zerocopy_sent, 0U);
}

/// What arrives is what was in the pages, behind headers that are right; a run of copies goes before it.
TEST_F(VxlanPagesTest, ArriveWholeAndInOrder) {
    HostSide far("uvif-v");
    ASSERT_TRUE(run("ethtool -K uvif-u tx-udp-segmentation off"));
    const Octets super = super_frame(near);
    std::vector<Packet*> batch{packets_.make(frame(near, 1, 1000)), mapped(frame(near, 2, 8000)), mapped(super, gso),
                               packets_.make(frame(near, 3, 1000)), mapped(frame(near, 4, 8000))};
    port_->submit(batch);
    std::vector<Octets> arrived;
    while (arrived.size() < 11) {
        auto got = far.receive();
        ASSERT_TRUE(got) << arrived.size();
        arrived.emplace_back(got->second.begin() + 14 + 20 + 8 + 8, got->second.end());
    }
    EXPECT_EQ(arrived[0], octets_of(*batch[0]));
    EXPECT_EQ(arrived[1], octets_of(*batch[1]));
    EXPECT_EQ(arrived[9], octets_of(*batch[3]));
    EXPECT_EQ(arrived[10], octets_of(*batch[4]));
    Octets joined;
    for (std::size_t i = 2; i < 9; ++i) {
        const Headers headers = parse_headers(arrived[i]);
        ASSERT_TRUE(headers.is_tcp());
        const Fragment piece{arrived[i].data(), static_cast<std::uint32_t>(arrived[i].size())};
        const auto pseudo = pseudo_header_sum(arrived[i], headers, piece.length);
        const auto whole = checksum_sum(std::span(arrived[i]).subspan(headers.l4_offset));
        EXPECT_EQ(checksum_add(pseudo, whole), 0xffff) << "segment " << i - 2;
        joined.insert(joined.end(), arrived[i].begin() + 54, arrived[i].end());
    }
    EXPECT_EQ(joined, Octets(super.begin() + 54, super.end()));
    settle();
    expect_home(5);
}

/// Nothing calls them back: a few messages for who does not answer ARP, and the rest is copied, for others too only
/// when there is no room.
TEST_F(VxlanPagesTest, HoldLittleForWhoDoesNotAnswer) {
    const DropAll drop("uvif-v");
    if (!drop) {
        GTEST_SKIP() << "this kernel cannot drop what a device receives before it is looked at (TCX)";
    }
    set_neighbour("retrans_time_ms", 100);
    const auto parked = send(lost, 40);
    settle();
    constexpr std::size_t held = 4 * std::size_t{limits::vxlan_lent_messages};
    expect_home(40 - held);
    EXPECT_TRUE(std::all_of(parked.begin() + held, parked.end(), [](const Packet* packet) { return packet->copied; }));
    EXPECT_TRUE(port_->writable());
    const auto others = send(near, 8);
    expect_home(40 - held + 8);
    EXPECT_TRUE(std::ranges::none_of(others, &Packet::copied));
    port_->flush(true);
    expect_home(48 - held);
    EXPECT_TRUE(sees_sent(2 + limits::vxlan_lent_messages));
    expect_home(48);
    EXPECT_FALSE(parked.front()->copied);
}

/// The kernel copies for who is on this host, and says so.
TEST_F(VxlanPagesTest, PauseWhereTheKernelCopies) {
    ASSERT_TRUE(run("ip link set lo mtu 65535"));
    for (unsigned i = 0; i < 20; ++i) {
        const auto batch = send(here, 4);
        expect_home(4 * (i + 1));
        EXPECT_TRUE(std::ranges::all_of(batch, &Packet::copied));
    }
    EXPECT_EQ(counters().zerocopy_copied, 1U);
    EXPECT_EQ(counters().submit_dropped, 0U);
}

TEST_F(VxlanPagesTest, FallBackWhereAMessageIsRefused) {
    const std::uint64_t before = sent_by_device();
    (void)send(near, 8, 9070);
    expect_home(8);
    EXPECT_EQ(counters().dropped_too_long, 8U);
    ASSERT_TRUE(run("ethtool -K uvif-u tx off"));
    (void)send(near, 8);
    expect_home(16);
    EXPECT_EQ(counters().submit_dropped, 8U);
    EXPECT_GT(sent_by_device() - before, 8 * frame_octets) << "one by one";
}

/// The kernel may be done with one message of a packet, and read the other for a long time.
TEST_F(VxlanPagesTest, ComeHomeWithTheLastOfTheirMessages) {
    set_neighbour("unres_qlen_bytes", 1);  // of what waits for an address, the kernel keeps the last message only
    Packet* const packet = mapped(super_frame(lost), gso);
    port_->submit(std::span(&packet, 1));
    ASSERT_TRUE(sees_sent(1));
    settle(100);
    EXPECT_EQ(counters().zerocopy_sent, 1U) << "it reads the second";
    EXPECT_TRUE(packets_.completed().empty());
    (void)send(lost, 4);  // pushes that out
    ASSERT_TRUE(sees_sent(2));
    EXPECT_EQ(packets_.completed(), std::vector{packet->id});
    EXPECT_FALSE(packet->copied);
}

/// What waits for room is its owner's, what the kernel has is not, and nobody hears of it when the port is gone.
TEST_F(VxlanPagesTest, GoWithThePort) {
    (void)send(lost, 8);
    expect_home(0);
    port_.reset();
    expect_home(0);
}

}  // namespace
}  // namespace uvif
