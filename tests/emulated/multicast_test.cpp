// SPDX-License-Identifier: MIT
//
// Multicast control between the library and the daemon. The port reflects frames with their two addresses exchanged:
// one from a group comes back as one to it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "emulated/host.hpp"
#include "uvif/netfront.hpp"

namespace uvif::test {
namespace {

using netfront::Device;
using Mac = std::array<std::uint8_t, 6>;
using testing::ElementsAre;

constexpr Mac broadcast{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
constexpr Mac own{0x00, 0x16, 0x3e, 0, 0, 1};

constexpr Mac group(unsigned n) {
    return {0x01, 0x00, 0x5e, 0, static_cast<std::uint8_t>(n >> 8), static_cast<std::uint8_t>(n)};
}

class MulticastTest : public testing::Test {
protected:
    std::unique_ptr<Device> connect(bool filter) {
        netfront::Config config;
        config.hypervisor = host.hypervisor(domain);
        config.filter_multicast = filter;
        auto device = Device::connect(config);
        EXPECT_TRUE(device) << device.error().message;
        return device ? std::move(*device) : nullptr;
    }

    /// Of frames to these addresses, those that came; one to the guest itself ends them, and is not told of.
    std::vector<Mac> came(Device& device, std::vector<Mac> to) {
        netfront::Queue& queue = device.queue(0);
        to.push_back(own);
        for (const Mac& address : to) {
            netfront::Packet packet;
            packet.fragment_count = 1;
            EXPECT_EQ(queue.allocate(std::span(packet.fragments).first(1)), 1U);
            std::memset(packet.fragments[0].data, 0, 60);
            std::memcpy(packet.fragments[0].data + address.size(), address.data(), address.size());
            packet.fragments[0].length = 60;
            EXPECT_EQ(queue.send(std::span(&packet, 1)), 1U);
        }
        std::vector<Mac> all;
        const auto end = std::chrono::steady_clock::now() + patience;
        while (std::chrono::steady_clock::now() < end) {
            std::array<netfront::Packet, 32> packets;
            const auto got = std::span(packets).first(queue.receive(packets));
            for (const netfront::Packet& packet : got) {
                Mac address;
                std::memcpy(address.data(), packet.fragments[0].data, address.size());
                all.push_back(address);
            }
            queue.release(got);
            if (!all.empty() && all.back() == own) {
                all.pop_back();
                return all;
            }
            (void)queue.arm(true);
        }
        ADD_FAILURE() << "the last never came";
        return all;
    }
    /// Asks for as many groups as it is told to, beginning with the first; waits for the answers.
    void join(Device& device, unsigned count) {
        netfront::Queue& queue = device.queue(0);
        for (unsigned n = 0; n < count;) {
            const int error = queue.join(group(n));
            ASSERT_TRUE(error == 0 || error == EAGAIN);
            n += error == 0 ? 1 : 0;
            (void)queue.arm(true);
        }
        EXPECT_TRUE(eventually([&queue] {
            (void)queue.allocate({});
            (void)queue.arm(true);
            return queue.tx_in_flight() == 0;
        }));
    }
    [[nodiscard]] nlohmann::json show() const { return host.ask({"show", "vif" + std::to_string(domain) + ".0"}); }
    void leave() {
        host.machine("detach", {std::to_string(domain), "0"});
        EXPECT_TRUE(host.at_rest());
    }

    Host host;
    unsigned domain = host.create();
    unsigned vif = host.attach(domain);
};

TEST_F(MulticastTest, AGuestThatAsksForItGetsTheGroupsThatItJoined) {
    {
        const auto device = connect(true);
        ASSERT_NE(device, nullptr);
        EXPECT_TRUE(device->can_filter_multicast());
        EXPECT_THAT(came(*device, {group(1), broadcast, group(2)}), ElementsAre(broadcast));
        EXPECT_EQ(host.counter(domain, vif, "rx_drop_unwanted_group"), 2U);
        EXPECT_EQ(device->queue(0).join(group(1)), 0);
        EXPECT_THAT(came(*device, {group(1), broadcast, group(2)}), ElementsAre(group(1), broadcast));
        EXPECT_EQ(device->queue(0).leave(group(1)), 0);
        EXPECT_EQ(device->queue(0).join(group(2)), 0);
        EXPECT_THAT(came(*device, {group(1), broadcast, group(2)}), ElementsAre(broadcast, group(2)));
        EXPECT_EQ(device->queue(0).statistics().groups_refused, 0U);
        EXPECT_EQ(device->queue(0).join(own), EINVAL);
    }
    {
        const auto again = connect(true);
        ASSERT_NE(again, nullptr);
        EXPECT_THAT(came(*again, {group(2)}), ElementsAre()) << "groups go with the connection";
    }
    leave();
}

TEST_F(MulticastTest, AGuestTurnsItOnAndOffWhenItLikes) {
    {
        const auto device = connect(false);
        ASSERT_NE(device, nullptr);
        const std::vector<Mac> all{group(1), broadcast, group(2)};
        EXPECT_EQ(came(*device, all), all);
        EXPECT_EQ(device->queue(0).join(group(2)), 0);
        EXPECT_EQ(came(*device, all), all) << "nobody asked to filter";
        for (int round = 0; round < 3; ++round) {
            ASSERT_TRUE(device->filter_multicast(true));
            EXPECT_TRUE(eventually([&] { return came(*device, all) == std::vector{broadcast, group(2)}; }));
            EXPECT_EQ(show().at("multicast"), "filtered");
            EXPECT_EQ(show().at("multicast_groups"), 1);
            ASSERT_TRUE(device->filter_multicast(false));
            EXPECT_TRUE(eventually([&] { return came(*device, all) == all; }));
        }
    }
    leave();
}

TEST_F(MulticastTest, ThousandsOfGroupsAreRefusedBeyondSixtyFour) {
    {
        const auto device = connect(true);
        ASSERT_NE(device, nullptr);
        join(*device, 3000);
        EXPECT_EQ(device->queue(0).statistics().groups_refused, 3000U - 64);
        EXPECT_EQ(host.counter(domain, vif, "tx_drop_too_many_groups"), 3000U - 64);
        EXPECT_THAT(came(*device, {group(0), group(63), group(64), group(2999)}), ElementsAre(group(0), group(63)));
        EXPECT_EQ(device->queue(0).leave(group(63)), 0);
        EXPECT_EQ(device->queue(0).join(group(64)), 0);
        EXPECT_THAT(came(*device, {group(0), group(63), group(64)}), ElementsAre(group(0), group(64)));
    }
    leave();
}

/// A guest writes to that key without end, sense and nonsense: its packets come, and the log stays short.
TEST_F(MulticastTest, AGuestThatNeverMakesUpItsMindCostsItselfGroupsAtMost) {
    {
        const auto device = connect(true);
        ASSERT_NE(device, nullptr);
        EXPECT_EQ(device->queue(0).join(group(1)), 0);
        std::atomic<bool> done = false;
        std::thread writer([&] {
            const auto store = host.store_of(domain);
            const std::string key = Host::frontend(domain) + "/request-multicast-control";
            const std::vector<std::string> values{"1", "0", "yes", "", "-1", "4294967296", std::string(1000, 'x'), "1"};
            for (int i = 0; i < 1000; ++i) {
                EXPECT_TRUE(store->write(key, values[static_cast<std::size_t>(i) % values.size()]).has_value());
                if (i % 7 == 0) {
                    EXPECT_TRUE(store->remove(key).has_value());
                }
            }
            EXPECT_TRUE(store->write(key, "1").has_value());
            done = true;
        });
        while (!done) {
            const auto got = came(*device, {group(1), broadcast, group(2)});
            EXPECT_GE(got.size(), 2U) << "what it joined, and what is for all, always comes";
        }
        writer.join();
        EXPECT_TRUE(eventually([&] { return came(*device, {group(1), group(2)}) == std::vector{group(1)}; }));
        const std::string log = host.log();
        int lines = 0;
        for (std::size_t at = 0; (at = log.find("request-multicast-control is", at)) != std::string::npos; ++at) {
            ++lines;
        }
        EXPECT_GT(lines, 0);
        EXPECT_LE(lines, 20);
    }
    leave();
}

/// The next daemon does not know the groups. Until the guest connects anew it gets all.
TEST_F(MulticastTest, AfterARestartOfTheDaemonNoGroupIsMissed) {
    {
        const auto device = connect(true);
        ASSERT_NE(device, nullptr);
        EXPECT_EQ(device->queue(0).join(group(1)), 0);
        EXPECT_THAT(came(*device, {group(1), group(2)}), ElementsAre(group(1)));
        host.daemon().send(SIGKILL);
        ASSERT_TRUE(host.daemon().wait().has_value());
        host.start_daemon();
        EXPECT_TRUE(eventually([&] { return came(*device, {group(1)}) == std::vector{group(1)}; }));
        EXPECT_THAT(came(*device, {group(1), group(2)}), ElementsAre(group(1), group(2)));
        EXPECT_THAT(show().at("multicast").get<std::string>(), testing::HasSubstr("earlier daemon"));
        EXPECT_EQ(device->queue(0).join(group(3)), 0);
        ASSERT_TRUE(device->filter_multicast(false));
        ASSERT_TRUE(device->filter_multicast(true));
        EXPECT_THAT(came(*device, {group(1), group(2)}), ElementsAre(group(1), group(2)));
    }
    {
        const auto again = connect(true);
        ASSERT_NE(again, nullptr);
        EXPECT_THAT(came(*again, {group(1), broadcast}), ElementsAre(broadcast));
    }
    leave();
}

}  // namespace
}  // namespace uvif::test
