// SPDX-License-Identifier: MIT
#include "uvif_perf_latency.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <memory>

namespace uvif::perf {
namespace {

TEST(LatencyHistogram, SaysNothingOfNothing) {
    const LatencyHistogram none;
    EXPECT_EQ(none.count(), 0U);
    EXPECT_EQ(none.percentile(0.5), 0U);
    EXPECT_EQ(none.max(), 0U);
}

TEST(LatencyHistogram, IsExactForShortTimes) {
    LatencyHistogram histogram;
    for (std::uint64_t ns = 1; ns <= 100; ++ns) {
        histogram.add(ns);
    }
    EXPECT_EQ(histogram.percentile(0.5), 50U);
    EXPECT_EQ(histogram.percentile(0.9), 90U);
    EXPECT_EQ(histogram.percentile(0.99), 99U);
    EXPECT_EQ(histogram.percentile(1), 100U);
    EXPECT_EQ(histogram.max(), 100U);
}

TEST(LatencyHistogram, IsWithinOne64thForAnyTime) {
    for (std::uint64_t ns = 1; ns < std::numeric_limits<std::uint64_t>::max() / 3; ns += ns / 7 + 1) {
        LatencyHistogram histogram;
        histogram.add(ns);
        histogram.add(std::numeric_limits<std::uint64_t>::max());
        const std::uint64_t told = histogram.percentile(0.5);
        EXPECT_GE(told, ns);
        EXPECT_LE(told - ns, ns / 64) << ns;
    }
}

TEST(LatencyHistogram, TakesTheLongestTimeThereIs) {
    LatencyHistogram histogram;
    histogram.add(std::numeric_limits<std::uint64_t>::max());
    histogram.add(0);
    EXPECT_EQ(histogram.percentile(1), std::numeric_limits<std::uint64_t>::max());
    EXPECT_EQ(histogram.percentile(0.5), 0U);
}

TEST(LatencyHistogram, NeverTellsMoreThanTheLongest) {
    LatencyHistogram histogram;
    histogram.add(1'000'000);
    EXPECT_EQ(histogram.percentile(0.5), 1'000'000U);
}

TEST(LatencyHistogram, Adds) {
    LatencyHistogram a;
    LatencyHistogram b;
    a.add(10);
    b.add(20);
    b.add(30);
    a += b;
    EXPECT_EQ(a.count(), 3U);
    EXPECT_EQ(a.percentile(0.6), 20U);
    EXPECT_EQ(a.max(), 30U);
    a.clear();
    EXPECT_EQ(a.count(), 0U);
    EXPECT_EQ(a.max(), 0U);
}

}  // namespace
}  // namespace uvif::perf
