// SPDX-License-Identifier: MIT
// Theory of operation
//
// Every key of both folders with every kind of rubbish in it. What may come of it: the documented default, or a vif
// that is closed, one sentence that names key and value where Xen's users look for it (and in the log), and a neighbour
// who notices nothing. The neighbour's traffic flows the whole time.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "emulated/host.hpp"
#include "emulated/raw_guest.hpp"
#include "emulated/traffic_guest.hpp"
#include "support/network_namespace.hpp"

namespace uvif::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::MatchesRegex;

/// 2 KiB, the most that a store takes, of every octet but 0.
std::string binary() {
    std::string text;
    for (unsigned i = 0; i < 2048; ++i) {
        text += static_cast<char>(i % 255 + 1);
    }
    return text;
}

const std::vector<std::string>& rubbish() {
    static const std::vector<std::string> values{"", "-1", "4294967296", " 2", "text", "1 ", "0x1", "%s%n", binary()};
    return values;
}

class GarbageTest : public testing::Test {
protected:
    void SetUp() override {
        const unsigned healthy = host_.create();
        host_.attach(healthy);
        neighbour_ = std::make_unique<TrafficGuest>(host_.hypervisor(healthy));
        ASSERT_TRUE(neighbour_->connected()) << neighbour_->failure();
        domain_ = host_.create();
    }

    void TearDown() override {
        EXPECT_TRUE(host_.daemon().running());
        EXPECT_TRUE(neighbour_->flows());
        EXPECT_EQ(neighbour_->interruptions(), 0U);
        for (const char octet : host_.log()) {
            ASSERT_TRUE(octet == '\n' || (octet >= ' ' && octet <= '~')) << "the log repeats a stranger's octets";
        }
    }

    [[nodiscard]] std::string error() { return host_.read(Host::error_key(domain_)).value_or(""); }

    /// Lets the guest announce `keys`; the backend has to refuse, with an error that names `key`.
    void expect_refused(RawGuest& guest, const Keys& keys, const std::string& key) {
        guest.announce(keys);
        ASSERT_TRUE(guest.backend_reaches("5")) << key;
        EXPECT_THAT(error(), HasSubstr(key)) << key;
        EXPECT_LT(error().size(), 500U) << key;
        begin_anew(guest);
    }
    void expect_taken(RawGuest& guest, const Keys& keys) {
        guest.announce(keys);
        ASSERT_TRUE(guest.backend_reaches("4")) << error();
        EXPECT_TRUE(eventually([this] { return error() == ""; })) << error();
        begin_anew(guest);
    }
    static void begin_anew(RawGuest& guest) {
        guest.set_state("5");
        ASSERT_TRUE(guest.backend_reaches("5"));
        ASSERT_TRUE(guest.starts_over());
    }

    /// Spoils one key after the other of what an honest guest writes.
    void spoil_each(RawGuest& guest, bool split, std::vector<std::string> others) {
        for (const auto& [key, good] : guest.keys(split)) {
            others.push_back(key);
        }
        for (const std::string& key : others) {
            for (const std::string& value : rubbish()) {
                SCOPED_TRACE(fmt::format("{} = \"{}\"", key, value.substr(0, 20)));
                Keys keys = guest.keys(split);
                keys[key] = value;
                expect_refused(guest, keys, key);
                if (HasFatalFailure()) {
                    return;
                }
            }
        }
        expect_taken(guest, guest.keys(split));
    }

    Host host_;
    std::unique_ptr<TrafficGuest> neighbour_;
    unsigned domain_ = 0;
};

TEST_F(GarbageTest, InAFlatFrontend) {
    host_.attach(domain_);
    RawGuest guest(host_, domain_);
    spoil_each(guest, true, {"multi-queue-num-queues", "feature-no-csum-offload"});
}

TEST_F(GarbageTest, InAFrontendWithOneChannelEach) {
    host_.attach(domain_);
    RawGuest guest(host_, domain_);
    for (const std::string& value : rubbish()) {
        Keys keys = guest.keys(false);
        keys["event-channel"] = value;
        expect_refused(guest, keys, "event-channel");
    }
    expect_taken(guest, guest.keys(false));
}

