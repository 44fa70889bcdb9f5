// SPDX-License-Identifier: MIT
// A process dies, the other side lives: a daemon stopped or killed and started again under a connected guest, and a
// guest's program killed under the daemon.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <memory>
#include <string>

#include "emulated/host.hpp"
#include "emulated/traffic_guest.hpp"

namespace uvif::test {
namespace {

/// Counts how often somebody writes a state while this lives. (The store merges events that nobody fetched yet: at
/// least one is left of any.)
class StateWrites {
public:
    StateWrites(Host& host, const std::string& folder) : store_(host.store_of(0)) {
        EXPECT_TRUE(store_->watch(folder + "/state", "state").has_value());
        EXPECT_TRUE(eventually([this] { return store_->next_event().has_value(); }));  // tells of its registration
    }
    unsigned count() {
        // Events come before the answers to later requests.
        EXPECT_TRUE(store_->read("/local/domain/0/domid").has_value());
        for (; store_->next_event(); ++count_) {
        }
        return count_;
    }

private:
    std::unique_ptr<xen::Store> store_;
    unsigned count_ = 0;
};

struct Restart {
    const char* name;
    int signal;
    std::vector<std::string> arguments;
};

void PrintTo(const Restart& restart, std::ostream* out) {
    *out << restart.name;
}

class DaemonRestartTest : public testing::TestWithParam<Restart> {};

TEST_P(DaemonRestartTest, AGuestGoesOn) {
    Host host({.arguments = GetParam().arguments});
    const unsigned domain = host.create();
    host.attach(domain);
    {
        TrafficGuest guest(host.hypervisor(domain), 2);
        ASSERT_TRUE(guest.connected()) << guest.failure();
        ASSERT_TRUE(guest.flows());
        StateWrites backend(host, Host::backend(domain));
        StateWrites frontend(host, Host::frontend(domain));
        for (int round = 0; round < 3; ++round) {
            host.daemon().send(GetParam().signal);
            ASSERT_TRUE(host.daemon().wait().has_value());
            EXPECT_EQ(host.read(Host::backend(domain) + "/state"), "4");
            host.start_daemon();
            ASSERT_TRUE(guest.flows()) << "after restart " << round;
        }
        EXPECT_EQ(backend.count(), 0U);
        EXPECT_EQ(frontend.count(), 0U);
        EXPECT_EQ(guest.interruptions(), 0U);
        EXPECT_EQ(guest.spoiled(), 0U);
        EXPECT_EQ(guest.state(), netfront::LinkState::up);
    }
    host.destroy(domain);
    EXPECT_TRUE(host.at_rest());
}

INSTANTIATE_TEST_SUITE_P(Signals, DaemonRestartTest,
                         testing::Values(Restart{"Stopped", SIGTERM, {}},
                                         Restart{"StoppedMapping", SIGTERM, {"--strategy", "map"}},
                                         Restart{"Killed", SIGKILL, {}},
                                         Restart{"KilledMapping", SIGKILL, {"--strategy", "map"}}),
                         [](const auto& test) { return test.param.name; });

Launch perf(const Host& host, unsigned domain, const std::string& seconds) {
    return {{program("uvif-perf"), "--echo", "--queues", "2", "-i", "0", "-t", seconds, "--hypervisor",
             host.hypervisor(domain)}};
}

TEST(GuestRestartTest, AKilledProgramConnectsAgain) {
    Host host;
    const unsigned domain = host.create();
    host.attach(domain);
    const auto connections = [&host] {
        const std::string log = host.log();
        int count = 0;
        for (std::size_t at = 0; (at = log.find(": connected", at)) != std::string::npos; ++at) {
            ++count;
        }
        return count;
    };
    for (int round = 0; round < 3; ++round) {
        Process guest(perf(host, domain, "60"), host.directory() + "/perf.log");
        ASSERT_TRUE(eventually([&] { return connections() == round + 1 || !guest.running(); }));
        ASSERT_TRUE(eventually([&] { return host.counter(domain, 0, "rx_packets") > 100 || !guest.running(); }));
        ASSERT_TRUE(guest.running()) << guest.output();
        guest.send(SIGKILL);
        ASSERT_TRUE(guest.wait().has_value());
        EXPECT_EQ(host.read(Host::backend(domain) + "/state"), "4");
    }
    const Outcome last = run(perf(host, domain, "0.2"));
    EXPECT_EQ(last.status, 0) << last.output;
    EXPECT_TRUE(host.reaches(Host::backend(domain), "6"));
    host.destroy(domain);
    EXPECT_TRUE(host.at_rest());
}

TEST(GuestRestartTest, AKilledProgramsDomainCanGo) {
    Host host;
    const unsigned domain = host.create();
    host.attach(domain);
    Process guest(perf(host, domain, "60"), host.directory() + "/perf.log");
    ASSERT_TRUE(eventually([&] { return host.counter(domain, 0, "rx_packets") > 100 || !guest.running(); }));
    guest.send(SIGKILL);
    ASSERT_TRUE(guest.wait().has_value());
    host.destroy(domain);
    EXPECT_TRUE(host.at_rest());
}

}  // namespace
}  // namespace uvif::test
