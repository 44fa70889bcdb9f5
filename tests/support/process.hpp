// SPDX-License-Identifier: MIT
//
// Programs as a user starts them. None outlives its test: a Process kills its program when it goes, and the kernel does
// should the test itself die.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace uvif::test {

/// How long anything may take that is waited for: far more than a slow and busy machine needs.
inline constexpr std::chrono::seconds patience(60);

/// Looks at `condition` until it holds. False: it did not within `limit`.
bool eventually(const std::function<bool()>& condition, std::chrono::milliseconds limit = patience);

struct Launch {
    std::vector<std::string> words;             ///< the program, found in PATH, and its arguments
    std::vector<std::string> environment = {};  ///< NAME=value, besides our own
    int network = -1;                           ///< a network namespace to run in, or none
};

/// Both streams of a program go to the file `log`.
class Process {
public:
    Process(const Launch& launch, std::string log);
    Process(Process&& other) noexcept;
    Process& operator=(Process&& other) noexcept;
    ~Process();

    [[nodiscard]] pid_t pid() const noexcept { return pid_; }
    [[nodiscard]] bool running();
    void send(int signal) const noexcept;
    /// Its exit status, or 128 and its signal; nullopt: it runs on.
    std::optional<int> wait(std::chrono::milliseconds limit = patience);
    /// What it has said so far.
    [[nodiscard]] std::string output() const;

private:
    void end() noexcept;

    std::string log_;
    pid_t pid_ = -1;
    std::optional<int> status_;
};

struct Outcome {
    int status = -1;
    std::string output;  ///< both streams
};

/// Runs a program to its end; one that does not end in time is killed and has status -1.
Outcome run(const Launch& launch, std::chrono::milliseconds limit = patience);

/// A folder that goes with its owner.
class TemporaryDirectory {
public:
    TemporaryDirectory();
    TemporaryDirectory(const TemporaryDirectory&) = delete;
    TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
    ~TemporaryDirectory();
    [[nodiscard]] const std::string& path() const noexcept { return path_; }

private:
    std::string path_;
};

[[nodiscard]] std::string read_file(const std::string& path);

}  // namespace uvif::test
