// SPDX-License-Identifier: MIT
//
// Theory of operation
//
// Four guests come and go as a seeded die says, for as long as UVIF_SOAK_SECONDS (10 by default): programs start, are
// stopped and killed, vifs are attached and detached, domains die, stores are flooded, while one guest that nobody
// touches sends on. Time is cut into rounds. At the end of each all guests but that one are gone, and nothing of them
// may be left: descriptors are as many as at first, grants and ports are none, and memory does not grow from
// round to round.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "emulated/host.hpp"
#include "emulated/traffic_guest.hpp"

namespace uvif::test {
namespace {

using Clock = std::chrono::steady_clock;

unsigned long number_from(const char* name, unsigned long otherwise) {
    const char* text = std::getenv(name);
    return text == nullptr ? otherwise : std::strtoul(text, nullptr, 10);
}

class SoakTest : public testing::TestWithParam<std::string> {
protected:
    struct Guest {
        unsigned domain = 0;
        std::optional<Process> program;
        std::unique_ptr<xen::Store> store;
    };

    SoakTest() : seed_(number_from("UVIF_SOAK_SEED", std::random_device()())), random_(seed_) {
        fmt::print("UVIF_SOAK_SEED={}\n", seed_);
        std::fflush(stdout);
    }

    unsigned long roll(unsigned long sides) { return random_() % sides; }

    void come(Guest& guest) {
        guest.domain = host_->create();
        guest.store = host_->store_of(guest.domain);
        host_->attach(guest.domain);
    }
    void go(Guest& guest) {
        guest.program.reset();
        guest.store.reset();
        host_->destroy(guest.domain);
    }

    void start_program(Guest& guest) {
        const bool generates = GetParam() != "null:reflect";
        const char* mode = roll(2) == 0 ? "--tx" : generates ? "--rx" : "--echo";
        const unsigned long size = roll(3) == 0 ? 60 + roll(65476) : 60 + roll(1455);
        guest.program.emplace(
            Launch{{program("uvif-perf"), mode, "-t", "3600", "-i", "0", "--size", std::to_string(size), "--queues",
                    std::to_string(1 + roll(2)), roll(2) == 0 ? "--split" : "--no-split", "--hypervisor",
                    host_->hypervisor(guest.domain)}},
            fmt::format("{}/perf{}.log", host_->directory(), guest.domain));
    }

    void flood_store(Guest& guest) {
        const std::string folder = Host::frontend(guest.domain);
        for (unsigned i = 0; i < 100; ++i) {
            const char* key = roll(2) == 0 ? "state" : "feature-sg";
            (void)guest.store->write(fmt::format("{}/{}", folder, key), std::to_string(roll(10)));
        }
    }

    [[nodiscard]] std::string tree_of(const Guest& guest) {
        std::string tree;
        for (const std::string& folder : {Host::frontend(guest.domain), Host::backend(guest.domain)}) {
            const Outcome listing = run({{"xenstore-ls", "-f", folder}, {"XENSTORED_PATH=" + host_->store_socket(0)}});
            tree += listing.output;
        }
        return tree;
    }

    void step(Guest& guest) {
        switch (roll(7)) {
            case 0:
                if (guest.program) {
                    guest.program->send(SIGKILL);
                    guest.program.reset();
                }
                break;
            case 1:
                if (guest.program) {
                    guest.program->send(SIGTERM);
                    EXPECT_TRUE(guest.program->wait().has_value()) << "a guest's program hangs";
                    guest.program.reset();
                }
                break;
            case 2:
                flood_store(guest);
                break;
            case 3: {
                // A program that is there answers; one that is not is not waited for more than 5 s.
                Process detach = host_->machine_in_background("detach", {std::to_string(guest.domain), "0"});
                EXPECT_EQ(detach.wait(std::chrono::seconds(9)), 0) << detach.output() << tree_of(guest);
                guest.program.reset();
                host_->attach(guest.domain);
                break;
            }
            case 4:
                go(guest);
                come(guest);
                break;
            default:
                if (!guest.program || !guest.program->running()) {
                    start_program(guest);
                }
        }
    }

    const unsigned long seed_;
    std::mt19937 random_;
    std::optional<Host> host_;
};

TEST_P(SoakTest, NothingIsLeftBehind) {
    constexpr unsigned steps_a_round = 40;
    constexpr std::size_t growth_kib = 8192;
    const auto end = Clock::now() + std::chrono::milliseconds(500 * number_from("UVIF_SOAK_SECONDS", 10));
    host_.emplace(HostOptions{.port = GetParam(), .log_level = "info"});
    const unsigned quiet_domain = host_->create();
    host_->attach(quiet_domain);
    auto neighbour = std::make_unique<TrafficGuest>(host_->hypervisor(quiet_domain), 2);
    ASSERT_TRUE(neighbour->connected()) << neighbour->failure();
    ASSERT_TRUE(neighbour->flows());
    // The emulation opens the other end of each of the neighbour's four channels when it first rings there.
    const std::size_t files = host_->open_files().size() + 4;
    std::vector<std::size_t> resident;
    do {
        std::vector<Guest> guests(4);
        for (Guest& guest : guests) {
            come(guest);
        }
        for (unsigned i = 0; i < steps_a_round && !HasFailure(); ++i) {
            step(guests[roll(guests.size())]);
            const std::uint64_t before = neighbour->echoes();
            EXPECT_TRUE(eventually([&] { return neighbour->echoes() > before; })) << "the neighbour is cut off";
        }
        for (Guest& guest : guests) {
            go(guest);
        }
        EXPECT_TRUE(eventually([&] { return host_->ask({"list"}).size() == 1; }));
        EXPECT_TRUE(eventually([&] { return host_->open_files().size() <= files; }, std::chrono::seconds(20)))
            << "more than " << files << " descriptors: " << fmt::format("{}", fmt::join(host_->open_files(), " "))
            << host_->machine("list").output;
        resident.push_back(host_->resident_kib());
    } while (Clock::now() < end && !HasFailure());

    EXPECT_EQ(neighbour->interruptions(), 0U);
    neighbour.reset();
    host_->destroy(quiet_domain);
    EXPECT_TRUE(host_->at_rest());
    // The first round fills pools and caches.
    EXPECT_LE(resident.back(), resident.front() + growth_kib);
    fmt::print("rounds: {}, resident: {} KiB\n", resident.size(), fmt::join(resident, " "));
}

INSTANTIATE_TEST_SUITE_P(Ports, SoakTest, testing::Values("null:reflect", "null:generate,1500"),
                         [](const auto& test) { return test.param == "null:reflect" ? "Reflect" : "Generate"; });

}  // namespace
}  // namespace uvif::test
