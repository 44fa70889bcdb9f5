// SPDX-License-Identifier: MIT
//
// What a queue learns of its guest's grants, and gives back, over the emulated hypervisor. The looks that come every
// few seconds are played.
#include "grant/persistent_grants.hpp"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "support/mock_guest.hpp"

namespace uvif {
namespace {

using test::MockGuest;
using xen::Access;

class PersistentGrantsTest : public testing::Test {
protected:
    explicit PersistentGrantsTest(const std::string& faults = "")
        : hypervisor(host->open(test::backend_domain, *xen::FaultPlan::parse(faults))) {}
    ~PersistentGrantsTest() override {
        learner.reset();
        EXPECT_EQ(table.size(), 0U);
        EXPECT_EQ(guest.grants_in_use(), 0U) << "nothing stays mapped";
        EXPECT_EQ(budget.left(), limits::static_grants_per_vif);
    }

    static std::uint32_t ref_of(const MockGuest::Page& page) { return std::to_underlying(page.ref); }
    /// The queue needs the page, as often as it is told to.
    void need(const MockGuest::Page& page, Access access) { learner->miss(ref_of(page), access); }
    void learn(const MockGuest::Page& page, Access access) {
        need(page, access);
        learner->learn();
    }
    [[nodiscard]] std::byte* found(const MockGuest::Page& page) const { return table.find(ref_of(page)); }
    [[nodiscard]] std::byte* found_writable(const MockGuest::Page& page) const {
        return table.find_writable(ref_of(page));
    }
    /// So many looks, a few seconds apart, and then all the unmapping that there is to do.
    void looks(unsigned count, const std::byte* in_flight = nullptr) {
        for (; count != 0; --count) {
            learner->age();
            while (learner->give_back([in_flight](const std::byte* page) { return page == in_flight; })) {
            }
        }
    }

    static constexpr unsigned long_enough = limits::persistent_silent_looks + 1;

