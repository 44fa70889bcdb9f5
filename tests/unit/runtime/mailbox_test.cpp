// SPDX-License-Identifier: MIT
#include "runtime/mailbox.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace uvif {
namespace {

bool readable(int fd, int timeout_ms = 0) {
    pollfd entry{fd, POLLIN, 0};
    return ::poll(&entry, 1, timeout_ms) == 1;
}

TEST(Mailbox, RunsInTheOrderOfPosting) {
    auto box = *Mailbox::create();
    std::vector<int> ran;
    for (int i = 0; i < 5; ++i) {
        box->post([&ran, i] { ran.push_back(i); });
    }
    EXPECT_TRUE(ran.empty());
    EXPECT_TRUE(box->maybe_nonempty());
    box->drain();
    EXPECT_THAT(ran, testing::ElementsAre(0, 1, 2, 3, 4));
    EXPECT_FALSE(box->maybe_nonempty());
}

TEST(Mailbox, IsReadableExactlyWhileThereIsSomething) {
    auto box = *Mailbox::create();
    EXPECT_FALSE(readable(box->fd()));
    box->post([] {});
    box->post([] {});
    EXPECT_TRUE(readable(box->fd()));
    box->drain();
    EXPECT_FALSE(readable(box->fd()));
}

TEST(Mailbox, WhatIsPostedWhileDrainingRunsNextTime) {
    auto box = *Mailbox::create();
    int ran = 0;
    box->post([&] { box->post([&ran] { ++ran; }); });
    box->drain();
    EXPECT_EQ(ran, 0);
    EXPECT_TRUE(readable(box->fd()));
    box->drain();
    EXPECT_EQ(ran, 1);
}

TEST(Mailbox, FreesWhatNobodyRan) {
    const auto token = std::make_shared<int>(1);
    {
        auto box = *Mailbox::create();
        box->post([token] {});
        box->post([token] {});
        EXPECT_EQ(token.use_count(), 3);
    }
    EXPECT_EQ(token.use_count(), 1);
}

TEST(Mailbox, LosesNothingOfManyThreads) {
    auto box = *Mailbox::create();
    constexpr int threads = 4;
    constexpr int posts = 5000;
    std::vector<std::vector<int>> ran(threads);
    std::vector<std::thread> senders;
    int total = 0;
    for (int t = 0; t < threads; ++t) {
        senders.emplace_back([&, t] {
            for (int i = 0; i < posts; ++i) {
                box->post([&, t, i] {
                    ran[static_cast<std::size_t>(t)].push_back(i);
                    ++total;
                });
            }
        });
    }
    // Sleeps in poll without a look first: a wakeup that was missed would time out.
    while (total < threads * posts) {
        ASSERT_TRUE(readable(box->fd(), 20000));
        box->drain();
    }
    for (std::thread& sender : senders) {
        sender.join();
    }
    for (const auto& sequence : ran) {
        EXPECT_TRUE(std::is_sorted(sequence.begin(), sequence.end()));
        EXPECT_EQ(sequence.size(), static_cast<std::size_t>(posts));
    }
}

TEST(Mailbox, CallWaitsUntilItRan) {
    auto box = *Mailbox::create();
    std::atomic<bool> stop{false};
    std::thread reader([&] {
        while (!stop) {
            readable(box->fd(), 50);
            box->drain();
        }
    });
    for (int i = 0; i < 200; ++i) {
        int value = 0;
        EXPECT_TRUE(box->call_and_wait([&value] { value = 42; }));
        EXPECT_EQ(value, 42);
    }
    stop = true;
    reader.join();
}

TEST(Mailbox, CallReturnsWhenTheReaderGoes) {
    auto box = *Mailbox::create();
    std::atomic<int> answer{-1};
    std::thread caller([&answer, mailbox = box.get()] { answer = mailbox->call_and_wait([] {}) ? 1 : 0; });
    ASSERT_TRUE(readable(box->fd(), 20000));
    std::uint64_t posts = 0;
    ASSERT_EQ(::read(box->fd(), &posts, sizeof posts), 8);  // the caller has left the mailbox, and waits
    box.reset();
    caller.join();
    EXPECT_EQ(answer, 0);
}

}  // namespace
}  // namespace uvif
