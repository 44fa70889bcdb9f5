// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <net/if_arp.h>
#include <sys/syscall.h>

#include <chrono>
#include <thread>

#include "port/tap.hpp"
#include "runtime/limits.hpp"
#include "runtime/loop.hpp"
#include "unit/port/network.hpp"

namespace uvif {
namespace {

using testing::HasSubstr;

class TapDeviceTest : public NetworkTest {};

TEST_F(TapDeviceTest, MakesAnInterfaceThatGoesWithIt) {
    {
        auto device = TapDevice::open({.name = "uvif-a"});
        ASSERT_TRUE(device) << device.error().message;
        EXPECT_EQ((*device)->name(), "uvif-a");
        EXPECT_EQ((*device)->queue_count(), 1U);
        EXPECT_NE(::if_nametoindex("uvif-a"), 0U);
        EXPECT_EQ(ask("uvif-a", SIOCGIFTXQLEN)->ifr_qlen, limits::tap_queue_length);
    }
    EXPECT_EQ(::if_nametoindex("uvif-a"), 0U);
}

TEST_F(TapDeviceTest, APersistentInterfaceStays) {
    ASSERT_TRUE(TapDevice::open({.name = "uvif-p", .persistent = true}));
    EXPECT_NE(::if_nametoindex("uvif-p"), 0U);
    ASSERT_TRUE(TapDevice::open({.name = "uvif-p", .queues = 3, .persistent = true}));  // whatever its queues were
    EXPECT_NE(::if_nametoindex("uvif-p"), 0U);
    ASSERT_TRUE(TapDevice::open({.name = "uvif-p", .queues = 2}));  // attaches, and takes the persistence away
    EXPECT_EQ(::if_nametoindex("uvif-p"), 0U);
}

TEST_F(TapDeviceTest, SetsTheInterfaceUp) {
    auto opened = TapDevice::open({.name = "uvif-s"});
    ASSERT_TRUE(opened);
    TapDevice& device = **opened;
    ASSERT_TRUE(device.set_mac({0xfe, 0xff, 0xff, 0xff, 0xff, 0xff}));
    const auto mac = ask("uvif-s", SIOCGIFHWADDR);
    EXPECT_EQ(std::memcmp(mac->ifr_hwaddr.sa_data, "\xfe\xff\xff\xff\xff\xff", 6), 0);
    ASSERT_TRUE(device.set_mtu(9000));
    EXPECT_EQ(ask("uvif-s", SIOCGIFMTU)->ifr_mtu, 9000);
    ASSERT_TRUE(device.set_up(true));
    EXPECT_NE(ask("uvif-s", SIOCGIFFLAGS)->ifr_flags & IFF_UP, 0);
    for (const bool carrier : {false, true}) {
        ASSERT_TRUE(device.set_carrier(carrier));
        const std::int64_t deadline = monotonic_ns() + 10 * ns_per_s;
        while (((ask("uvif-s", SIOCGIFFLAGS)->ifr_flags & IFF_RUNNING) != 0) != carrier) {
            ASSERT_LT(monotonic_ns(), deadline);
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    }
    ASSERT_TRUE(device.set_up(false));
    EXPECT_EQ(ask("uvif-s", SIOCGIFFLAGS)->ifr_flags & IFF_UP, 0);
    const auto mtu = device.set_mtu(1);
    ASSERT_FALSE(mtu);
    EXPECT_THAT(mtu.error().message, HasSubstr("MTU of uvif-s"));
    const auto mac_refused = device.set_mac({0xff, 0xff, 0xff, 0xff, 0xff, 0xff});
    EXPECT_FALSE(mac_refused);
}

TEST_F(TapDeviceTest, RefusesNamesThatAreNone) {
    for (const char* name : {"", "sixteen-letters-", ".", "..", "a/b", "a:b", "tap%d", "a b", "a\nb", "\xc3\xa9"}) {
        const auto device = TapDevice::open({.name = name});
        ASSERT_FALSE(device) << name;
        EXPECT_EQ(device.error().code, EINVAL);
        EXPECT_THAT(device.error().message, HasSubstr("no name for an interface"));
    }
    ASSERT_TRUE(TapDevice::open({.name = "fifteen-letters"}));
    EXPECT_FALSE(TapDevice::open({.name = "uvif-q", .queues = 0}));
    EXPECT_FALSE(TapDevice::open({.name = "uvif-q", .queues = limits::tap_queues + 1}));
}

TEST_F(TapDeviceTest, RefusesInterfacesThatAreNoTap) {
    for (const unsigned queues : {1U, 2U}) {
        const auto device = TapDevice::open({.name = "lo", .queues = queues});
        ASSERT_FALSE(device);
        EXPECT_EQ(device.error().code, EINVAL);
        EXPECT_THAT(device.error().message, HasSubstr("exists and is not"));
    }
    const auto single = TapDevice::open({.name = "uvif-k"});
    ASSERT_TRUE(single);
    const auto multi = TapDevice::open({.name = "uvif-k", .queues = 2});
    ASSERT_FALSE(multi);
    EXPECT_THAT(multi.error().message, HasSubstr("not a multi-queue TAP"));
}

TEST_F(TapDeviceTest, KnowsThatItWasDeleted) {
    const auto device = TapDevice::open({.name = "uvif-d", .queues = 2});
    ASSERT_TRUE(device);
    EXPECT_FALSE((*device)->deleted());
    ASSERT_TRUE(run("ip link del uvif-d"));
    EXPECT_TRUE((*device)->deleted());
}

TEST_F(TapDeviceTest, SaysThatAnInterfaceIsBusy) {
    const auto first = TapDevice::open({.name = "uvif-b"});
    ASSERT_TRUE(first);
    const auto second = TapDevice::open({.name = "uvif-b"});
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code, EBUSY);
    EXPECT_THAT(second.error().message, HasSubstr("held by another process"));
}

TEST_F(TapDeviceTest, WaitsForAnInterfaceThatIsBusyForAMoment) {
    auto first = TapDevice::open({.name = "uvif-w"});
    ASSERT_TRUE(first);
    std::thread other([&first] {
        std::this_thread::sleep_for(std::chrono::milliseconds(30));
        first->reset();
    });
    const auto second = TapDevice::open({.name = "uvif-w"});
    other.join();
    EXPECT_TRUE(second) << second.error().message;
}

TEST_F(TapDeviceTest, SaysWhatPermissionIsMissing) {
    std::string message;
    int code = 0;
    std::thread nobody([&] {
        // The system call itself changes this thread only.
        if (::syscall(SYS_setresuid, 65534, 65534, 65534) == 0) {
            const auto device = TapDevice::open({.name = "uvif-n"});
            if (!device) {
                code = device.error().code;
                message = device.error().message;
            }
        }
    });
    nobody.join();
    EXPECT_TRUE(code == EPERM || code == EACCES) << code;
    EXPECT_THAT(message, HasSubstr("no permission"));
}

TEST_F(TapDeviceTest, QueuesAreTakenAndGivenBack) {
    auto opened = TapDevice::open({.name = "uvif-m", .queues = 3});
    ASSERT_TRUE(opened) << opened.error().message;
    TapDevice& device = **opened;
    ASSERT_TRUE(device.set_carrier(true)) << "with no queue in use";
    ASSERT_TRUE(device.set_offload(true, true, true));
    const auto loop = Loop::create(LoopKind::epoll);
    for (int round = 0; round < 3; ++round) {
        auto one = device.queue(0, **loop);
        auto two = device.queue(1, **loop);
        ASSERT_TRUE(one);
        ASSERT_TRUE(two) << two.error().message;
        EXPECT_FALSE(device.queue(1, **loop)) << "taken";
    }
    EXPECT_FALSE(device.queue(3, **loop));
}

}  // namespace
}  // namespace uvif
