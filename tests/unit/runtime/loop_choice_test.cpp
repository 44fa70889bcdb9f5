// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <string>
#include <thread>

#include "runtime/loop.hpp"

namespace uvif {
namespace {

/// Gives one system call of this thread another outcome, as a container does.
bool restrict_thread(unsigned system_call, unsigned action) {
    std::array<sock_filter, 4> program{{
        {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
        {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, system_call},
        {BPF_RET | BPF_K, 0, 0, action},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
    }};
    const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
    return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

TEST(LoopChoice, FallsBackToEpollWhereUringIsForbidden) {
    for (const int code : {EPERM, ENOSYS}) {
        bool restricted = false;
        std::string automatic;
        int asked_for = 0;
        std::string message;
        std::thread container([&] {
            restricted = restrict_thread(SYS_io_uring_setup, SECCOMP_RET_ERRNO | static_cast<unsigned>(code));
            if (auto loop = Loop::create(LoopKind::automatic)) {
                automatic = (*loop)->name();
            }
            if (auto loop = Loop::create(LoopKind::io_uring); !loop) {
                asked_for = loop.error().code;
                message = loop.error().message;
            }
        });
        container.join();
        if (!restricted) {
            GTEST_SKIP() << "seccomp filters are not to be had here";
        }
        EXPECT_EQ(automatic, "epoll");
        EXPECT_EQ(asked_for, code);
        EXPECT_NE(message.find("io_uring"), std::string::npos) << message;
    }
}

TEST(LoopChoice, AutomaticTakesUringWhereItWorks) {
    const auto uring = Loop::create(LoopKind::io_uring);
    const auto automatic = Loop::create(LoopKind::automatic);
    ASSERT_TRUE(automatic);
    EXPECT_EQ((*automatic)->name(), uring ? "io_uring" : "epoll");
}

class Counter final : public ReadyHandler {
public:
    void on_ready(std::uint32_t /*events*/) noexcept override { ++count; }
    int count = 0;
};

/// In a child: watches a descriptor, then forbids the ring's system call on pain of death, and polls.
[[noreturn]] void poll_without_system_calls(bool make_ready) {
    auto loop = Loop::create(LoopKind::io_uring);
    const int event = ::eventfd(0, EFD_NONBLOCK);
    Counter counter;
    if (!loop || event < 0 || !(*loop)->add(event, EPOLLIN, counter)) {
        ::_exit(2);
    }
    (*loop)->wait(0);
    if (!restrict_thread(SYS_io_uring_enter, SECCOMP_RET_KILL_PROCESS)) {
        ::_exit(3);
    }
    if (make_ready) {
        eventfd_write(event, 1);
    }
    for (int i = 0; i < 1000; ++i) {
        (*loop)->wait(0);
    }
    ::_exit(counter.count);
}

TEST(LoopChoiceDeathTest, UringPollsWithoutSystemCallsWhileThereIsNoNews) {
    if (!Loop::create(LoopKind::io_uring)) {
        GTEST_SKIP() << "no io_uring here";
    }
    EXPECT_EXIT(poll_without_system_calls(false), testing::ExitedWithCode(0), "");
    EXPECT_EXIT(poll_without_system_calls(true), testing::KilledBySignal(SIGSYS), "");
}

}  // namespace
}  // namespace uvif
