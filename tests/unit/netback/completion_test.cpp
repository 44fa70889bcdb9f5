// SPDX-License-Identifier: MIT
//
// Packets whose pages are in use for longer than a turn: completions that come late, never, twice, or from another
// thread while the vif goes. After each, every slot has one answer or the vif is gone, and no page is held.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "unit/netback/tx_backend.hpp"

namespace uvif::netback {
namespace {

using namespace test_queue;

constexpr FetchPolicy pinning{.strategy = FetchStrategy::map, .may_pin = true};

class CompletionTest : public testing::Test {
protected:
    void send(const std::vector<std::vector<std::uint32_t>>& packets) {
        for (const auto& sizes : packets) {
            sender.put(sizes);
        }
        (void)guest.tx.push_and_check_notify();
    }

    std::unique_ptr<xen::LocalHost> host = *xen::LocalHost::create();
    MockGuest guest{*host};
    Sender sender{guest};
};

/// The kernel has them, and nobody can call them back: they are waited for, however long that is, and nothing else is.
TEST_F(CompletionTest, LateOnesAreWaitedFor) {
    constexpr std::chrono::seconds late(5);  // longer than a neighbour is asked for its address
    Backend backend(guest, pinning);
    backend.port.pins = backend.port.defer = true;
    send({{1500}, {2000, 2000}});
    backend.run();
    EXPECT_TRUE(sender.answers().empty());
    backend.port.room = false;
    (void)backend.turn();
    EXPECT_EQ(backend.queue->hold_ends_ns(), 0) << "nothing to be copied apart: the port holds nothing back";
    backend.port.room = true;
    TxCounters counters = backend.queue->counters();
    EXPECT_EQ(counters.held_pages, 3U);
    EXPECT_EQ(counters.held_slots, 3U);
    EXPECT_EQ(counters.regions, 1U);
    std::this_thread::sleep_for(late);
    EXPECT_GE(backend.queue->counters().oldest_hold_us, std::chrono::microseconds(late).count());

    send({{60}});  // what comes meanwhile goes its way
    backend.run();
    EXPECT_EQ(sender.answers().size(), 1U);
    backend.port.finish(3);
    backend.run();
    EXPECT_EQ(sender.answers().size(), 3U);
    EXPECT_TRUE(sender.pages.empty());
    EXPECT_EQ(backend.port.sent, sender.expected);
    counters = backend.queue->counters();
    EXPECT_EQ(counters.held_pages + counters.held_slots + counters.regions + counters.oldest_hold_us, 0U);
    EXPECT_EQ(counters.zerocopy_sent, 2U);
    EXPECT_EQ(counters.zerocopy_success, 2U);
}

TEST_F(CompletionTest, NeverEndsWithTheVif) {
    {
        Backend backend(guest, pinning);
        backend.port.pins = backend.port.defer = true;
        send({{4096, 4096}, {1000}});
        backend.run();
        backend.queue->stop();
        EXPECT_FALSE(backend.queue->drained());
        send({{60}});
        backend.run();
        EXPECT_EQ(backend.port.sent.size(), 2U) << "nothing is taken any more";
    }
    EXPECT_TRUE(guest.tx_answers().empty());
    EXPECT_EQ(guest.grants_in_use(), 0U);
}

TEST_F(CompletionTest, WhatPinsIsDrainedBeforeItGoes) {
    Backend backend(guest, pinning);
    backend.port.pins = backend.port.defer = true;
    send({{4096, 4096}, {1000}});
    backend.run();
    backend.queue->stop();
    backend.port.finish(1);
    EXPECT_FALSE(backend.queue->drained());
    backend.port.finish(1);
    EXPECT_TRUE(backend.queue->drained());
    (void)backend.queue->abandon();
    EXPECT_EQ(sender.answers().size(), 3U);
    EXPECT_EQ(guest.grants_in_use(), 1U) << "the ring's";
}

using CompletionDeathTest = CompletionTest;

TEST_F(CompletionDeathTest, TwiceIsCaught) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    Backend backend(guest, pinning);
    backend.port.defer = true;
    send({{1500}});
    backend.run();
    Packet* const packet = backend.port.give_away().front();
    complete(packet);
    EXPECT_DEATH(complete(packet), "completed twice");
    EXPECT_DEATH(complete_from_elsewhere(packet), "completed twice");
    backend.run();
    EXPECT_DEATH(complete(packet), "completed twice") << "also when it is long at home";
    EXPECT_EQ(sender.answers().size(), 1U);
}

TEST_F(CompletionTest, FromAnotherThreadWhileTheVifGoes) {
    for (int round = 0; round < 20; ++round) {
        Backend backend(guest, pinning);
        backend.port.pins = backend.port.defer = true;
        send(std::vector<std::vector<std::uint32_t>>(30, {1500, 300}));
        (void)backend.turn();
        const std::vector<Packet*> packets = backend.port.give_away();
        ASSERT_EQ(packets.size(), 30U);
        {
            const std::jthread kernel([&packets] {
                for (Packet* packet : packets) {
                    complete_from_elsewhere(packet);
                }
            });
            backend.queue->stop();
            while (!backend.queue->drained()) {
                std::this_thread::yield();
            }
        }
        (void)backend.queue->abandon();
        EXPECT_EQ(sender.answers().size(), 60U);
        EXPECT_TRUE(sender.pages.empty());
        EXPECT_EQ(guest.grants_in_use(), 1U) << "the ring's";
        guest.tx = ring::TxFrontRing(guest.memory.page(guest.tx_frame).data());
    }
}

TEST_F(CompletionTest, PortsThatPinGetCopiesWhereThatIsNotSafe) {
    Backend backend(guest, FetchPolicy{.strategy = FetchStrategy::map});
    backend.port.pins = backend.port.defer = true;
    send({{1500}, {4096, 4096}});
    backend.run();
    EXPECT_EQ(sender.answers().size(), 3U);
    EXPECT_EQ(backend.queue->counters().by_copy, 2U);
    EXPECT_EQ(backend.queue->counters().zerocopy_sent, 0U);
    backend.port.finish(2);
}

/// They are read at once, or called back: neither is it unsafe to map them, nor is there a limit but the ring's.
TEST_F(CompletionTest, ShortOnesAreNotPinned) {
    Backend backend(guest, FetchPolicy{.strategy = FetchStrategy::map});
    backend.port.pins = true;
    backend.port.pin_octets = 1000;
    send({{500, 499}, {500, 500}});
    send(std::vector<std::vector<std::uint32_t>>(60, {300, 400}));
    backend.run();
    EXPECT_EQ(backend.queue->counters().by_map, 61U);
    EXPECT_EQ(backend.queue->counters().by_copy, 1U);
    EXPECT_EQ(backend.port.sent, sender.expected);
}

TEST_F(CompletionTest, ThePinnedAreAQuarterOfTheRingAtMost) {
    Backend backend(guest, pinning);
    backend.port.pins = backend.port.defer = true;
    send(std::vector<std::vector<std::uint32_t>>(100, {700, 900}));
    backend.run();
    EXPECT_EQ(backend.queue->counters().by_map, limits::pinned_slots_per_queue / 2);
    EXPECT_EQ(backend.queue->counters().by_copy, 100 - limits::pinned_slots_per_queue / 2);
    EXPECT_EQ(sender.answers().size(), 200 - limits::pinned_slots_per_queue) << "the guest goes on with these";
    backend.port.finish(100);
    backend.run();
    EXPECT_EQ(sender.answers().size(), limits::pinned_slots_per_queue);
    EXPECT_EQ(backend.port.sent, sender.expected);
    send({{700, 900}});
    backend.run();
    EXPECT_EQ(backend.queue->counters().by_map, limits::pinned_slots_per_queue / 2 + 1) << "there is room again";
    backend.port.finish(1);
}

TEST_F(CompletionTest, AVifThatHoldsTooMuchIsCopied) {
    Backend backend(guest, Way::map);
    backend.port.defer = true;
    send({{1500}});
    backend.run();
    backend.held.change(limits::held_slots_per_vif - 2);
    send({{1500}});
    backend.run();
    EXPECT_EQ(backend.queue->counters().by_map, 2U);
    EXPECT_TRUE(backend.held.full());
    send({{1500}});
    backend.run();
    EXPECT_EQ(backend.queue->counters().by_copy, 1U);
    backend.held.change(2 - limits::held_slots_per_vif);
    backend.port.finish(3);
    backend.run();
    EXPECT_EQ(sender.answers().size(), 3U);
    backend.held.change(limits::held_slots_per_vif);
    EXPECT_TRUE(backend.held.full());
    backend.held.change(-1);
    EXPECT_FALSE(backend.held.full()) << "a queue's share is given back with its pages";
}

TEST_F(CompletionTest, CopiesOnTheWayAreTold) {
    Backend backend(guest, Way::map);
    backend.port.defer = true;
    send({{1500}, {1600}, {1700}});
    backend.run();
    for (Packet* packet : backend.port.give_away()) {
        packet->copied = packet->length == 1600;
        complete(packet);
    }
    backend.run();
    const TxCounters counters = backend.queue->counters();
    EXPECT_EQ(counters.zerocopy_sent, 3U);
    EXPECT_EQ(counters.zerocopy_success, 2U);
    EXPECT_EQ(counters.zerocopy_fail, 1U);
    EXPECT_EQ(sender.answers().size(), 3U);
}

/// One bad reference, at each place of a full region: the map call fails for all of its packets, one of which is lost.
TEST_F(CompletionTest, MappingThatFailsAtAnyIndexCostsOnePacket) {
    constexpr std::size_t slots = 16;
    constexpr std::size_t packets = Regions::pages_max / slots;
    for (std::size_t bad = 0; bad < Regions::pages_max; ++bad) {
        Backend backend(guest, Way::map);
        std::vector<std::uint16_t> ids;
        for (std::size_t i = 0; i < packets; ++i) {
            const auto some = sender.put(std::vector<std::uint32_t>(slots, 4000));
            ids.insert(ids.end(), some.begin(), some.end());
        }
        guest.memory.write_entry(sender.pages[ids[bad]].ref, {});
        (void)guest.tx.push_and_check_notify();
        backend.run();
        EXPECT_EQ(backend.port.sent.size(), packets - 1) << bad;
        std::size_t errors = 0;
        std::size_t answers = 0;
        for (const TxResponse& answer : guest.tx_answers()) {
            errors += answer.status == error ? 1 : 0;
            if (const auto page = sender.pages.find(answer.id); page != sender.pages.end()) {
                EXPECT_TRUE(answer.id == ids[bad] || guest.take_back(page->second));
                sender.pages.erase(page);
                ++answers;
            }
        }
        EXPECT_EQ(errors, 1U) << bad;
        EXPECT_EQ(answers, Regions::pages_max) << bad;
        EXPECT_EQ(guest.grants_in_use(), 1U) << bad;
        backend.port.sent.clear();
        guest.tx = ring::TxFrontRing(guest.memory.page(guest.tx_frame).data());
    }
}

// --- The choice of `auto` ---

/// Mapping costs 1000 a page and 8000 a call, an octet saves 1: in whole pages, three pay.
constexpr MapTerms terms{.octet = 1, .segment = 0, .page = 1000, .call = 8000, .frame_octets = 1300, .call_pages = 3};

TEST_F(CompletionTest, AutoMapsFramesThatAreWorthItInCallsThatAre) {
    Backend backend(guest, FetchPolicy{.strategy = FetchStrategy::automatic, .terms = terms});
    send({{4096}, {4096}});
    backend.run();
    EXPECT_EQ(backend.queue->counters().by_map, 0U) << "two pages save less than the call costs";
    send({{4096}, {60}, {4096}, {1100}, {4096}});
    backend.run();
    EXPECT_EQ(backend.queue->counters().by_map, 3U);
    EXPECT_EQ(backend.queue->counters().map_calls, 1U);
    send({{14, 4096, 4096, 4096}});
    backend.run();
    EXPECT_EQ(backend.queue->counters().by_map, 4U) << "a slot that is all header is not mapped";
    EXPECT_EQ(backend.queue->counters().by_copy, 4U);
    EXPECT_EQ(backend.port.sent, sender.expected);
    (void)sender.answers();
    EXPECT_TRUE(sender.pages.empty());
}

TEST_F(CompletionTest, AutoMapsNothingWithoutTerms) {
    Backend backend(guest, FetchPolicy{.strategy = FetchStrategy::automatic});
    send({std::vector<std::uint32_t>(16, 4000)});
    backend.run();
    EXPECT_EQ(backend.queue->counters().by_copy, 1U);
    EXPECT_EQ(backend.queue->counters().map_calls, 0U);
}

}  // namespace
}  // namespace uvif::netback
