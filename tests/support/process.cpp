// SPDX-License-Identifier: MIT
#include "support/process.hpp"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <thread>
#include <utility>

namespace uvif::test {
namespace {

std::vector<char*> pointers(const std::vector<std::string>& strings) {
    std::vector<char*> result;
    for (const std::string& string : strings) {
        result.push_back(const_cast<char*>(string.c_str()));
    }
    result.push_back(nullptr);
    return result;
}

/// Between fork() and exec() of a process that may have threads: plain system calls only.
[[noreturn]] void become(char* const* words, char* const* environment, int network, int log, pid_t parent) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const bool orphan = ::getppid() != parent;
    const bool moved = network < 0 || ::setns(network, CLONE_NEWNET) == 0;
    if (!orphan && moved && ::dup2(log, STDOUT_FILENO) >= 0 && ::dup2(log, STDERR_FILENO) >= 0) {
        ::execvpe(words[0], words, environment);
    }
    ::_exit(127);
}

}  // namespace

bool eventually(const std::function<bool()>& condition, std::chrono::milliseconds limit) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    while (!condition()) {
        if (std::chrono::steady_clock::now() > deadline) {
            return false;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return true;
}

Process::Process(const Launch& launch, std::string log) : log_(std::move(log)) {
    std::vector<std::string> environment = launch.environment;
    for (char** entry = environ; *entry != nullptr; ++entry) {
        environment.emplace_back(*entry);  // of two values of a name, the first is found
    }
    const std::vector<char*> words = pointers(launch.words);
    const std::vector<char*> variables = pointers(environment);
    const int fd = ::open(log_.c_str(), O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
    const pid_t parent = ::getpid();
    pid_ = ::fork();
    if (pid_ == 0) {
        become(words.data(), variables.data(), launch.network, fd, parent);
    }
    ::close(fd);
    if (pid_ < 0) {
        throw std::runtime_error("cannot fork");
    }
}

Process::Process(Process&& other) noexcept
    : log_(std::move(other.log_)), pid_(std::exchange(other.pid_, -1)), status_(other.status_) {}

Process& Process::operator=(Process&& other) noexcept {
    end();
    log_ = std::move(other.log_);
    pid_ = std::exchange(other.pid_, -1);
    status_ = other.status_;
    return *this;
}

Process::~Process() {
    end();
}

void Process::end() noexcept {
    if (pid_ > 0 && !status_) {
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
    }
}

bool Process::running() {
    int status = 0;
    if (!status_ && ::waitpid(pid_, &status, WNOHANG) == pid_) {
        status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    return !status_;
}

void Process::send(int signal) const noexcept {
    if (!status_) {
        ::kill(pid_, signal);
    }
}

std::optional<int> Process::wait(std::chrono::milliseconds limit) {
    eventually([this] { return !running(); }, limit);
    return status_;
}

std::string Process::output() const {
    return read_file(log_);
}

Outcome run(const Launch& launch, std::chrono::milliseconds limit) {
    const TemporaryDirectory directory;
    Process process(launch, directory.path() + "/output");
    const int status = process.wait(limit).value_or(-1);
    return {status, process.output()};
}

TemporaryDirectory::TemporaryDirectory() : path_((std::filesystem::temp_directory_path() / "uvif-XXXXXX").string()) {
    if (::mkdtemp(path_.data()) == nullptr) {
        throw std::runtime_error("cannot make " + path_);
    }
}

TemporaryDirectory::~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
}

std::string read_file(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace uvif::test
