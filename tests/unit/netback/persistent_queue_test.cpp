// SPDX-License-Identifier: MIT
//
// Queues that learn their guest's grants, over the emulated hypervisor, single-threaded.
#include <gtest/gtest.h>

#include <cstring>

#include "grant/persistent_grants.hpp"
#include "unit/netback/standing_queues.hpp"

namespace uvif::netback {
namespace {

using test::Frame;
using test::MockGuest;

class PersistentQueueTest : public testing::TestWithParam<FetchStrategy>, protected test::StandingQueues {
protected:
    PersistentQueueTest() : StandingQueues({.strategy = GetParam()}) {
        tx->use(table, &*learner);
        rx->use(table, &*learner);
    }
    ~PersistentQueueTest() override {
        end();
        learner.reset();
        EXPECT_EQ(guest.grants_in_use(), 0U);
    }

    void post(const MockGuest::Page& page) {
        guest.rx.put({.id = 7, .gref = std::to_underlying(page.ref)});
        (void)guest.rx.push_and_check_notify();
    }
    /// As QueuePair::turn(). Returns how many segments the hypervisor was asked for.
    std::uint32_t turn() {
        const std::uint32_t segments = StandingQueues::turn();
        learner->learn();
        return segments;
    }
    /// What the daemon does every few seconds.
    void look() {
        learner->age();
        while (learner->give_back([this](const std::byte* page) { return tx->uses(page); })) {
        }
    }
    [[nodiscard]] bool maps() const { return GetParam() == FetchStrategy::map; }

