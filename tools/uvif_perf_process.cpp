// SPDX-License-Identifier: MIT
#include "uvif_perf_process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "runtime/describe_error.hpp"
#include "runtime/unique_fd.hpp"

namespace uvif::perf {
namespace {

constexpr int stop_patience_ms = 5'000;
constexpr int run_patience_ms = 30'000;

/// Readable when the process has ended.
UniqueFd handle_of(pid_t pid) noexcept {
    return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
}

bool ends_within(pid_t pid, int milliseconds) noexcept {
    const UniqueFd handle = handle_of(pid);
    pollfd wait{handle.get(), POLLIN, 0};
    return ::poll(&wait, 1, milliseconds) > 0;
}

/// Between fork and exec: only what is safe there.
[[noreturn]] void become(char* const* arguments, const cpu_set_t* cpus, pid_t parent, int inherited_fd, int output) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) {
        ::_exit(127);
    }
    ::setpgid(0, 0);
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    if (cpus != nullptr) {
        ::sched_setaffinity(0, sizeof *cpus, cpus);
    }
    if (inherited_fd >= 0) {
        ::fcntl(inherited_fd, F_SETFD, 0);
    }
    // Nothing but our report goes to stdout.
    ::dup2(output >= 0 ? output : STDERR_FILENO, STDOUT_FILENO);
    ::execv(arguments[0], arguments);
    ::_exit(127);
}

Result<pid_t> fork_and_run(const std::vector<std::string>& command, const std::vector<int>& cpus, int inherited_fd,
                           int output) {
    std::vector<char*> arguments;
    for (const std::string& argument : command) {
        arguments.push_back(const_cast<char*>(argument.c_str()));
    }
    arguments.push_back(nullptr);
    cpu_set_t set;
    CPU_ZERO(&set);
    for (const int cpu : cpus) {
        CPU_SET(static_cast<unsigned>(cpu), &set);
    }
    const pid_t parent = ::getpid();
    const pid_t pid = ::fork();
    if (pid == 0) {
        become(arguments.data(), cpus.empty() ? nullptr : &set, parent, inherited_fd, output);
    }
    if (pid < 0) {
        const int error = errno;
        return fail(error, fmt::format("cannot start {}: {}", command[0], std::strerror(error)));
    }
    return pid;
}

}  // namespace

Result<std::string> find_program(const std::string& name) {
    std::error_code error;
    const auto here = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
    std::vector<std::string> candidates;
    for (const char* relative : {"", "../sbin", "../src/netback"}) {
        candidates.push_back((here / relative / name).lexically_normal());
    }
    const char* path = std::getenv("PATH");
    std::istringstream folders(path == nullptr ? "" : path);
    for (std::string folder; std::getline(folders, folder, ':');) {
        candidates.push_back(folder + '/' + name);
    }
    for (const std::string& candidate : candidates) {
        if (::access(candidate.c_str(), X_OK) == 0) {
            return candidate;
        }
    }
    return fail(ENOENT,
                fmt::format("cannot find {}, neither beside {} nor on PATH: build or install it", name, here.string()));
}

Result<ChildProcess> ChildProcess::start(const std::vector<std::string>& command, const std::vector<int>& cpus,
                                         int inherited_fd) {
    auto pid = fork_and_run(command, cpus, inherited_fd, -1);
    if (!pid) {
        return propagate(pid);
    }
    return ChildProcess(*pid);
}

void ChildProcess::stop() noexcept {
    if (pid_ == 0) {
        return;
    }
    ::kill(pid_, SIGTERM);
    if (!ends_within(pid_, stop_patience_ms)) {
        ::kill(pid_, SIGKILL);
    }
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
    pid_ = 0;
}

bool ChildProcess::ended() noexcept {
    if (pid_ != 0 && ::waitpid(pid_, nullptr, WNOHANG) == pid_) {
        pid_ = 0;
    }
    return pid_ == 0;
}

Result<std::string> run_program(const std::vector<std::string>& command) {
    std::array<int, 2> ends{-1, -1};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
        const int error = errno;
        return fail(error, fmt::format("cannot make a pipe: {}", describe_error(error)));
    }
    const UniqueFd output(ends[0]);
    UniqueFd input(ends[1]);
    auto pid = fork_and_run(command, {}, -1, input.get());
    if (!pid) {
        return propagate(pid);
    }
    input.reset();
    if (!ends_within(*pid, run_patience_ms)) {
        ::kill(*pid, SIGKILL);
    }
    int status = 0;
    while (::waitpid(*pid, &status, 0) < 0 && errno == EINTR) {
    }
    // It has ended, and printed less than a pipe holds.
    std::array<char, 4096> text;
    const ssize_t got = ::read(output.get(), text.data(), text.size());
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        return fail(EIO, fmt::format("`{}` failed", fmt::join(command, " ")));
    }
    return std::string(text.data(), static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
}

}  // namespace uvif::perf
