// SPDX-License-Identifier: MIT
//
// Static grants: what a guest may ask for, over the emulated hypervisor, and
// what becomes of it.
#include "netback/gref_control.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <set>

#include "grant/static_table.hpp"
#include "support/mock_guest.hpp"

namespace uvif::netback {
namespace {

using ring::CtrlRequest;
using ring::CtrlStatus;
using ring::CtrlType;
using ring::GrefEntry;

constexpr std::uint32_t most = std::numeric_limits<std::uint32_t>::max();

/// The queues, played: they refuse to forget what is `busy`.
struct Queues final : StaticUsers {
    std::array<StaticTable, 2> tables;
    std::set<std::uint32_t> busy;

    void enter(std::size_t queue, std::span<const StaticGrants::Page> pages) override {
        for (const auto& page : pages) {
            tables[queue].enter(page.ref, page.address, page.writable);
        }
    }
    void forget(std::size_t queue, std::span<const std::uint32_t> refs, std::vector<bool>& forgotten) override {
        for (std::size_t i = 0; i < refs.size(); ++i) {
            forgotten[i] = !busy.contains(refs[i]);
            if (forgotten[i]) {
                tables[queue].remove(refs[i]);
            }
        }
    }
};

class GrefControlTest : public testing::Test {
protected:
    std::unique_ptr<xen::LocalHost> host = *xen::LocalHost::create();
    test::MockGuest guest{*host};
    std::unique_ptr<xen::Hypervisor> hypervisor = host->open(test::backend_domain);
    std::unique_ptr<xen::GrantTable> grants = *hypervisor->open_grant_table();
    Queues queues;
    PageBudget budget{limits::static_grants};
    std::optional<StaticGrants> statics{std::in_place, *grants, guest.id, 2U, budget};
    GrefControl control{*statics, queues};
    test::MockGuest::Page list = guest.page(xen::Access::read_write);
    bool list_can_be_written = true;

