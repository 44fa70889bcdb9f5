// SPDX-License-Identifier: MIT
// What may happen to a device between the day it is attached and the day it is gone, over a port of memory and over a
// TAP: the states that both sides see, and that nothing stays behind.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>

#include "emulated/host.hpp"
#include "emulated/raw_guest.hpp"
#include "emulated/traffic_guest.hpp"
#include "support/network_namespace.hpp"

namespace uvif::test {
namespace {

using testing::HasSubstr;

class LifeCycleTest : public testing::TestWithParam<std::string> {
protected:
    void SetUp() override {
        HostOptions options{.port = GetParam()};
        if (GetParam() == "tap") {
            UVIF_NEEDS_PRIVILEGE();
            network_.emplace();
            options.network = network_->fd();
        }
        host_ = std::make_unique<Host>(options);
        domain_ = host_->create();
    }

    void TearDown() override {
        if (host_ && !HasFatalFailure()) {
            EXPECT_TRUE(host_->at_rest());
            if (network_) {
                EXPECT_FALSE(network_->has_interface(interface()));
            }
        }
    }

    [[nodiscard]] std::string interface(unsigned handle = 0) const { return fmt::format("vif{}.{}", domain_, handle); }
    [[nodiscard]] std::string backend(unsigned handle = 0) const { return Host::backend(domain_, handle); }
    [[nodiscard]] std::string frontend(unsigned handle = 0) const { return Host::frontend(domain_, handle); }

    /// The daemon itself has seen the frontend in this state, and done what there was to do.
    [[nodiscard]] bool daemon_sees(const std::string& state) const {
        return eventually([&] {
            const auto vif = host_->ask({"show", interface()});
            return vif.is_object() && vif.at("frontend_state") == state;
        });
    }
    [[nodiscard]] bool served() const { return !host_->ask({"show", interface()}).is_null(); }

