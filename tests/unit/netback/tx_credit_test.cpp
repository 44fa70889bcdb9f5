// SPDX-License-Identifier: MIT
#include "netback/tx_credit.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "netback/vif_keys.hpp"
#include "runtime/clock.hpp"

namespace uvif::netback {
namespace {

constexpr std::int64_t begin = 1'000 * ns_per_s;

/// Sends packets of `size` for `seconds`, waiting as it is told; returns the bytes that went.
std::uint64_t send_for(TxCredit& credit, std::uint32_t size, int seconds, std::int64_t from = begin) {
    std::uint64_t sent = 0;
    for (std::int64_t now = from; now < from + seconds * ns_per_s;) {
        const std::int64_t again = credit.pay(size, now);
        EXPECT_TRUE(again == 0 || again > now);
        sent += again == 0 ? size : 0;
        now = again == 0 ? now : again;
    }
    return sent;
}

TEST(TxCredit, WithoutARateEverythingGoesAtOnce) {
    TxCredit credit;
    for (int i = 0; i < 1'000'000; ++i) {
        ASSERT_EQ(credit.pay(65535), 0);
    }
}

TEST(TxCredit, IsTheRateAfterOneBurst) {
    for (const std::uint32_t size : {60U, 1514U, 65535U}) {
        for (const TxCredit::Rate rate : {TxCredit::Rate{20'000, 20'000}, {500'000, 50'000}, {1, 50'000}}) {
            TxCredit credit;
            credit.set(rate);
            const double per_second = static_cast<double>(rate.bytes) * 1e6 / static_cast<double>(rate.interval_us);
            const auto burst = static_cast<double>(std::max(rate.bytes, TxCredit::burst_min));
            const auto sent = static_cast<double>(send_for(credit, size, 10));
            EXPECT_LE(sent, burst + 10 * per_second + size);
            EXPECT_GE(sent, burst + 10 * per_second - 2 * size);
        }
    }
}

TEST(TxCredit, TheLargestPacketPassesAtAnyRate) {
    for (const TxCredit::Rate rate : {TxCredit::Rate{1, 1}, {1, 1'000'000}, {1500, 50'000}, {65'534, 1'000}}) {
        TxCredit credit;
        credit.set(rate);
        EXPECT_EQ(credit.pay(65535, begin), 0);
        EXPECT_EQ(credit.pay(65535, begin), 0) << "a burst is two of them";
        const std::int64_t again = credit.pay(65535, begin);
        EXPECT_GT(again, begin);
        EXPECT_EQ(credit.pay(65535, again), 0) << "and when it is told to, it can go";
    }
}

TEST(TxCredit, CreditDoesNotGrowWhileNothingIsSent) {
    TxCredit credit;
    credit.set({20'000, 20'000});
    send_for(credit, 1514, 1);
    const std::int64_t much_later = begin + 3600 * ns_per_s;
    std::uint64_t at_once = 0;
    while (credit.pay(1514, much_later) == 0) {
        at_once += 1514;
    }
    EXPECT_LE(at_once, TxCredit::burst_min);
    EXPECT_GT(at_once, TxCredit::burst_min - 1514);
}

TEST(TxCredit, ChangesWhileInUse) {
    TxCredit credit;
    credit.set({1'000, 1'000'000});
    const std::uint64_t slow = send_for(credit, 1000, 10);
    credit.set({1'000'000, 1'000'000});
    const std::uint64_t fast = send_for(credit, 1000, 10, begin + 10 * ns_per_s);
    EXPECT_LT(slow, 200'000U);
    EXPECT_GT(fast, 9'000'000U);
    credit.set({});
    EXPECT_EQ(credit.pay(65535, begin + 20 * ns_per_s), 0);
}

TEST(TxCredit, QueuesOnDifferentThreadsShareIt) {
    TxCredit credit;
    credit.set({100'000'000, 1'000'000});
    std::atomic<std::uint64_t> packets{0};
    const auto spend_all = [&] {
        while (credit.pay(1000, begin) == 0) {
            ++packets;
        }
    };
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
        threads.emplace_back(spend_all);
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    EXPECT_NEAR(static_cast<double>(packets), 100'000, 1);  // the burst, once
}

TEST(ParseRate, TakesWhatLibxlWrites) {
    EXPECT_EQ(parse_rate("20000,20000"), (TxCredit::Rate{20'000, 20'000}));
    EXPECT_EQ(parse_rate("18446744073709551615,50000"), (TxCredit::Rate{~std::uint64_t{0}, 50'000}));
    for (const char* text : {"", ",", "1", "1,", ",1", "0,1", "1,0", "1,2,", "1, 2", " 1,2", "-1,2", "1,x",
                             "18446744073709551616,1", "+1,2"}) {
        EXPECT_FALSE(parse_rate(text)) << text;
    }
}

}  // namespace
}  // namespace uvif::netback
