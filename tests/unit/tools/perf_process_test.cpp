// SPDX-License-Identifier: MIT
#include "uvif_perf_process.hpp"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

namespace uvif::perf {
namespace {

/// True once `condition` holds; the limit is for a machine that is very busy.
template <class Condition>
bool eventually(Condition condition) {
    for (int i = 0; i < 3000; ++i) {
        if (condition()) {
            return true;
        }
        ::poll(nullptr, 0, 10);
    }
    return false;
}

bool exists(pid_t pid) {
    return ::kill(pid, 0) == 0;
}

TEST(FindProgram, LooksBesideThisProgramFirst) {
    const auto here = std::filesystem::read_symlink("/proc/self/exe");
    const auto found = find_program(here.filename());
    ASSERT_TRUE(found);
    EXPECT_EQ(*found, here.string());
}

TEST(FindProgram, FallsBackToThePath) {
    const auto found = find_program("sh");
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_TRUE(found->ends_with("/sh"));
}

TEST(FindProgram, NamesWhatIsMissing) {
    const auto found = find_program("uvif-no-such-program");
    ASSERT_FALSE(found);
    EXPECT_EQ(found.error().code, ENOENT);
    EXPECT_NE(found.error().message.find("uvif-no-such-program"), std::string::npos);
}

TEST(RunProgram, ReturnsWhatItPrints) {
    const auto output = run_program({"/bin/sh", "-c", "echo hello"});
    ASSERT_TRUE(output) << output.error().message;
    EXPECT_EQ(*output, "hello\n");
}

TEST(RunProgram, FailsWhenTheProgramDoes) {
    EXPECT_FALSE(run_program({"/bin/sh", "-c", "exit 3"}));
    EXPECT_FALSE(run_program({"/nowhere/at/all"}));
}

TEST(ChildProcess, IsStoppedByItsDestructor) {
    pid_t pid = 0;
    {
        auto child = ChildProcess::start({"/bin/sleep", "1000"}, {});
        ASSERT_TRUE(child);
        pid = child->pid();
        EXPECT_TRUE(exists(pid));
        EXPECT_FALSE(child->ended());
    }
    EXPECT_FALSE(exists(pid));
}

TEST(ChildProcess, IsKilledWhenItDoesNotListen) {
    const auto file = std::filesystem::temp_directory_path() / ("uvif-deaf-" + std::to_string(::getpid()));
    auto child = ChildProcess::start(
        {"/bin/sh", "-c", "trap '' TERM; : > '" + file.string() + "'; while :; do sleep 1; done"}, {});
    ASSERT_TRUE(child);
    ASSERT_TRUE(eventually([&] { return std::filesystem::exists(file); }));
    const pid_t pid = child->pid();
    child->stop();
    EXPECT_FALSE(exists(pid));
    std::filesystem::remove(file);
}

TEST(ChildProcess, NoticesAnEnd) {
    auto child = ChildProcess::start({"/bin/true"}, {});
    ASSERT_TRUE(child);
    EXPECT_TRUE(eventually([&] { return child->ended(); }));
}

TEST(ChildProcess, DiesWithItsParent) {
    // A parent that dies without any chance to tidy up, as by SIGKILL.
    const auto file = std::filesystem::temp_directory_path() / ("uvif-orphan-" + std::to_string(::getpid()));
    const pid_t parent = ::fork();
    if (parent == 0) {
        auto child = ChildProcess::start({"/bin/sleep", "1000"}, {});
        {
            std::ofstream out(file.string() + ".new");
            out << (child ? child->pid() : 0);
        }
        std::filesystem::rename(file.string() + ".new", file);
        ::poll(nullptr, 0, -1);
        ::_exit(0);
    }
    ASSERT_TRUE(eventually([&] { return std::filesystem::exists(file); }));
    pid_t child = 0;
    std::ifstream(file) >> child;
    ASSERT_GT(child, 0);
    ASSERT_TRUE(exists(child));
    ::kill(parent, SIGKILL);
    ::waitpid(parent, nullptr, 0);
    EXPECT_TRUE(eventually([&] { return !exists(child); }));
    std::filesystem::remove(file);
}

}  // namespace
}  // namespace uvif::perf
