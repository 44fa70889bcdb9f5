// SPDX-License-Identifier: MIT
//
// Long runs leave from our buffers (vxlan_underlay.hpp).
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <vector>

#include "port/vxlan_buffers.hpp"
#include "unit/port/vxlan_underlay.hpp"

namespace uvif {
namespace {

using namespace frames;

class VxlanZerocopyTest : public VxlanUnderlayTest {
protected:
    static constexpr unsigned burst = 40;  ///< frames that make one long message

    /// Frames that are one message; all of them filled with `mark`.
    void submit(const Mac& to, unsigned mark = 0, std::size_t length = 1400) {
        std::vector<Packet*> batch;
        for (unsigned i = 0; i < burst; ++i) {
            batch.push_back(packets_.make(frame(to, mark, length)));
        }
        port_->submit(batch);
        EXPECT_EQ(packets_.completed().size(), burst) << "nobody waits for the kernel";
        EXPECT_TRUE(port_->writable());
    }
};

TEST_F(VxlanZerocopyTest, CountsWhatLeavesByADevice) {
    const DropAll drop("uvif-v");
    if (!drop) {
        GTEST_SKIP() << "this kernel cannot drop what a device receives before it is looked at (TCX)";
    }
    for (int i = 0; i < 100; ++i) {
        submit(near);
    }
    settle();
    EXPECT_EQ(counters().zerocopy_sent, 100U);
    EXPECT_EQ(counters().zerocopy_copied, 0U);
    EXPECT_EQ(counters().submit_dropped, 0U);
    EXPECT_GT(sent_by_device(), 100U * burst * 1400U);
}

TEST_F(VxlanZerocopyTest, CopiesWhatIsShort) {
    const DropAll drop("uvif-v");
    for (const std::size_t length : {60U, 1000U}) {
        submit(near, 0, length);
    }
    settle();
    EXPECT_EQ(counters().zerocopy_sent + counters().zerocopy_copied, 0U);
}

/// Nobody but this host is there: the kernel copies, says so, and is not asked again so soon.
TEST_F(VxlanZerocopyTest, PausesWhereTheKernelCopies) {
    for (int i = 0; i < 20; ++i) {
        submit(here);
        settle();
    }
    EXPECT_EQ(counters().zerocopy_copied, 1U);
    EXPECT_EQ(counters().zerocopy_sent, 0U);
    EXPECT_EQ(counters().submit_dropped, 0U);
}

TEST_F(VxlanZerocopyTest, FallsBackWithoutOffloads) {
    if (!run("ethtool -K uvif-u tx off")) {
        GTEST_SKIP() << "ethtool is missing";
    }
    const std::uint64_t before = sent_by_device();
    for (int i = 0; i < 5; ++i) {
        submit(near);
    }
    settle();
    EXPECT_EQ(counters().zerocopy_sent, 0U);
    EXPECT_EQ(counters().submit_dropped, 0U);
    EXPECT_GT(sent_by_device() - before, 5U * burst * 1400U) << "one by one";
}

TEST_F(VxlanZerocopyTest, SaysWhatIsTooLong) {
    submit(near, 0, 1450);
    EXPECT_EQ(counters().submit_dropped, 0U);
    submit(near, 0, 1451);
    settle();
    EXPECT_EQ(counters().dropped_too_long, burst);
    submit(near);
    EXPECT_EQ(counters().submit_dropped, burst);
}

/// What is parked in the kernel is not written over, though much else is sent meanwhile.
TEST_F(VxlanZerocopyTest, KeepsWhatTheKernelStillReads) {
    submit(lost, 1);
    for (unsigned i = 0; i < 50; ++i) {
        submit(near, 2);
        submit(here, 3);
    }
    HostSide far("uvif-v");
    ASSERT_TRUE(run("ip neigh replace 10.9.0.9 lladdr 02:00:00:00:00:fe dev uvif-u nud permanent"));
    constexpr std::size_t front = 14 + 20 + 8;
    for (unsigned found = 0; found < burst;) {
        const auto got = far.receive();
        ASSERT_TRUE(got) << found;
        const Octets& octets = got->second;
        const Octets expected = octets_of(*packets_.make(frame(lost, 1, 1400)));
        for (std::size_t at = front; at + 8 + expected.size() <= octets.size(); at += 8 + expected.size(), ++found) {
            ASSERT_TRUE(
                std::equal(expected.begin(), expected.end(), octets.begin() + static_cast<std::ptrdiff_t>(at) + 8))
                << found;
        }
    }
}

/// Nothing calls back what waits for an answer to ARP: it holds some buffers, others get along with the rest.
TEST_F(VxlanZerocopyTest, HoldsLittleForWhoDoesNotAnswer) {
    const DropAll drop("uvif-v");
    if (!drop) {
        GTEST_SKIP() << "this kernel cannot drop what a device receives before it is looked at (TCX)";
    }
    set_neighbour("retrans_time_ms", 100);
    set_neighbour("unres_qlen_bytes", 10 << 20);  // or it would soon drop the oldest
    for (int i = 0; i < 10; ++i) {
        submit(lost);
    }
    settle();
    EXPECT_EQ(counters().zerocopy_sent, 0U);
    submit(near);
    settle();
    EXPECT_EQ(counters().zerocopy_sent, 1U) << "there is room for others";
    EXPECT_TRUE(sees_sent(1U + limits::vxlan_lent_messages)) << "it is given up, and they with it";
    settle(100);
    EXPECT_EQ(counters().zerocopy_sent, 1U + limits::vxlan_lent_messages) << "the others of the ten were copied";
    for (int i = 0; i < 20; ++i) {
        submit(near);
    }
    settle();
    EXPECT_EQ(counters().zerocopy_sent, 21U + limits::vxlan_lent_messages) << "all buffers are back";
}

/// Seconds are the caller's, so that nobody has to wait for them.
TEST_F(VxlanZerocopyTest, TriesAgainAfterAPause) {
    const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const UnderlayAddress at = *parse_underlay_address("127.0.0.2");
    const SocketAddress to(at, 4789);
    constexpr std::size_t octets = 60000;
    constexpr std::uint32_t now_s = 1000;
    auto buffers = VxlanBuffers::create();
    ASSERT_TRUE(buffers) << buffers.error().message;
    buffers->attach(socket.get());
    PortCounters counted;
    ASSERT_TRUE(buffers->lends(at, now_s, counted));
    std::byte* const first = buffers->current();
    ASSERT_EQ(::sendto(socket.get(), first, octets, MSG_ZEROCOPY, to.get(), to.length), static_cast<ssize_t>(octets));
    buffers->lent(at, {});
    buffers->advance();
    EXPECT_NE(buffers->current(), first);
    pollfd entry{socket.get(), 0, 0};
    ASSERT_EQ(::poll(&entry, 1, 10000), 1);
    buffers->settle(now_s, false, counted);
    EXPECT_EQ(buffers->outstanding(), 0U);
    EXPECT_EQ(counted.zerocopy_copied, 1U);
    EXPECT_FALSE(buffers->lends(at, now_s, counted));
    EXPECT_FALSE(buffers->lends(at, now_s + limits::vxlan_lent_pause_s - 1, counted));
    EXPECT_TRUE(buffers->lends(at, now_s + limits::vxlan_lent_pause_s, counted));
    EXPECT_TRUE(buffers->lends(*parse_underlay_address("127.0.0.3"), now_s, counted)) << "others are not concerned";
}

/// The kernel numbers messages, also some of those that it refuses.
TEST_F(VxlanZerocopyTest, NumbersAsTheKernelDoes) {
    const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const UnderlayAddress at = *parse_underlay_address("10.9.0.2");
    const SocketAddress to(at, 4789);
    const auto send = [&](std::byte* data, int each) {
        EXPECT_EQ(::setsockopt(socket.get(), SOL_UDP, UDP_SEGMENT, &each, sizeof each), 0);
        return ::sendto(socket.get(), data, 60000, MSG_ZEROCOPY, to.get(), to.length);
    };
    auto buffers = VxlanBuffers::create();
    ASSERT_TRUE(buffers) << buffers.error().message;
    buffers->attach(socket.get());
    PortCounters counted;
    std::uint32_t now_s = 100;
    for (int i = 0; i < 3; ++i, now_s += limits::vxlan_lent_pause_s) {
        ASSERT_TRUE(buffers->lends(at, now_s, counted));
        ASSERT_EQ(send(buffers->current(), 1400), 60000);
        buffers->lent(at, {});
        buffers->advance();
        ASSERT_TRUE(buffers->lends(at, now_s, counted));
        ASSERT_EQ(send(buffers->current(), 1480), -1) << "longer than the MTU";
        buffers->refused(at, now_s, counted);
        EXPECT_FALSE(buffers->lends(at, now_s, counted));
    }
    for (pollfd entry{socket.get(), 0, 0}; buffers->outstanding() != 0 && ::poll(&entry, 1, 10000) == 1;) {
        buffers->settle(now_s, false, counted);
    }
    EXPECT_EQ(buffers->outstanding(), 0U);
    EXPECT_EQ(counted.zerocopy_sent + counted.zerocopy_copied, 3U);
}

/// Pages of a process without privileges count against RLIMIT_MEMLOCK.
TEST_F(VxlanZerocopyTest, FallsBackWhenNothingMayBePinned) {
    __user_cap_header_struct self{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    std::array<__user_cap_data_struct, 2> all{};
    rlimit before{};
    ASSERT_EQ(::syscall(SYS_capget, &self, all.data()), 0);
    ASSERT_EQ(::getrlimit(RLIMIT_MEMLOCK, &before), 0);
    auto fewer = all;
    fewer[0].effective &= ~(1U << CAP_IPC_LOCK);
    const rlimit little{.rlim_cur = 0, .rlim_max = before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_MEMLOCK, &little), 0);
    ASSERT_EQ(::syscall(SYS_capset, &self, fewer.data()), 0);
    for (int i = 0; i < 5; ++i) {
        submit(near);
    }
    settle();
    ASSERT_EQ(::syscall(SYS_capset, &self, all.data()), 0);
    ASSERT_EQ(::setrlimit(RLIMIT_MEMLOCK, &before), 0);
    EXPECT_EQ(counters().zerocopy_sent + counters().zerocopy_copied, 0U);
    EXPECT_EQ(counters().submit_dropped, 0U);
    EXPECT_GT(sent_by_device(), 5U * burst * 1400U);
}

/// A port that goes leaves nothing behind that it would have to wait for.
TEST_F(VxlanZerocopyTest, GoesWhileTheKernelReads) {
    submit(lost);
    const std::int64_t begun = monotonic_ns();
    port_.reset();
    EXPECT_LT(monotonic_ns() - begun, ns_per_s / 10);
}

}  // namespace
}  // namespace uvif
