// SPDX-License-Identifier: MIT
// A guest that writes its keys without end (XSA-349) costs the daemon no memory, its log no room, and its neighbour
// nothing but time.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <thread>
#include <vector>

#include "emulated/host.hpp"
#include "emulated/raw_guest.hpp"
#include "emulated/traffic_guest.hpp"

namespace uvif::test {
namespace {

TEST(ChurnTest, CostsNothingThatStays) {
    constexpr unsigned writes = 20000;
    constexpr std::size_t growth_kib = 4096;
    Host host;
    const unsigned neighbours_domain = host.create();
    host.attach(neighbours_domain);
    const TrafficGuest neighbour(host.hypervisor(neighbours_domain));
    ASSERT_TRUE(neighbour.connected()) << neighbour.failure();
    const unsigned domain = host.create();
    host.attach(domain);
    RawGuest guest(host, domain);

    const std::vector<std::string> keys{"state", "state", "state", "feature-sg", "feature-gso-tcpv4", "feature-any"};
    const std::vector<std::string> values{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "", "text"};
    std::minstd_rand random(1);  // the same every time
    std::size_t warm_kib = 0;
    std::uint64_t echoes = 0;
    for (unsigned i = 0; i < writes; ++i) {
        if (i % (writes / 8) == 0) {
            EXPECT_TRUE(neighbour.flows()) << "after " << i << " writes";
            warm_kib = i == writes / 4 ? host.resident_kib() : warm_kib;
            guest.announce(guest.keys());  // a whole connection, now and then
        }
        guest.set(keys[random() % keys.size()], values[random() % values.size()]);
        echoes = i == 0 ? neighbour.echoes() : echoes;
    }
    EXPECT_GT(neighbour.echoes(), echoes + 1000);
    EXPECT_EQ(neighbour.interruptions(), 0U);
    if (memory_is_ours) {
        EXPECT_LE(host.resident_kib(), warm_kib + growth_kib);
    }

    // It is served as ever when it comes to its senses.
    ASSERT_TRUE(guest.starts_over());
    guest.connect();
    EXPECT_TRUE(guest.backend_reaches("4"));
}

// Without debug lines, which nobody writes in earnest, a vif has its budget of lines and no more.
TEST(ChurnTest, LeavesALogThatCanBeRead) {
    Host host({.log_level = "info"});
    const unsigned domain = host.create();
    host.attach(domain);
    RawGuest guest(host, domain);
    for (unsigned i = 0; i < 100; ++i) {
        Keys keys = guest.keys();
        keys["tx-ring-ref"] = "rubbish";
        ASSERT_TRUE(guest.backend_reaches("2"));
        guest.announce(keys);
        ASSERT_TRUE(guest.backend_reaches("5"));
        guest.set_state("6");
        ASSERT_TRUE(guest.backend_reaches("6"));
        guest.set_state("1");
    }
    const std::string log = host.log();
    EXPECT_LT(std::ranges::count(log, '\n'), 30);
    EXPECT_THAT(log, testing::HasSubstr("tx-ring-ref is \"rubbish\""));
}

// A frontend may stay in Closing for as long as it likes.
TEST(ChurnTest, WaitsQuietlyForAFrontendThatNeverCloses) {
    Host host;
    const unsigned domain = host.create();
    host.attach(domain);
    RawGuest guest(host, domain);
    guest.connect();
    ASSERT_TRUE(guest.backend_reaches("4"));
    guest.set_state("5");
    ASSERT_TRUE(guest.backend_reaches("5"));
    std::this_thread::sleep_for(std::chrono::milliseconds(5500));  // until the frontend's time is over
    const auto before = host.processor_time();
    std::this_thread::sleep_for(std::chrono::seconds(1));
    EXPECT_LT(host.processor_time() - before, std::chrono::milliseconds(200));
    EXPECT_EQ(host.read(guest.backend() + "/state"), "5");
}

}  // namespace
}  // namespace uvif::test
