// SPDX-License-Identifier: MIT
#include "xen/hypervisor.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>

namespace uvif::xen {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(OpenHypervisorTest, AWrongChoiceNamesTheChoices) {
    for (const char* choice : {"xen", "emulated", "emulated:", "real ", "Emulated:/x"}) {
        const auto opened = open_hypervisor(choice);
        ASSERT_FALSE(opened) << choice;
        EXPECT_THAT(opened.error().message, AllOf(HasSubstr("real"), HasSubstr("emulated:SOCKET")));
    }
}

TEST(OpenHypervisorTest, NoMachineAtTheSocketIsOneSentence) {
    const auto opened = open_hypervisor("emulated:/nonexistent/dom0");
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, ENOENT);
    EXPECT_THAT(opened.error().message, AllOf(HasSubstr("/nonexistent/dom0"), HasSubstr("uvif-machine start")));
    EXPECT_FALSE(open_hypervisor("emulated:" + std::string(200, 'x')));
}

TEST(OpenHypervisorTest, TheEnvironmentDecidesWhenNothingIsChosen) {
    ASSERT_EQ(::setenv("UVIF_HYPERVISOR", "emulated:/nonexistent/env", 1), 0);
    EXPECT_THAT(open_hypervisor("").error().message, HasSubstr("/nonexistent/env"));
    EXPECT_THAT(open_hypervisor("emulated:/nonexistent/arg").error().message, HasSubstr("/nonexistent/arg"));
    ASSERT_EQ(::unsetenv("UVIF_HYPERVISOR"), 0);
}

TEST(OpenHypervisorTest, WithoutXenTheChoicesAreNamed) {
    if (::access("/dev/xen/xenbus", F_OK) == 0 || ::access("/proc/xen/capabilities", F_OK) == 0) {
        GTEST_SKIP() << "this is a Xen domain";
    }
    ASSERT_EQ(::unsetenv("UVIF_HYPERVISOR"), 0);
    const auto opened = open_hypervisor("");
    ASSERT_FALSE(opened);
    EXPECT_THAT(opened.error().message, AllOf(HasSubstr("not a Xen domain"), HasSubstr("emulated:SOCKET")));
}

}  // namespace
}  // namespace uvif::xen
