// SPDX-License-Identifier: MIT
// What the daemon leaves behind for the next one: files that are there as long as a guest is connected, and that are
// not believed when they are not this connection's.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <string>

#include "emulated/host.hpp"
#include "emulated/traffic_guest.hpp"

namespace uvif::test {
namespace {

using testing::HasSubstr;

std::string folder_of(const Host& host) {
    return host.machine_directory() + "/dom0.netback.journal";
}

std::string journal_of(const Host& host, unsigned domain, unsigned queue) {
    return fmt::format("{}/vif{}.0-{}", folder_of(host), domain, queue);
}

unsigned mode_of(const std::string& path) {
    struct stat file{};
    return ::stat(path.c_str(), &file) == 0 ? file.st_mode & 07777U : 0;
}

void kill_daemon(Host& host) {
    host.daemon().send(SIGKILL);
    ASSERT_TRUE(host.daemon().wait().has_value());
}

class OftenKilledTest : public testing::TestWithParam<std::string> {};

/// At some moment of full traffic, again and again. Which one is left to chance here;
/// takeover_property_test.cpp goes through all of them.
TEST_P(OftenKilledTest, TheGuestLosesNothingButPackets) {
    Host host({.arguments = {"--strategy", GetParam()}, .log_level = "warning"});
    const unsigned domain = host.create();
    host.attach(domain);
    TrafficGuest guest(host.hypervisor(domain), 2);
    ASSERT_TRUE(guest.connected()) << guest.failure();
    std::minstd_rand random(1);
    for (int round = 0; round < 20; ++round) {
        const std::uint64_t enough = guest.echoes() + random() % 2000;
        ASSERT_TRUE(eventually([&] { return guest.echoes() > enough; })) << "after kill " << round;
        ASSERT_NO_FATAL_FAILURE(kill_daemon(host));
        host.start_daemon();
    }
    EXPECT_TRUE(guest.flows());
    EXPECT_EQ(guest.spoiled(), 0U);
    EXPECT_EQ(guest.interruptions(), 0U);
    EXPECT_EQ(guest.state(), netfront::LinkState::up) << "or the guest has seen a wrong answer";
}

INSTANTIATE_TEST_SUITE_P(Strategies, OftenKilledTest, testing::Values("copy", "map"),
                         [](const auto& test) { return test.param; });

TEST(JournalTest, IsThereAsLongAsTheGuestIsConnected) {
    Host host;
    EXPECT_EQ(mode_of(folder_of(host)), 0700U);
    const unsigned domain = host.create();
    host.attach(domain);
    EXPECT_TRUE(std::filesystem::is_empty(folder_of(host)));
    for (int round = 0; round < 2; ++round) {
        TrafficGuest guest(host.hypervisor(domain), 2);
        ASSERT_TRUE(guest.connected()) << guest.failure();
        EXPECT_EQ(mode_of(journal_of(host, domain, 0)), 0600U);
        EXPECT_EQ(mode_of(journal_of(host, domain, 1)), 0600U);
    }
    EXPECT_TRUE(eventually([&] { return std::filesystem::is_empty(folder_of(host)); }));
    host.destroy(domain);
    EXPECT_TRUE(host.at_rest());
}

TEST(JournalTest, OfAVifThatWentMeanwhileIsClearedAway) {
    Host host;
    ASSERT_NO_FATAL_FAILURE(kill_daemon(host));
    std::ofstream(journal_of(host, 77, 3)) << "something";
    std::ofstream(folder_of(host) + "/README") << "not ours";
    host.start_daemon();
    EXPECT_TRUE(eventually([&] { return !std::filesystem::exists(journal_of(host, 77, 3)); }));
    EXPECT_TRUE(std::filesystem::exists(folder_of(host) + "/README"));
}

TEST(JournalTest, AVifIsServedWithoutOneWhenThereCanBeNone) {
    Host host;
    const unsigned domain = host.create();
    host.attach(domain);
    std::filesystem::create_directory(journal_of(host, domain, 0));
    TrafficGuest guest(host.hypervisor(domain), 2);
    ASSERT_TRUE(guest.connected()) << guest.failure();
    EXPECT_TRUE(guest.flows());
    EXPECT_THAT(host.log(), HasSubstr("cannot make the journal"));
    EXPECT_THAT(host.log(), HasSubstr("when this daemon ends, its guest will have to connect again"));
}

TEST(JournalTest, WithoutAFolderForThemTheDaemonDoesNotStart) {
    Host host({.daemon = false});
    std::ofstream(folder_of(host)) << "something";
    const Outcome started = run({host.daemon_words()});
    EXPECT_NE(started.status, 0);
    EXPECT_THAT(started.output, HasSubstr("dom0.netback.journal as the folder for the journals of vifs: "));
    EXPECT_THAT(started.output, HasSubstr("remove what stands there"));
}

/// What somebody does to the journals while no daemon runs, and what the next one says.
struct Spoiling {
    const char* name;
    void (*spoil)(const std::string& first, const std::string& second);
    const char* complaint;
};

void PrintTo(const Spoiling& spoiling, std::ostream* out) {
    *out << spoiling.name;
}

void overwrite(const std::string& path, std::streamoff from, std::size_t count, char octet) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(from);
    file << std::string(count, octet);
}

class SpoiltJournalTest : public testing::TestWithParam<Spoiling> {};

TEST_P(SpoiltJournalTest, TheGuestConnectsAgain) {
    Host host;
    const unsigned domain = host.create();
    host.attach(domain);
    TrafficGuest guest(host.hypervisor(domain), 2);
    ASSERT_TRUE(guest.connected()) << guest.failure();
    ASSERT_TRUE(guest.flows());
    ASSERT_NO_FATAL_FAILURE(kill_daemon(host));
    GetParam().spoil(journal_of(host, domain, 0), journal_of(host, domain, 1));
    host.start_daemon();
    EXPECT_TRUE(eventually([&] { return guest.interruptions() == 1; }));
    EXPECT_TRUE(eventually([&] { return guest.state() == netfront::LinkState::up; }));
    EXPECT_TRUE(guest.flows());
    EXPECT_EQ(guest.spoiled(), 0U);
    EXPECT_THAT(host.log(), HasSubstr(GetParam().complaint));
    EXPECT_THAT(host.log(), HasSubstr("the guest has to connect again"));
}

INSTANTIATE_TEST_SUITE_P(
    Ways, SpoiltJournalTest,
    testing::Values(
        Spoiling{"Missing", [](const auto& first, const auto& /*second*/) { std::filesystem::remove(first); },
                 "cannot open the journal"},
        Spoiling{"Short", [](const auto& first, const auto& /*second*/) { std::filesystem::resize_file(first, 100); },
                 "is no journal of this version"},
        Spoiling{"AnotherQueues",
                 [](const auto& first, const auto& second) {
                     std::filesystem::copy_file(second, first, std::filesystem::copy_options::overwrite_existing);
                 },
                 "is another connection's journal, \"uvif-netback journal 1: vif1.0 queue 1 of guest /vm/"},
        Spoiling{"Binary", [](const auto& first, const auto& /*second*/) { overwrite(first, 0, 512, '\xff'); },
                 "is no journal of this version: it does not begin"},
        Spoiling{"OtherIndices", [](const auto& first, const auto& /*second*/) { overwrite(first, 512, 4, '\x7f'); },
                 "the TX ring is not as its journal says"}),
    [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace uvif::test