TEST_F(GarbageTest, InAFrontendOfTwoQueues) {
    host_.attach(domain_);
    RawGuest guest(host_, domain_, 0, 2);
    for (const std::string key : {"queue-0/tx-ring-ref", "queue-1/rx-ring-ref", "queue-1/event-channel-tx",
                                  "queue-1/event-channel-rx", "multi-queue-num-queues"}) {
        for (const std::string& value : rubbish()) {
            Keys keys = guest.keys();
            keys[key] = value;
            expect_refused(guest, keys, key);
        }
    }
    expect_taken(guest, guest.keys());
}

TEST_F(GarbageTest, KeysThatAreMissing) {
    host_.attach(domain_);
    RawGuest flat(host_, domain_);
    for (const std::string key :
         {"tx-ring-ref", "rx-ring-ref", "event-channel-tx", "event-channel-rx", "request-rx-copy"}) {
        Keys keys = flat.keys();
        keys.erase(key);
        // Without the first of the two channels the backend looks for one that serves both ways.
        expect_refused(flat, keys, key == "event-channel-tx" ? "event-channel" : key);
    }
    for (const std::string key :
         {"feature-rx-notify", "feature-sg", "feature-gso-tcpv4", "feature-gso-tcpv6", "feature-ipv6-csum-offload"}) {
        Keys keys = flat.keys();
        keys.erase(key);
        expect_taken(flat, keys);
    }
    RawGuest nested(host_, domain_, 0, 2);
    for (const std::string key : {"queue-0/tx-ring-ref", "queue-1/tx-ring-ref", "queue-1/rx-ring-ref"}) {
        Keys keys = nested.keys();
        keys.erase(key);
        expect_refused(nested, keys, key);
    }
}

TEST_F(GarbageTest, NumbersThatMeanNothing) {
    host_.attach(domain_);
    RawGuest flat(host_, domain_);
    const auto with = [&flat](const std::string& key, const std::string& value) {
        Keys keys = flat.keys();
        keys[key] = value;
        return keys;
    };
    expect_refused(flat, with("multi-queue-num-queues", "0"), "multi-queue-num-queues");
    expect_refused(flat, with("multi-queue-num-queues", "3"), "multi-queue-num-queues");
    expect_refused(flat, with("request-rx-copy", "0"), "request-rx-copy");
    expect_refused(flat, with("multi-queue-num-queues", "2"), "queue-0/tx-ring-ref");  // the keys are flat
    for (const std::string key : {"tx-ring-ref", "rx-ring-ref"}) {
        for (const std::string value : {"0", "3000", "4000000000"}) {  // all of them of nothing
            expect_refused(flat, with(key, value), key);
        }
    }
    for (const std::string key : {"event-channel-tx", "event-channel-rx"}) {
        for (const std::string value : {"0", "4000", "4000000000"}) {
            expect_refused(flat, with(key, value), key);
        }
    }
    expect_taken(flat, with("multi-queue-num-queues", "1"));
    RawGuest nested(host_, domain_, 0, 2);
    Keys keys = nested.keys();
    keys["multi-queue-num-queues"] = "1";
    expect_refused(nested, keys, "tx-ring-ref");  // one queue's keys are flat
    // Flat keys beside nested ones are what an earlier driver left.
    keys = nested.keys();
    keys.merge(flat.keys());
    expect_taken(nested, keys);
}

TEST_F(GarbageTest, ReferencesAndChannelsOfOthers) {
    host_.attach(domain_);
    RawGuest guest(host_, domain_, 0, 2);
    const unsigned other_domain = host_.create();
    host_.attach(other_domain);
    RawGuest other(host_, other_domain);
    const auto refused = [&](const std::string& key, const std::string& value) {
        Keys keys = guest.keys();
        keys[key] = value;
        expect_refused(guest, keys, "queue 1: " + key.substr(key.find('/') + 1));
    };
    // Somebody's own, but not this guest's: the same numbers exist in every domain, so these are beyond its own.
    Keys own = guest.keys();
    refused("queue-1/event-channel-tx", own["queue-0/event-channel-tx"]);
    own = guest.keys();
    refused("queue-1/event-channel-rx", own["queue-1/event-channel-tx"] + "0");

    // The two rings on one page are the guest's own loss, and nobody else's.
    Keys keys = guest.keys();
    keys["queue-0/tx-ring-ref"] = keys["queue-0/rx-ring-ref"];
    keys["queue-1/tx-ring-ref"] = keys["queue-0/rx-ring-ref"];
    guest.announce(keys);
    EXPECT_TRUE(eventually([&] {
        const auto state = host_.read(guest.backend() + "/state");
        return state == "4" || state == "5";
    }));
    EXPECT_TRUE(neighbour_->flows());
    begin_anew(guest);
    expect_taken(guest, guest.keys());
    // Channels that another connection of this daemon is bound to.
    other.connect();
    ASSERT_TRUE(other.backend_reaches("4"));
    expect_taken(guest, guest.keys());
}