    std::unique_ptr<xen::LocalHost> host = *xen::LocalHost::create();
    MockGuest guest{*host};
    std::unique_ptr<xen::Hypervisor> hypervisor;
    std::unique_ptr<xen::GrantTable> grants = *hypervisor->open_grant_table();
    StaticTable table;
    PageBudget all{limits::static_grants};
    PageBudget budget{limits::static_grants_per_vif, &all};
    std::optional<PersistentGrants> learner{std::in_place, *grants, guest.id, table, budget};
};

TEST_F(PersistentGrantsTest, WhatWasMissedIsThereAfterTheTurn) {
    auto sent = guest.page(Access::read_only);
    auto received = guest.page(Access::read_write);
    need(sent, Access::read_only);
    need(received, Access::read_write);
    need(sent, Access::read_only);
    EXPECT_EQ(found(sent), nullptr) << "not within the turn";
    learner->learn();
    ASSERT_NE(found(sent), nullptr);
    EXPECT_EQ(found_writable(sent), nullptr);
    ASSERT_NE(found_writable(received), nullptr);
    guest.memory.page(sent.frame)[7] = std::byte{3};
    EXPECT_EQ(found(sent)[7], std::byte{3});
    found_writable(received)[9] = std::byte{4};
    EXPECT_EQ(guest.memory.page(received.frame)[9], std::byte{4});
    EXPECT_EQ(learner->learned, 2U) << "missed twice, mapped once";
    EXPECT_EQ(learner->pages(), 2U);
    EXPECT_FALSE(guest.take_back(sent)) << "it is mapped";
    learner.reset();
    EXPECT_TRUE(guest.take_back(sent));
    EXPECT_EQ(all.left(), limits::static_grants);
}

TEST_F(PersistentGrantsTest, AFewBetweenTwoTurns) {
    std::vector<MockGuest::Page> pages;
    for (std::size_t i = 0; i < 2 * limits::persistent_learned_at_a_time; ++i) {
        pages.push_back(guest.page());
    }
    for (std::size_t turns = 1; turns <= 2; ++turns) {
        for (const auto& page : pages) {
            need(page, Access::read_only);
        }
        learner->learn();
        EXPECT_EQ(learner->learned, turns * limits::persistent_learned_at_a_time);
    }
    learner->learn();
    EXPECT_EQ(learner->learned, pages.size());
}

TEST_F(PersistentGrantsTest, APageThatIsThenReceivedIntoIsMappedAnew) {
    const auto page = guest.page(Access::read_write);
    learn(page, Access::read_only);
    const std::byte* const first = found(page);
    ASSERT_NE(first, nullptr);
    EXPECT_EQ(found_writable(page), nullptr);
    learn(page, Access::read_write);
    EXPECT_NE(found_writable(page), nullptr);
    EXPECT_EQ(learner->pages(), 2U);
    looks(1, first);
    EXPECT_EQ(learner->pages(), 2U) << "a packet lies in the first";
    looks(1);
    EXPECT_EQ(learner->pages(), 1U);
    EXPECT_NE(found_writable(page), nullptr);
    learn(page, Access::read_only);
    EXPECT_EQ(learner->learned, 2U) << "a writable one serves both";
}

/// Xen maps a read-only grant for reading alone.
TEST_F(PersistentGrantsTest, ARefusalCostsTheGrantItsLearningAndOneCall) {
    const auto read_only = guest.page(Access::read_only);
    const auto other = guest.page(Access::read_write);
    for (int turns = 0; turns < 3; ++turns) {
        need(read_only, Access::read_write);
        learner->miss(31000, Access::read_only);  // no grant
        learner->miss(0xffffffff, Access::read_write);
        learner->miss(limits::static_grant_refs, Access::read_only);
        need(other, Access::read_write);
        learner->learn();
        EXPECT_EQ(learner->refused, 2U);
        EXPECT_EQ(found(read_only), nullptr);
        EXPECT_EQ(table.find(31000), nullptr);
        EXPECT_NE(found(other), nullptr);
        EXPECT_EQ(learner->pages(), 1U);
    }
    EXPECT_EQ(budget.left(), limits::static_grants_per_vif - 1) << "no memory area was needed for them";
    looks(long_enough);
    need(read_only, Access::read_only);
    learner->learn();
    EXPECT_NE(found(read_only), nullptr) << "a minute later it has a second try";
    need(read_only, Access::read_write);
    learner->learn();
    EXPECT_EQ(learner->refused, 3U);
    EXPECT_NE(found(read_only), nullptr) << "it goes on being read";
    need(read_only, Access::read_write);
    learner->learn();
    EXPECT_EQ(learner->refused, 3U);
}

TEST_F(PersistentGrantsTest, WhatIsNotUsedForAMinuteGoesBack) {
    auto idle = guest.page();
    const auto busy = guest.page();
    learn(idle, Access::read_only);
    learn(busy, Access::read_only);
    for (unsigned look = 1; look < long_enough; ++look) {
        ASSERT_NE(found(busy), nullptr);
        looks(1);
    }
    EXPECT_EQ(learner->pages(), 2U) << "not yet";
    ASSERT_NE(found(busy), nullptr);
    looks(1);
    EXPECT_EQ(learner->pages(), 1U);
    EXPECT_EQ(learner->given_back, 1U);
    EXPECT_EQ(found(idle), nullptr);
    EXPECT_NE(found(busy), nullptr);
    EXPECT_TRUE(guest.take_back(idle));
    EXPECT_EQ(budget.left(), limits::static_grants_per_vif - 1);
    looks(2 * long_enough);
    EXPECT_EQ(learner->entries(), 0U);
    learn(busy, Access::read_only);
    EXPECT_NE(found(busy), nullptr) << "learned again";
}

TEST_F(PersistentGrantsTest, APageInFlightStaysMapped) {
    auto page = guest.page();
    learn(page, Access::read_only);
    const std::byte* const in_flight = found(page);
    looks(1);
    looks(2 * long_enough, in_flight);
    EXPECT_EQ(learner->pages(), 1U);
    EXPECT_EQ(found(page), nullptr) << "no more packets get into it";
    EXPECT_FALSE(guest.take_back(page));
    looks(1);
    EXPECT_EQ(learner->pages(), 0U);
    EXPECT_TRUE(guest.take_back(page));
}

TEST_F(PersistentGrantsTest, TheLimitOfAQueueHolds) {
    const MockGuest::Page first = guest.page();
    std::vector<MockGuest::Page> pages;
    for (std::size_t i = 0; i < limits::static_grants_per_queue + 3; ++i) {
        // Grants of one frame: a guest has not as many pages here.
        pages.push_back({first.frame, *guest.memory.grant(first.frame, test::backend_domain, Access::read_only)});
        learn(pages.back(), Access::read_only);
    }
    EXPECT_EQ(learner->pages(), limits::static_grants_per_queue);
    EXPECT_EQ(found(pages.back()), nullptr);
    EXPECT_NE(found(pages[limits::static_grants_per_queue - 1]), nullptr);
    looks(2 * long_enough);
    EXPECT_EQ(learner->pages(), 0U);
    learn(pages.back(), Access::read_only);
    EXPECT_NE(found(pages.back()), nullptr) << "there is room again";
}

/// Grants that cannot be mapped have no mapping, but an entry each.
TEST_F(PersistentGrantsTest, RefusedOnesCountToo) {
    for (std::uint32_t i = 0; i < limits::static_grants_per_queue + 3; ++i) {
        learner->miss(10000 + i, Access::read_only);
        learner->learn();
    }
    EXPECT_EQ(learner->refused, limits::static_grants_per_queue);
    EXPECT_EQ(learner->entries(), limits::static_grants_per_queue);
    const auto page = guest.page();
    learn(page, Access::read_only);
    EXPECT_EQ(found(page), nullptr) << "such a guest hurts itself";
}

TEST_F(PersistentGrantsTest, TheBudgetsOfVifAndDaemonHold) {
    PageBudget few(3, &all);
    ASSERT_TRUE(all.take(limits::static_grants - 2));
    StaticTable other_table;
    std::vector<MockGuest::Page> pages;
    {
        PersistentGrants other(*grants, guest.id, other_table, few);
        for (int i = 0; i < 5; ++i) {
            pages.push_back(guest.page());
            other.miss(ref_of(pages.back()), Access::read_only);
            other.learn();
        }
        EXPECT_EQ(other.pages(), 2U) << "all guests share the daemon's";
        EXPECT_EQ(few.left(), 0U);
        all.give(limits::static_grants - 2);
        other.age();
        for (const auto& page : pages) {
            other.miss(ref_of(page), Access::read_only);
            other.learn();
        }
        EXPECT_EQ(other.pages(), 3U) << "and then there is the vif's";
    }
    EXPECT_EQ(few.left(), 3U);
    EXPECT_EQ(all.left(), limits::static_grants);
}

TEST_F(PersistentGrantsTest, StaticGrantsWin) {
    auto page = guest.page(Access::read_write);
    learn(page, Access::read_only);
    learner->forget(ref_of(page));
    std::byte memory{};
    auto* const elsewhere =
        reinterpret_cast<std::byte*>(reinterpret_cast<std::uintptr_t>(&memory) & ~std::uintptr_t{4095});
    table.enter(ref_of(page), elsewhere, false);
    looks(1);
    EXPECT_EQ(learner->pages(), 0U);
    EXPECT_EQ(found(page), elsewhere);
    learn(page, Access::read_write);
    EXPECT_EQ(found(page), elsewhere) << "the guest wants it read-only";
    EXPECT_EQ(learner->learned, 1U);
    looks(2 * long_enough);
    EXPECT_EQ(found(page), elsewhere);
    table.remove(ref_of(page));
    learn(page, Access::read_write);
    EXPECT_NE(found_writable(page), nullptr) << "once it is not static any more";
    learner->forget(12345);
    EXPECT_EQ(learner->entries(), 1U);
}

/// Whoever maps may find that there is no memory for it, or Xen no room.
class FailingPersistentGrantsTest : public PersistentGrantsTest {
protected:
    FailingPersistentGrantsTest() : PersistentGrantsTest("map@2=ENOMEM") {}
};

TEST_F(FailingPersistentGrantsTest, AFailedCallIsARefusal) {
    const auto a = guest.page();
    const auto b = guest.page();
    const auto c = guest.page();
    for (const auto& page : {a, b, c}) {
        need(page, Access::read_only);
    }
    learner->learn();
    EXPECT_NE(found(a), nullptr);
    EXPECT_EQ(found(b), nullptr);
    EXPECT_NE(found(c), nullptr);
    EXPECT_EQ(learner->refused, 1U);
    looks(long_enough);
    learn(b, Access::read_only);
    EXPECT_NE(found(b), nullptr);
}

}  // namespace
}  // namespace uvif