    ring::CtrlResponse ask(CtrlType type, std::uint32_t queue, std::uint32_t page, std::uint32_t count) {
        const CtrlRequest request{300, static_cast<std::uint16_t>(type), {queue, page, count}};
        const auto response = control.execute(
            request,
            [this](xen::GrantRef ref, std::span<std::byte> out) {
                if (ref != list.ref) {
                    return false;
                }
                std::memcpy(out.data(), guest.memory.page(list.frame).data(), out.size());
                return true;
            },
            [this](xen::GrantRef ref, std::span<const std::byte> octets) {
                EXPECT_EQ(ref, list.ref);
                std::memcpy(guest.memory.page(list.frame).data(), octets.data(), octets.size());
                return list_can_be_written;
            });
        EXPECT_EQ(response.id, 300);
        EXPECT_EQ(response.type, request.type);
        return response;
    }
    void write(const std::vector<GrefEntry>& entries) {
        std::memcpy(guest.memory.page(list.frame).data(), entries.data(), entries.size() * sizeof(GrefEntry));
    }
    std::vector<std::uint16_t> statuses(std::size_t count) {
        std::vector<std::uint16_t> all;
        for (std::size_t i = 0; i < count; ++i) {
            GrefEntry entry;
            std::memcpy(&entry, guest.memory.page(list.frame).data() + i * sizeof entry, sizeof entry);
            all.push_back(entry.status);
        }
        return all;
    }
    CtrlStatus add(const std::vector<GrefEntry>& entries, std::uint32_t queue = 0) {
        write(entries);
        return static_cast<CtrlStatus>(
            ask(CtrlType::add_gref_mapping, queue, ref_of(list), static_cast<std::uint32_t>(entries.size())).status);
    }
    std::uint32_t remove(const std::vector<GrefEntry>& entries) {
        write(entries);
        return ask(CtrlType::del_gref_mapping, 0, ref_of(list), static_cast<std::uint32_t>(entries.size())).data;
    }
    std::uint32_t room(std::uint32_t queue = 0) { return ask(CtrlType::get_gref_mapping_size, queue, 0, 0).data; }
    static std::uint32_t ref_of(const test::MockGuest::Page& page) { return std::to_underlying(page.ref); }
};

constexpr auto okay = CtrlStatus::success;
constexpr auto invalid = CtrlStatus::invalid_parameter;

TEST_F(GrefControlTest, WhatIsAddedIsFoundAndGoesWhenItIsRemoved) {
    auto a = guest.page(xen::Access::read_only);
    auto b = guest.page(xen::Access::read_write);
    EXPECT_EQ(room(), limits::static_grants_per_queue);
    ASSERT_EQ(add({{ref_of(a), GrefEntry::read_only, 9}, {ref_of(b), 0, 9}}), okay);
    EXPECT_EQ(room(), limits::static_grants_per_queue - 2);
    EXPECT_EQ(room(1), limits::static_grants_per_queue);
    const StaticTable& table = queues.tables[0];
    ASSERT_NE(table.find(ref_of(a)), nullptr);
    EXPECT_EQ(table.find_writable(ref_of(a)), nullptr) << "read-only: for TX alone";
    ASSERT_NE(table.find_writable(ref_of(b)), nullptr);
    table.find_writable(ref_of(b))[5] = std::byte{7};
    EXPECT_EQ(guest.memory.page(b.frame)[5], std::byte{7});
    EXPECT_EQ(queues.tables[1].find(ref_of(a)), nullptr) << "another queue's table";
    EXPECT_FALSE(guest.take_back(a)) << "it is mapped";
    EXPECT_EQ(remove({{ref_of(a), 0, 9}, {12345, 0, 9}, {ref_of(a), 0, 9}}), 1U);
    EXPECT_EQ(statuses(3), (std::vector<std::uint16_t>{0, 2, 2}));
    EXPECT_EQ(table.find(ref_of(a)), nullptr);
    EXPECT_TRUE(guest.take_back(a));
    statics.reset();
    EXPECT_TRUE(guest.take_back(b)) << "nothing stays mapped";
    EXPECT_EQ(budget.left(), limits::static_grants);
}

TEST_F(GrefControlTest, AllOrNothing) {
    auto a = guest.page(xen::Access::read_only);
    auto b = guest.page(xen::Access::read_write);
    const std::vector<std::vector<GrefEntry>> lists{
        {{ref_of(b), 0, 0}, {ref_of(a), 0, 0}},  // a page that we may not write to
        {{ref_of(b), 0, 0}, {99999, 0, 0}},      // no grant
        {{ref_of(b), 0, 0}, {most, 0, 0}},       // beyond every table
        {{ref_of(b), 0, 0}, {limits::static_grant_refs, 0, 0}},
        {{ref_of(b), 0, 0}, {ref_of(b), GrefEntry::read_only, 0}},  // twice
        {{ref_of(b), 0, 0}, {ref_of(a), 2, 0}},                     // a flag of tomorrow
    };
    for (const auto& entries : lists) {
        EXPECT_EQ(add(entries), invalid);
        EXPECT_EQ(queues.tables[0].size(), 0U);
        EXPECT_EQ(room(), limits::static_grants_per_queue);
        EXPECT_EQ(budget.left(), limits::static_grants);
    }
    ASSERT_EQ(add({{ref_of(b), 0, 0}}), okay);
    EXPECT_EQ(add({{ref_of(b), 0, 0}}), invalid) << "there already";
    EXPECT_EQ(add({{ref_of(b), 0, 0}}, 1), okay) << "in another queue it is not";
    statics.reset();
    EXPECT_TRUE(guest.take_back(a));
    EXPECT_TRUE(guest.take_back(b));
}

TEST_F(GrefControlTest, BoundariesAreKept) {
    struct Case {
        CtrlType type;
        std::uint32_t queue, page, count;
        CtrlStatus expected;
    };
    const std::uint32_t page = ref_of(list);
    const Case cases[] = {
        {CtrlType::get_gref_mapping_size, 1, 0, 0, okay},
        {CtrlType::get_gref_mapping_size, 2, 0, 0, invalid},
        {CtrlType::get_gref_mapping_size, most, 0, 0, invalid},
        {CtrlType::add_gref_mapping, 0, page, 0, okay},
        {CtrlType::add_gref_mapping, 0, page + 1000, 0, okay},  // not looked at
        {CtrlType::add_gref_mapping, 0, page + 1000, 1, invalid},
        {CtrlType::add_gref_mapping, 2, page, 0, invalid},
        {CtrlType::add_gref_mapping, 0, page, 512, invalid},  // the same reference 512 times
        {CtrlType::add_gref_mapping, 0, page, 513, invalid},
        {CtrlType::add_gref_mapping, 0, page, most, invalid},
        {CtrlType::del_gref_mapping, 0, page, 0, okay},
        {CtrlType::del_gref_mapping, 0, page, 512, okay},
        {CtrlType::del_gref_mapping, 0, page, 513, invalid},
        {CtrlType::del_gref_mapping, 0, page, most, invalid},
        {CtrlType::del_gref_mapping, most, page, 1, invalid},
        {CtrlType::set_hash_key, 0, 0, 0, CtrlStatus::not_supported},
        {CtrlType{11}, 0, 0, 0, CtrlStatus::not_supported},
    };
    for (const Case& c : cases) {
        const auto response = ask(c.type, c.queue, c.page, c.count);
        EXPECT_EQ(static_cast<CtrlStatus>(response.status), c.expected)
            << static_cast<int>(c.type) << ": " << c.queue << ' ' << c.page << ' ' << c.count;
    }
    EXPECT_EQ(queues.tables[0].size(), 0U);
}

TEST_F(GrefControlTest, WhatIsInFlightStays) {
    auto a = guest.page(xen::Access::read_write);
    auto b = guest.page(xen::Access::read_write);
    ASSERT_EQ(add({{ref_of(a), 0, 0}, {ref_of(b), 0, 0}}), okay);
    queues.busy = {ref_of(a)};
    EXPECT_EQ(remove({{ref_of(a), 0, 0}, {ref_of(b), 0, 0}}), 1U);
    EXPECT_EQ(statuses(2), (std::vector<std::uint16_t>{2, 0}));
    EXPECT_FALSE(guest.take_back(a));
    EXPECT_TRUE(guest.take_back(b));
    queues.busy.clear();
    EXPECT_EQ(remove({{ref_of(a), 0, 0}}), 1U);
    EXPECT_TRUE(guest.take_back(a));
}

TEST_F(GrefControlTest, BudgetsHold) {
    ASSERT_TRUE(budget.take(limits::static_grants - 3));
    StaticGrants others(*grants, guest.id, 1, budget);
    std::vector<GrefEntry> entries;
    for (int i = 0; i < 4; ++i) {
        entries.push_back({ref_of(guest.page(xen::Access::read_write)), 0, 0});
    }
    EXPECT_EQ(room(), 3U);
    EXPECT_EQ(add(entries), invalid);
    entries.pop_back();
    EXPECT_EQ(add(entries), okay);
    EXPECT_EQ(room(), 0U);
    EXPECT_EQ(others.room(0), 0U) << "all guests share it";
    statics.reset();
    EXPECT_EQ(others.room(0), 3U);
}

}  // namespace
}  // namespace uvif::netback
