// SPDX-License-Identifier: MIT
#include "runtime/log.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

namespace uvif {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(Log, LinesCarryTheirLevel) {
    EXPECT_EQ(log_line(LogLevel::error, false, "x"), "error: x\n");
    EXPECT_EQ(log_line(LogLevel::info, false, "x"), "x\n");
    EXPECT_EQ(log_line(LogLevel::error, true, "x"), "<3>x\n");
    EXPECT_EQ(log_line(LogLevel::warning, true, "x"), "<4>x\n");
    EXPECT_EQ(log_line(LogLevel::info, true, "x"), "<6>x\n");
    EXPECT_EQ(log_line(LogLevel::debug, true, "x"), "<7>x\n");
}

TEST(Log, ALineStaysALine) {
    const std::string line = log_line(LogLevel::info, false, "a\nb\x1b[31m\tc" + std::string(5000, 'd'));
    EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1);
    EXPECT_THAT(line, Not(HasSubstr("\x1b")));
    EXPECT_LE(line.size(), limits::log_line + 1);
}

TEST(Log, PrintableEscapesAndCuts) {
    EXPECT_EQ(printable("vif1.0"), "vif1.0");
    EXPECT_EQ(printable("a\nb\\\x7f\xc3"), "a\\x0ab\\x5c\\x7f\\xc3");
    EXPECT_EQ(printable("abcdef", 3), "abc...");
    EXPECT_EQ(printable("abc", 3), "abc");
    EXPECT_EQ(printable(std::string_view("\0", 1)), "\\x00");
    EXPECT_LE(printable(std::string(100000, '\n')).size(), 4 * limits::printable_text + 3);
}

TEST(Log, WritesWhatTheLevelAllows) {
    testing::internal::CaptureStderr();
    set_log_level(LogLevel::warning);
    log(LogLevel::info, "hidden {}", 1);
    log(LogLevel::warning, "shown {}", 2);
    set_log_level(LogLevel::info);
    const std::string out = testing::internal::GetCapturedStderr();
    EXPECT_THAT(out, HasSubstr("shown 2\n"));
    EXPECT_THAT(out, Not(HasSubstr("hidden")));
}

TEST(LogBudget, AllowsABurstThenOneAnInterval) {
    LogBudget budget(3, 100);
    std::uint64_t suppressed = 0;
    int allowed = 0;
    for (int i = 0; i < 10; ++i) {
        allowed += budget.take(1000, suppressed) ? 1 : 0;
    }
    EXPECT_EQ(allowed, 3);
    EXPECT_FALSE(budget.take(1099, suppressed));
    EXPECT_TRUE(budget.take(1100, suppressed));
    EXPECT_EQ(suppressed, 8U);
    EXPECT_FALSE(budget.take(1101, suppressed));
    EXPECT_TRUE(budget.take(1'000'000, suppressed));
    EXPECT_EQ(suppressed, 1U);
    for (int i = 0; i < 2; ++i) {
        EXPECT_TRUE(budget.take(1'000'000, suppressed)) << "the bucket holds no more than its burst";
    }
    EXPECT_FALSE(budget.take(1'000'000, suppressed));
}

TEST(LogBudget, BoundsWhatAGuestCanWrite) {
    testing::internal::CaptureStderr();
    LogBudget budget;
    for (int i = 0; i < 10000; ++i) {
        log(budget, LogLevel::warning, "guest did {}", i);
    }
    const std::string out = testing::internal::GetCapturedStderr();
    EXPECT_EQ(std::count(out.begin(), out.end(), '\n'), static_cast<std::ptrdiff_t>(limits::log_burst));
}

TEST(LogBudget, TellsHowManyItSuppressed) {
    testing::internal::CaptureStderr();
    LogBudget budget(1, 1'000'000);
    std::uint64_t ignored = 0;
    const std::int64_t now = monotonic_ns();
    EXPECT_TRUE(budget.take(now, ignored));
    for (int i = 0; i < 5; ++i) {
        EXPECT_FALSE(budget.take(now, ignored));
    }
    while (monotonic_ns() < now + 1'000'000) {
    }
    log(budget, LogLevel::warning, "again");
    EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("again (5 similar messages suppressed)\n"));
}

TEST(Log, LinesOfThreadsDoNotMix) {
    testing::internal::CaptureStderr();
    std::vector<std::thread> threads;
    for (char letter = 'a'; letter < 'e'; ++letter) {
        threads.emplace_back([letter] {
            for (int i = 0; i < 200; ++i) {
                log(LogLevel::info, "{}", std::string(60, letter));
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    const std::string out = testing::internal::GetCapturedStderr();
    ASSERT_EQ(out.size(), 4U * 200 * 61);
    for (std::size_t at = 0; at < out.size(); at += 61) {
        EXPECT_EQ(out.substr(at, 61), std::string(60, out[at]) + "\n");
    }
}

}  // namespace
}  // namespace uvif
