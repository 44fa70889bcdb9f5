// SPDX-License-Identifier: MIT
#include "runtime/worker.hpp"

#include <gtest/gtest.h>

#include <thread>

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

}  // namespace
}  // namespace uvif
