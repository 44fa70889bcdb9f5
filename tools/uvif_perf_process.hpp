// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

#include "uvif/error.hpp"

namespace uvif::perf {

/// Path of one of our programs: beside this one, where an installation or a build tree has it, or on PATH.
/// ENOENT: the message says where it was looked for.
Result<std::string> find_program(const std::string& name);

/// A program that we started. It dies with this process, however that ends, and is out of reach of the terminal's ^C,
/// so that it lives until its figures have been read.
class ChildProcess {
public:
    /// `cpus`: where it may run; empty: wherever we may. `inherited_fd`: a descriptor to pass on under its own number.
    static Result<ChildProcess> start(const std::vector<std::string>& command, const std::vector<int>& cpus,
                                      int inherited_fd = -1);
    ChildProcess() = default;
    ChildProcess(ChildProcess&& other) noexcept : pid_(std::exchange(other.pid_, 0)) {}
    ChildProcess& operator=(ChildProcess&& other) noexcept {
        stop();
        pid_ = std::exchange(other.pid_, 0);
        return *this;
    }
    ~ChildProcess() { stop(); }

    /// SIGTERM, then SIGKILL when it is still there after five seconds. Waits for its end.
    void stop() noexcept;
    /// True when it has ended.
    [[nodiscard]] bool ended() noexcept;
    [[nodiscard]] pid_t pid() const noexcept { return pid_; }

private:
    explicit ChildProcess(pid_t pid) : pid_(pid) {}
    pid_t pid_ = 0;
};

/// Runs a program to its end, at most 30 s, and returns what it printed. EIO: it failed; its own words went to stderr.
Result<std::string> run_program(const std::vector<std::string>& command);

}  // namespace uvif::perf