    std::optional<NetworkNamespace> network_;
    std::unique_ptr<Host> host_;
    unsigned domain_ = 0;
};

TEST_P(LifeCycleTest, ConnectsDisconnectsAndConnectsAgain) {
    host_->attach(domain_);
    EXPECT_EQ(network_.has_value(), network_ && network_->has_interface(interface()));
    RawGuest guest(*host_, domain_);
    for (int round = 0; round < 3; ++round) {
        ASSERT_TRUE(guest.backend_reaches("2"));
        guest.connect(round % 2 == 0);
        ASSERT_TRUE(guest.backend_reaches("4")) << host_->read(Host::error_key(domain_)).value_or("");
        guest.set_state("5");
        ASSERT_TRUE(guest.backend_reaches("5"));
        EXPECT_TRUE(eventually([this] { return host_->holds_nothing(); }));
        guest.set_state("6");
        ASSERT_TRUE(guest.backend_reaches("6"));
        guest.forget();
        guest.set_state("1");
    }
    ASSERT_TRUE(guest.backend_reaches("2"));
    host_->destroy(domain_);
}

// As Windows does at boot: it closes what it has never opened.
TEST_P(LifeCycleTest, ClosesBeforeItConnects) {
    host_->attach(domain_);
    RawGuest guest(*host_, domain_);
    for (const char* state : {"5", "6"}) {
        guest.set_state(state);
        ASSERT_TRUE(guest.backend_reaches(state));
    }
    guest.set_state("1");
    ASSERT_TRUE(guest.backend_reaches("2"));
    guest.connect();
    ASSERT_TRUE(guest.backend_reaches("4"));
    host_->destroy(domain_);
}

// A kexec, a resume, a driver bound anew.
TEST_P(LifeCycleTest, BeginsAnewFromConnected) {
    host_->attach(domain_);
    RawGuest guest(*host_, domain_);
    guest.connect();
    ASSERT_TRUE(guest.backend_reaches("4"));
    for (int round = 0; round < 3; ++round) {
        guest.set_state("1");
        ASSERT_TRUE(guest.backend_reaches("2"));
        EXPECT_TRUE(eventually([this] { return host_->holds_nothing(); }));
        guest.forget();
        guest.connect();
        ASSERT_TRUE(guest.backend_reaches("4"));
    }
    host_->destroy(domain_);
}

TEST_P(LifeCycleTest, IsDetachedWithTheFrontendsHelp) {
    host_->attach(domain_);
    RawGuest guest(*host_, domain_);
    guest.connect();
    ASSERT_TRUE(guest.backend_reaches("4"));
    Process detach = host_->machine_in_background("detach", {std::to_string(domain_), "0"});
    ASSERT_TRUE(guest.backend_reaches("5"));
    guest.set_state("5");
    guest.set_state("6");
    EXPECT_EQ(detach.wait(), 0) << detach.output();
    EXPECT_FALSE(host_->exists(backend()));
}

// libxl gives up after 10 s; the frontend has half of that.
TEST_P(LifeCycleTest, IsDetachedFromAFrontendThatNeverAnswers) {
    host_->attach(domain_);
    RawGuest guest(*host_, domain_);
    guest.connect();
    ASSERT_TRUE(guest.backend_reaches("4"));
    const Outcome detached = host_->machine("detach", {std::to_string(domain_), "0"});
    EXPECT_EQ(detached.status, 0) << detached.output;
    EXPECT_FALSE(host_->exists(backend()));
}

TEST_P(LifeCycleTest, IsDetachedBeforeTheFrontendCame) {
    host_->attach(domain_);
    const Outcome detached = host_->machine("detach", {std::to_string(domain_), "0"});
    EXPECT_EQ(detached.status, 0) << detached.output;
    EXPECT_FALSE(host_->exists(backend()));
}

TEST_P(LifeCycleTest, LosesTheFrontendsFolder) {
    host_->attach(domain_);
    RawGuest guest(*host_, domain_);
    guest.connect();
    ASSERT_TRUE(guest.backend_reaches("4"));
    host_->remove(frontend());
    ASSERT_TRUE(guest.backend_reaches("6"));
    EXPECT_TRUE(eventually([this] { return !served(); }));
    host_->remove(backend());
}

TEST_P(LifeCycleTest, LosesItsOwnFolderAtAnyState) {
    for (const std::string state : {"2", "4", "5"}) {
        host_->attach(domain_);
        RawGuest guest(*host_, domain_);
        if (state != "2") {
            guest.connect();
            ASSERT_TRUE(guest.backend_reaches("4"));
        }
        if (state == "5") {
            guest.set_state("5");
        }
        ASSERT_TRUE(guest.backend_reaches(state));
        host_->remove(backend());
        EXPECT_TRUE(eventually([this] { return !served(); }));
        // It is not made again by a late write.
        guest.set_state("1");
        EXPECT_EQ(host_->ask({"list"}), nlohmann::json::array());
        EXPECT_FALSE(host_->exists(backend())) << "after state " << state;
        host_->remove(frontend());
        host_->remove(fmt::format("/libxl/{}/device/vif/0", domain_));
    }
}

// The daemon finds the folder of a device that is gone again before it has looked, or while it looks.
TEST_P(LifeCycleTest, LosesItsOwnFolderBeforeInitWait) {
    for (int round = 0; round < 50; ++round) {
        host_->write_vif(domain_, Host::vif_keys(domain_));
        if (round % 3 == 1) {
            std::this_thread::sleep_for(std::chrono::microseconds(round * 100));  // any length will do
        }
        host_->remove(backend());
        host_->remove(frontend());
    }
    EXPECT_TRUE(eventually([this] { return !served(); }));
    EXPECT_FALSE(host_->exists(backend()));
}

// Written by the toolstack when the guest powers off by itself: nothing happens until the frontend closes.
TEST_P(LifeCycleTest, GoesOfflineAndThenCloses) {
    host_->attach(domain_);
    RawGuest guest(*host_, domain_);
    guest.connect();
    ASSERT_TRUE(guest.backend_reaches("4"));
    host_->write(backend() + "/online", "0");
    EXPECT_TRUE(daemon_sees("Connected"));
    EXPECT_EQ(host_->read(backend() + "/state"), "4");
    guest.set_state("5");
    ASSERT_TRUE(guest.backend_reaches("5"));
    guest.set_state("6");
    ASSERT_TRUE(guest.backend_reaches("6"));
    EXPECT_TRUE(eventually([this] { return !served(); }));
    host_->destroy(domain_);
}

TEST_P(LifeCycleTest, EndsWithItsDomain) {
    host_->attach(domain_);
    {
        RawGuest guest(*host_, domain_);
        guest.connect();
        ASSERT_TRUE(guest.backend_reaches("4"));
        host_->destroy(domain_);
    }
    EXPECT_FALSE(host_->exists(backend()));
}

/// A hotplug script that does what it is told in the file beside it.
class HotplugTest : public LifeCycleTest {
protected:
    std::string script(const std::string& commands) const {
        const std::string path = host_->directory() + "/script";
        std::ofstream(path) << "#!/bin/sh\n" << commands << "\n";
        std::filesystem::permissions(path, std::filesystem::perms::owner_all);
        return "script=" + path;
    }
};

TEST_P(HotplugTest, ConnectsOnlyAfterTheScript) {
    host_->attach(domain_, script(":"));
    RawGuest guest(*host_, domain_);
    guest.connect();
    EXPECT_TRUE(daemon_sees("Connected"));
    EXPECT_EQ(host_->read(backend() + "/state"), "2");
    host_->write(backend() + "/hotplug-status", "connected");
    EXPECT_TRUE(guest.backend_reaches("4"));
    host_->destroy(domain_);
}

TEST(VxlanHotplug, WaitsForNoScript) {
    const NetworkNamespace network;
    network.shell("ip link set lo up");
    Host host({.port = "vxlan:vni=42,local=127.0.0.1,remote=127.0.0.2", .network = network.fd()});
    const unsigned domain = host.create();
    host.attach(domain, "script=/bin/true");
    RawGuest guest(host, domain);
    guest.connect();
    EXPECT_TRUE(guest.backend_reaches("4"));
    host.destroy(domain);
}

TEST_P(HotplugTest, StaysAwayFromAScriptThatFailed) {
    host_->attach(domain_, script("xenstore-write \"/local/domain/0/$XENBUS_PATH/hotplug-error\" 'no such bridge' "
                                  "\"/local/domain/0/$XENBUS_PATH/hotplug-status\" error"));
    RawGuest guest(*host_, domain_);
    guest.connect();
    EXPECT_TRUE(daemon_sees("Connected"));
    EXPECT_EQ(host_->read(backend() + "/state"), "2");
    EXPECT_THAT(host_->read(Host::error_key(domain_)).value_or(""),
                HasSubstr("hotplug script failed: \"no such bridge\""));
    EXPECT_THAT(host_->log(), HasSubstr("no such bridge"));
    host_->destroy(domain_);
}

TEST_P(HotplugTest, IsTakenBackWhenTheScriptExitsWithAnError) {
    const Outcome attached = host_->machine("attach", {std::to_string(domain_), script("exit 3")});
    EXPECT_NE(attached.status, 0);
    EXPECT_THAT(attached.output, HasSubstr("status 3"));
    EXPECT_FALSE(host_->exists(backend()));
}

TEST_P(LifeCycleTest, AnInterfaceGoesWithItsDeviceWhicheverDaemonMadeIt) {
    host_->attach(domain_);
    RawGuest guest(*host_, domain_);
    guest.connect();
    ASSERT_TRUE(guest.backend_reaches("4"));
    guest.set_state("5");
    ASSERT_TRUE(guest.backend_reaches("5"));
    guest.set_state("6");
    ASSERT_TRUE(guest.backend_reaches("6"));
    host_->daemon().send(SIGTERM);
    ASSERT_EQ(host_->daemon().wait(), 0);
    host_->start_daemon();
    EXPECT_EQ(host_->ask({"show", interface()}).at("state"), "Closed");
    host_->destroy(domain_);
}

TEST_P(LifeCycleTest, OneOfTwoVifsIsDetached) {
    host_->attach(domain_);
    EXPECT_EQ(host_->attach(domain_), 1U);
    RawGuest stays(*host_, domain_, 0);
    stays.connect();
    RawGuest goes(*host_, domain_, 1);
    goes.connect(false);
    ASSERT_TRUE(stays.backend_reaches("4"));
    ASSERT_TRUE(goes.backend_reaches("4"));
    Process detach = host_->machine_in_background("detach", {std::to_string(domain_), "1"});
    ASSERT_TRUE(goes.backend_reaches("5"));
    goes.set_state("6");
    EXPECT_EQ(detach.wait(), 0) << detach.output();
    EXPECT_EQ(host_->read(backend(0) + "/state"), "4");
    EXPECT_FALSE(host_->exists(backend(1)));
    EXPECT_EQ(host_->ask({"list"}).size(), 1U);
    host_->destroy(domain_);
}

TEST_P(LifeCycleTest, ServesTwoQueues) {
    host_->attach(domain_);
    for (const bool split : {true, false}) {
        RawGuest guest(*host_, domain_, 0, 2);
        ASSERT_TRUE(guest.backend_reaches("2"));
        guest.connect(split);
        ASSERT_TRUE(guest.backend_reaches("4")) << host_->read(Host::error_key(domain_)).value_or("");
        EXPECT_EQ(host_->ask({"show", interface()}).at("queues"), 2);
        guest.set_state("5");
        ASSERT_TRUE(guest.backend_reaches("5"));
        guest.set_state("6");
        ASSERT_TRUE(guest.backend_reaches("6"));
        guest.forget();
        guest.set_state("1");
    }
    host_->destroy(domain_);
}

const auto ports = testing::Values("null:reflect", "tap");
const auto port_name = [](const auto& test) { return test.param == "tap" ? "Tap" : "Memory"; };
INSTANTIATE_TEST_SUITE_P(Ports, LifeCycleTest, ports, port_name);
INSTANTIATE_TEST_SUITE_P(Ports, HotplugTest, ports, port_name);

}  // namespace
}  // namespace uvif::test
