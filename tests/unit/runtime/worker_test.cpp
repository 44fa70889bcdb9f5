// SPDX-License-Identifier: MIT
#include "runtime/worker.hpp"

#include <gtest/gtest.h>

#include <thread>

#include "runtime/clock.hpp"
#include "xen/emulated/local_hypervisor.hpp"

namespace uvif {
namespace {

// The order to stop may arrive at any point of a round; a lost one is a destructor that never returns.
TEST(Worker, StopsHoweverSoonItIsTold) {
    const auto host = std::move(*xen::LocalHost::create());
    const auto hypervisor = host->open(xen::dom0);
    for (int i = 0; i < 300; ++i) {
        auto worker = Worker::create(*hypervisor, {});
        ASSERT_TRUE(worker) << worker.error().message;
        (*worker)->start();
    }
}

TEST(Worker, RunsWhatItIsGivenOnItsThread) {
    const auto host = std::move(*xen::LocalHost::create());
    const auto hypervisor = host->open(xen::dom0);
    auto worker = Worker::create(*hypervisor, {});
    ASSERT_TRUE(worker) << worker.error().message;
    std::thread::id before, after;
    (*worker)->run([&] { before = std::this_thread::get_id(); });
    (*worker)->start();
    (*worker)->run([&] { after = std::this_thread::get_id(); });
    EXPECT_EQ(before, std::this_thread::get_id());
    EXPECT_NE(after, std::this_thread::get_id());
}

/// Sleeps `naps` times for `nap_ns` each; told to stop, for good.
struct Sleeper final : Task {
    explicit Sleeper(Worker& worker_in) : worker(worker_in) {}
    bool turn() noexcept override {
        ++turns;
        return false;
    }
    bool arm() noexcept override {
        if (naps > 0) {
            --naps;
            due_ns = monotonic_ns() + nap_ns;
            worker.wake_at(*this, due_ns);
        }
        return true;
    }

    Worker& worker;
    int naps = 0;
    std::int64_t nap_ns = 0;
    std::int64_t due_ns = 0;
    int turns = 0;
};

TEST(Worker, WakesTasksWhenTheyAskedFor) {
    const auto host = std::move(*xen::LocalHost::create());
    const auto hypervisor = host->open(xen::dom0);
    for (const LoopKind loop : {LoopKind::automatic, LoopKind::epoll}) {
        auto worker = std::move(*Worker::create(*hypervisor, {.loop = loop}));
        Sleeper often(*worker);
        Sleeper late(*worker);
        Sleeper never(*worker);
        often.naps = 5;
        often.nap_ns = ns_per_ms;
        late.naps = 1;
        late.nap_ns = 20 * ns_per_ms;
        for (Sleeper* task : {&often, &late, &never}) {
            worker->add(*task);
        }
        while (late.turns < 2 || often.turns < 6) {
            worker->step(worker->asleep() ? -1 : 0);  // sleeps for ever if nobody is woken
        }
        EXPECT_GE(monotonic_ns(), late.due_ns);
        EXPECT_EQ(often.turns, 6);
        EXPECT_EQ(never.turns, 1);
        for (Sleeper* task : {&often, &late, &never}) {
            worker->remove(*task);
        }
    }
}

}  // namespace
}  // namespace uvif