TEST_F(GarbageTest, StatesThatDoNotExist) {
    host_.attach(domain_);
    RawGuest guest(host_, domain_);
    for (std::string value : rubbish()) {
        guest.set_state(value);
        ASSERT_TRUE(guest.backend_reaches("6")) << value;
        guest.set_state("1");
        ASSERT_TRUE(guest.backend_reaches("2")) << value;
    }
    guest.connect();
    ASSERT_TRUE(guest.backend_reaches("4"));
    for (const char* value : {"2", "3", "7", "8"}) {  // none of these asks for anything
        guest.set_state(value);
    }
    guest.set_state("4");
    EXPECT_TRUE(guest.backend_reaches("4"));
}

TEST_F(GarbageTest, FoldersWhereValuesBelong) {
    host_.attach(domain_);
    RawGuest guest(host_, domain_);
    for (const std::string key : {"tx-ring-ref", "event-channel-rx", "feature-sg", "request-rx-copy"}) {
        Keys keys = guest.keys();
        keys.erase(key);
        keys[key + "/below"] = "1";
        expect_refused(guest, keys, key);
    }
}

/// The backend's folder, which only the toolstack writes: its mistakes must not hurt either.
class BackendGarbageTest : public GarbageTest {
protected:
    [[nodiscard]] Keys honest() const { return Host::vif_keys(domain_); }
    void write(const Keys& keys) { host_.write_vif(domain_, keys); }
    void take_away() {
        host_.remove(Host::backend(domain_));
        host_.remove(Host::frontend(domain_));
        EXPECT_TRUE(eventually([this] { return host_.ask({"list"}).size() == 1; }));
        (void)host_.store().remove("/local/domain/0/error/backend/vif/" + std::to_string(domain_));
    }
    void expect_closed(const std::string& key, const std::optional<std::string>& value) {
        SCOPED_TRACE(fmt::format("{} = {}", key, value ? value->substr(0, 20) : "missing"));
        Keys keys = honest();
        if (value) {
            keys[key] = *value;
        } else {
            keys.erase(key);
        }
        write(keys);
        EXPECT_TRUE(host_.reaches(Host::backend(domain_), "6"));
        EXPECT_TRUE(eventually([this] { return error() != ""; }, std::chrono::seconds(5)));
        EXPECT_THAT(error(), HasSubstr(Host::backend(domain_).substr(sizeof "/local/domain/0") + "/" + key));
        take_away();
    }
    void expect_state(const std::string& key, const std::string& value, const std::string& state) {
        SCOPED_TRACE(fmt::format("{} = {}", key, value.substr(0, 20)));
        Keys keys = honest();
        keys[key] = value;
        write(keys);
        EXPECT_TRUE(host_.reaches(Host::backend(domain_), state));
        EXPECT_EQ(error(), "");
        take_away();
    }
};

TEST_F(BackendGarbageTest, WhatMustBeRight) {
    for (const std::string key : {"frontend", "frontend-id", "handle", "mac"}) {
        expect_closed(key, std::nullopt);
        for (const std::string& value : rubbish()) {
            expect_closed(key, value);
        }
    }
    for (const std::string& value : rubbish()) {
        expect_closed("mtu", value);
    }
    expect_closed("mtu", "0");
    expect_closed("mtu", "67");
    expect_closed("frontend-id", "7");
    expect_closed("handle", "7");
    expect_closed("mac", "00:16:3e:00:00:0g");
    expect_state("mtu", "68", "2");
}

