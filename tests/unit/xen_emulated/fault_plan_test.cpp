// SPDX-License-Identifier: MIT
#include "xen/emulated/fault_plan.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdlib>

namespace uvif::xen {
namespace {

using testing::HasSubstr;

TEST(FaultPlanTest, TheNamedCallFailsAndNoOther) {
    auto plan = FaultPlan::parse("map@3=ENOMEM,copy.segment@2,store.commit@1=11,map@5");
    ASSERT_TRUE(plan) << plan.error().message;
    const int expected[] = {0, 0, ENOMEM, 0, EIO, 0};
    for (const int value : expected) {
        EXPECT_EQ((*plan)->check(Operation::map), value);
    }
    EXPECT_EQ((*plan)->check(Operation::copy_segment), 0);
    EXPECT_EQ((*plan)->check(Operation::copy_segment), -1);
    EXPECT_EQ((*plan)->check(Operation::store_commit), EAGAIN);
    EXPECT_TRUE((*plan)->concerns(Operation::map));
    EXPECT_FALSE((*plan)->concerns(Operation::notify));
}

TEST(FaultPlanTest, EmptyMeansNothingFails) {
    auto plan = FaultPlan::parse("");
    ASSERT_TRUE(plan);
    EXPECT_EQ((*plan)->check(Operation::open), 0);
}

TEST(FaultPlanTest, MistakesAreNamed) {
    const std::pair<const char*, const char*> cases[] = {
        {"mop@1", "does not begin with one of open, map"},
        {"map", "needs '@'"},
        {"map@", "needs '@'"},
        {"map@0", "needs '@'"},
        {"map@-1", "needs '@'"},
        {"map@1x", "needs '@'"},
        {"map@1=EWHAT", "errno name or number"},
        {"map@1=0", "errno name or number"},
        {"map@1=-5", "errno name or number"},
        {"copy.segment@1=ENOMEM", "negative grant status"},
        {"copy.segment@1=3", "negative grant status"},
        {"map@1,,", "does not begin"},
    };
    for (const auto& [text, why] : cases) {
        const auto plan = FaultPlan::parse(text);
        ASSERT_FALSE(plan) << text;
        EXPECT_EQ(plan.error().code, EINVAL);
        EXPECT_THAT(plan.error().message, HasSubstr(why)) << text;
    }
}

TEST(FaultPlanTest, TheEnvironmentIsRead) {
    ASSERT_EQ(::setenv("UVIF_FAULTS", "bind@1=EBUSY", 1), 0);
    auto plan = FaultPlan::from_environment();
    ASSERT_TRUE(plan);
    EXPECT_EQ((*plan)->check(Operation::bind), EBUSY);
    ASSERT_EQ(::setenv("UVIF_FAULTS", "nonsense", 1), 0);
    EXPECT_THAT(FaultPlan::from_environment().error().message, HasSubstr("UVIF_FAULTS"));
    ASSERT_EQ(::unsetenv("UVIF_FAULTS"), 0);
}

}  // namespace
}  // namespace uvif::xen
