// SPDX-License-Identifier: MIT
#include "grant/grant_costs.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <string>

#include "xen/emulated/fault_plan.hpp"
#include "xen/emulated/local_hypervisor.hpp"

namespace uvif {
namespace {

using testing::HasSubstr;

struct Host {
    std::string name;
    GrantCosts costs;
    std::uint32_t frame_octets;
    std::uint32_t call_pages;
};

constexpr std::int64_t us = 1000;

TEST(MapTerms, FollowFromTheCosts) {
    const std::vector<Host> table{
        {"nothing was measured", {}, 0, 0},
        {"Xen 4.17 under emulation: mapping 64 pages costs two copies of them",
         {.copy_one = 31 * us,
          .copy_many = 370 * us,
          .copy_short = 223 * us,
          .map_one = 300 * us,
          .map_many = 745 * us},
         0,
         0},
        {"mapping costs nothing: whatever is longer than its header is mapped",
         {.copy_one = 10 * us, .copy_many = 100 * us, .copy_short = 36 * us, .map_one = 0, .map_many = 0},
         129,
         1},
        {"a call is dear and a page is not: 250 us against 5.1 a page",
         {.copy_one = 10 * us, .copy_many = 346 * us, .copy_short = 28 * us, .map_one = 200 * us, .map_many = 200 * us},
         3249,
         47},
        {"copying is free",
         {.copy_one = 1, .copy_many = 1, .copy_short = 1, .map_one = 5 * us, .map_many = 64 * us},
         0,
         0},
    };
    for (const Host& host : table) {
        const MapTerms terms = MapTerms::of(host.costs);
        EXPECT_EQ(terms.frame_octets, host.frame_octets) << host.name;
        EXPECT_EQ(terms.call_pages, host.call_pages) << host.name;
    }
}

GrantCosts any_costs() {
    const auto some = [](int most) { return std::int64_t{*rc::gen::inRange(0, most)}; };
    GrantCosts costs;
    costs.copy_one = some(50'000);
    costs.copy_short = costs.copy_one + some(500'000);
    costs.copy_many = costs.copy_short + some(500'000);
    costs.map_one = some(300'000);
    costs.map_many = costs.map_one + some(500'000);
    return costs;
}

/// 0 is never: further than any frame.
std::uint64_t distance(std::uint32_t threshold) {
    return threshold == 0 ? std::uint64_t{1} << 32 : threshold;
}

RC_GTEST_PROP(MapTerms, WhatMakesMappingDearerRaisesTheThresholds, ()) {
    const GrantCosts costs = any_costs();
    const MapTerms before = MapTerms::of(costs);
    GrantCosts dearer = costs;
    const std::int64_t more = *rc::gen::inRange(0, 200'000);
    const bool all = *rc::gen::arbitrary<bool>();
    dearer.map_many += more * (all ? 1 : 63);
    dearer.map_one += all ? more : 0;
    const MapTerms after = MapTerms::of(dearer);
    RC_ASSERT(distance(after.frame_octets) >= distance(before.frame_octets));
    RC_ASSERT(distance(after.call_pages) >= distance(before.call_pages));
}

RC_GTEST_PROP(MapTerms, WhatMakesOctetsDearerToCopyLowersTheThresholds, ()) {
    const GrantCosts costs = any_costs();
    const MapTerms before = MapTerms::of(costs);
    GrantCosts dearer = costs;  // each octet by as much
    const std::int64_t unit = *rc::gen::inRange(0, 5'000);
    dearer.copy_one += unit * 32;
    dearer.copy_many += unit * 32 * 64;
    dearer.copy_short += unit * 64;
    const MapTerms after = MapTerms::of(dearer);
    RC_ASSERT(distance(after.frame_octets) <= distance(before.frame_octets) + 1);  // picoseconds are cut off
    RC_ASSERT(distance(after.call_pages) <= distance(before.call_pages));
}

/// What the thresholds promise, the rule that the queue goes by keeps.
RC_GTEST_PROP(MapTerms, TheShortestFramePaysAndNoShorterOneDoes, ()) {
    const MapTerms terms = MapTerms::of(any_costs());
    RC_PRE(terms.frame_octets != 0);
    const auto pays = [&terms](std::uint32_t frame) {
        const auto pages = static_cast<std::uint32_t>((frame + xen::page_size - 1) / xen::page_size);
        return frame > GrantCosts::short_octets &&
               terms.gain(frame - GrantCosts::short_octets, pages, pages) * (GrantCosts::many / pages) > terms.call;
    };
    RC_ASSERT(pays(terms.frame_octets));
    RC_ASSERT(!pays(terms.frame_octets - 1));
}

TEST(GrantCosts, AreMeasuredOnPagesOfOnesOwn) {
    const auto host = *xen::LocalHost::create();
    const auto hypervisor = host->open(xen::DomainId{0});
    const auto table = *hypervisor->open_grant_table();
    const auto allocator = *hypervisor->open_grant_allocator();
    const auto costs = GrantCosts::measure(*table, *allocator, xen::DomainId{0});
    ASSERT_TRUE(costs);
    for (const std::int64_t cost :
         {costs->copy_one, costs->copy_many, costs->copy_short, costs->map_one, costs->map_many}) {
        EXPECT_GT(cost, 0);
    }
    EXPECT_GT(costs->copy_many, costs->copy_one);
}

TEST(GrantCosts, AnErrorSaysWhatFailed) {
    for (const auto& [fault, what] : std::vector<std::pair<const char*, const char*>>{{"share@1", "sharing"},
                                                                                      {"copy@1", "copying"},
                                                                                      {"copy.segment@70", "copying"},
                                                                                      {"map@1", "mapping"},
                                                                                      {"map@20", "mapping"},
                                                                                      {"unmap@3", "mapping"}}) {
        const auto host = *xen::LocalHost::create();
        const auto hypervisor = host->open(xen::DomainId{0}, *xen::FaultPlan::parse(fault));
        const auto table = *hypervisor->open_grant_table();
        const auto allocator = *hypervisor->open_grant_allocator();
        const auto costs = GrantCosts::measure(*table, *allocator, xen::DomainId{0});
        ASSERT_FALSE(costs) << fault;
        EXPECT_THAT(costs.error().message, HasSubstr(what)) << fault;
    }
}

}  // namespace
}  // namespace uvif