TEST_F(BackendGarbageTest, WhatHasADefault) {
    for (const std::string& value : rubbish()) {
        expect_state("online", value, "6");  // anything but 1 is offline
        expect_state("state", value, "2");   // a state that no backend writes is a fresh node's
    }
    expect_state("unknown-key", binary(), "2");
}

TEST_F(BackendGarbageTest, AHotplugStatusThatMeansNothingIsWaitedFor) {
    for (const std::string& value : rubbish()) {
        Keys keys = honest();
        keys["hotplug-status"] = value;
        write(keys);
        ASSERT_TRUE(host_.reaches(Host::backend(domain_), "2"));
        take_away();
    }
}

TEST_F(BackendGarbageTest, AFolderWithoutAState) {
    Keys keys = honest();
    keys.erase("state");
    for (int round = 0; round < 30; ++round) {
        keys["mtu"] = std::to_string(1000 + round);
        write(keys);
    }
    EXPECT_EQ(host_.ask({"list"}).size(), 1U);
    const std::string log = host_.log();
    EXPECT_LT(std::ranges::count(log, '\n'), 30) << "a folder that is no device is not worth a line each time";
    take_away();
}

/// `vifname` names an interface of the host.
TEST(VifNameTest, AnythingThatIsNoNameClosesTheVif) {
    UVIF_NEEDS_PRIVILEGE();
    const NetworkNamespace network;
    Host host({.port = "tap", .network = network.fd()});
    const unsigned domain = host.create();
    network.shell("ip link add taken type bridge");
    Keys keys = Host::vif_keys(domain);
    const auto take_away = [&] {
        host.remove(Host::backend(domain));
        host.remove(Host::frontend(domain));
        EXPECT_TRUE(eventually([&host] { return host.ask({"list"}).empty(); }));
    };
    for (const std::string& name :
         {std::string("a/b"), std::string(".."), std::string("with space"), std::string("longer-than-fifteen"),
          std::string("%d"), std::string("taken"), std::string("lo"), binary()}) {
        keys["vifname"] = name;
        host.write_vif(domain, keys);
        EXPECT_TRUE(host.reaches(Host::backend(domain), "6")) << name;
        EXPECT_THAT(host.read(Host::error_key(domain)).value_or(""),
                    MatchesRegex(".*(is no name for an interface|exists and is not a).*"))
            << name;
        take_away();
    }
    keys["vifname"] = "fifteen-octets.";
    host.write_vif(domain, keys);
    EXPECT_TRUE(host.reaches(Host::backend(domain), "2"));
    EXPECT_TRUE(network.has_interface("fifteen-octets."));
    take_away();
    EXPECT_TRUE(host.at_rest());
    EXPECT_TRUE(network.has_interface("taken"));
    EXPECT_FALSE(network.has_interface("fifteen-octets."));
}

/// Xen's vif-bridge refuses when there is an interface of that name already, and renames the one it expects. The next
/// daemon finds it under the new name.
TEST(VifNameTest, AHotplugScriptGivesTheName) {
    UVIF_NEEDS_PRIVILEGE();
    const NetworkNamespace network;
    Host host({.port = "tap", .network = network.fd()});
    const unsigned domain = host.create();
    Keys keys = Host::vif_keys(domain);
    keys["script"] = "/etc/xen/scripts/vif-bridge";
    keys["vifname"] = "uplink";
    host.write_vif(domain, keys);
    ASSERT_TRUE(host.reaches(Host::backend(domain), "2"));
    const std::string made = "vif" + std::to_string(domain) + ".0";
    EXPECT_TRUE(network.has_interface(made));
    EXPECT_FALSE(network.has_interface("uplink"));
    network.shell("ip link set " + made + " name uplink");
    host.daemon().send(SIGTERM);
    ASSERT_TRUE(host.daemon().wait().has_value());
    host.start_daemon();
    EXPECT_TRUE(eventually([&host] { return !host.ask({"list"}).empty(); }));
    host.remove(Host::backend(domain));
    host.remove(Host::frontend(domain));
    EXPECT_TRUE(host.at_rest());
    EXPECT_FALSE(network.has_interface(made));
    EXPECT_FALSE(network.has_interface("uplink"));
}

}  // namespace
}  // namespace uvif::test