    PageBudget budget{limits::static_grants_per_vif};
    std::optional<PersistentGrants> learner{std::in_place, *grants, guest.id, table, budget};
};

TEST_P(PersistentQueueTest, WhatItHasSentBeforeIsSentFromItsPages) {
    const auto a = guest.page();
    const auto b = guest.page();
    send({a, b}, {200, 3000});
    EXPECT_NE(turn(), 0U) << "served as ever";
    EXPECT_EQ(guest.tx_answers().size(), maps() ? 0U : 2U);
    EXPECT_EQ(learner->pages(), 2U);
    (void)turn();
    (void)guest.tx_answers();
    port.defer = true;
    const std::uint64_t map_calls = tx->counters().map_calls;
    send({b, a}, {100, 2000});
    EXPECT_EQ(turn(), 0U);
    EXPECT_EQ(tx->counters().map_calls, map_calls);
    EXPECT_EQ(port.sent, expected);
    EXPECT_EQ(guest.tx_answers().size(), 0U) << "one of its pages is being sent from";
    port.finish(1);
    (void)turn();
    EXPECT_EQ(guest.tx_answers().size(), 2U);
    EXPECT_EQ(tx->counters().static_hits, 2U);
    EXPECT_EQ(tx->counters().static_misses, 2U);
    EXPECT_EQ(tx->counters().by_static, 1U);
}

TEST_P(PersistentQueueTest, OfAPacketThatIsKnownInPartTheRestIsLearned) {
    const auto a = guest.page();
    const auto b = guest.page();
    send({a}, {1500});
    (void)turn();
    send({a, b}, {200, 3000});
    EXPECT_NE(turn(), 0U);
    EXPECT_EQ(learner->learned, 2U);
    (void)turn();
    send({a, b}, {200, 3000});
    EXPECT_EQ(turn(), 0U);
    EXPECT_EQ(port.sent, expected);
}

TEST_P(PersistentQueueTest, BuffersThatWereFilledBeforeAreWrittenToDirectly) {
    const auto a = guest.page(xen::Access::read_write);
    for (int round = 0; round < 3; ++round) {
        Frame frame;
        for (int i = 0; i < 1000; ++i) {
            frame.data.push_back(static_cast<std::byte>(i * 7 + round));
        }
        post(a);
        port.to_receive = {frame};
        EXPECT_EQ(turn(), round == 0 ? 1U : 0U);
        const auto answers = guest.rx_answers();
        ASSERT_EQ(answers.size(), 1U);
        const auto response = answers[0].response();
        ASSERT_EQ(response.status, 1000);
        EXPECT_EQ(std::memcmp(guest.memory.page(a.frame).data() + response.offset, frame.data.data(), 1000), 0);
    }
    EXPECT_EQ(rx->counters().static_hits, 2U);
    EXPECT_EQ(rx->counters().static_misses, 1U);
}

TEST_P(PersistentQueueTest, APageMayServeBothWays) {
    const auto a = guest.page(xen::Access::read_write);
    send({a}, {1500});
    (void)turn();
    Frame frame{.data = std::vector<std::byte>(60), .offload = {}};
    for (const unsigned segments : {1U, 0U}) {
        post(a);
        port.to_receive = {frame};
        EXPECT_EQ(turn(), segments) << "read-only at first";
        EXPECT_EQ(guest.rx_answers().size(), 1U);
    }
    send({a}, {1500});
    EXPECT_EQ(turn(), 0U);
    EXPECT_EQ(port.sent, expected);
    EXPECT_EQ(learner->learned, 2U);
}

TEST_P(PersistentQueueTest, ABufferThatMayNotBeWrittenToIsAnErrorAsEver) {
    const auto read_only = guest.page();
    for (int round = 0; round < 2; ++round) {
        post(read_only);
        port.to_receive = {Frame{.data = std::vector<std::byte>(60), .offload = {}}};
        EXPECT_EQ(turn(), 1U);
        const auto answers = guest.rx_answers();
        ASSERT_EQ(answers.size(), 1U);
        EXPECT_LT(answers[0].response().status, 0);
    }
    EXPECT_EQ(learner->refused, 1U);
}

TEST_P(PersistentQueueTest, APageIsNotGivenBackWhileAPacketLiesInIt) {
    const auto a = guest.page();
    const auto b = guest.page();
    for (const auto& page : {a, b}) {
        send({page}, {1500});
        (void)turn();
    }
    (void)turn();
    port.defer = true;
    send({a}, {1500});
    EXPECT_EQ(turn(), 0U);
    for (unsigned i = 0; i < 2 * limits::persistent_silent_looks + 2; ++i) {
        look();
    }
    EXPECT_EQ(learner->pages(), 1U);
    EXPECT_EQ(learner->given_back, 1U);
    port.finish(1);  // checks that the octets are still what they were
    (void)turn();
    look();
    EXPECT_EQ(learner->pages(), 0U);
    EXPECT_EQ(port.sent, expected);
}

/// It ends access to a grant though it promised not to: what was mapped stays mapped, and is its own page.
TEST_P(PersistentQueueTest, AGuestThatBreaksItsPromiseHurtsItself) {
    const auto a = guest.page();
    send({a}, {1500});
    (void)turn();
    (void)turn();
    EXPECT_FALSE(guest.memory.end_access(a.ref)) << "a driver that asks is told that it is in use";
    guest.memory.write_entry(a.ref, {});  // one that does not ask
    send({a}, {1500});
    EXPECT_EQ(turn(), 0U);
    EXPECT_EQ(port.sent, expected);
    for (unsigned i = 0; i < 2 * limits::persistent_silent_looks + 2; ++i) {
        look();
    }
    send({a}, {1500});
    (void)turn();
    EXPECT_EQ(port.sent.size(), 2U);
    EXPECT_EQ(tx->counters().drops[static_cast<std::size_t>(TxDrop::grant_failed)], 1U);
    EXPECT_EQ(learner->refused, 1U);
}

INSTANTIATE_TEST_SUITE_P(Strategies, PersistentQueueTest, testing::Values(FetchStrategy::copy, FetchStrategy::map),
                         [](const auto& p) {
                             return std::string(fetch_strategy_names[static_cast<std::size_t>(p.param)]);
                         });

}  // namespace
}  // namespace uvif::netback
