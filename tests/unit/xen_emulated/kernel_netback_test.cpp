// SPDX-License-Identifier: MIT
#include "xen/real/kernel_netback.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

#include "support/process.hpp"

namespace uvif::xen {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class KernelNetbackTest : public testing::Test {
protected:
    void write_autoprobe(const char* text) const { std::ofstream(directory_.path() + "/drivers_autoprobe") << text; }
    void make(const std::string& folder) const {
        std::filesystem::create_directories(directory_.path() + "/" + folder);
    }

    test::TemporaryDirectory directory_;
    KernelNetback kernel_{directory_.path()};
};

TEST_F(KernelNetbackTest, AbsentIsFine) {
    EXPECT_TRUE(KernelNetback("/nonexistent").check_absent());
    make("drivers/vbd");
    EXPECT_TRUE(kernel_.check_absent());
    EXPECT_FALSE(kernel_.serves(DomainId{1}, 0));
}

TEST_F(KernelNetbackTest, LoadedIsRefusedWithTheRemedy) {
    make("drivers/vif");
    for (const char* probes : {"1\n", ""}) {
        write_autoprobe(probes);
        const auto absent = kernel_.check_absent();
        ASSERT_FALSE(absent);
        EXPECT_EQ(absent.error().code, EBUSY);
        EXPECT_THAT(absent.error().message, AllOf(HasSubstr("modprobe -r xen-netback"), HasSubstr("blacklist")));
    }
}

TEST_F(KernelNetbackTest, LoadedButNotProbingKeepsWhatItHas) {
    make("drivers/vif/vif-3-0");
    write_autoprobe("0\n");
    EXPECT_TRUE(kernel_.check_absent());
    EXPECT_TRUE(kernel_.serves(DomainId{3}, 0));
    EXPECT_FALSE(kernel_.serves(DomainId{3}, 1));
}

}  // namespace
}  // namespace uvif::xen
