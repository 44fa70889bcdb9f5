// SPDX-License-Identifier: MIT
#include "xen/emulated/hotplug.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "xen/emulated/shared_memory.hpp"

namespace uvif::xen {
namespace {

std::vector<char*> pointers(const std::vector<std::string>& strings) {
    std::vector<char*> result;
    for (const std::string& string : strings) {
        result.push_back(const_cast<char*>(string.c_str()));
    }
    result.push_back(nullptr);
    return result;
}

/// Ours, without the names that `added` sets anew.
std::vector<std::string> merged_environment(const std::vector<std::string>& added) {
    std::vector<std::string> merged(added);
    for (char** entry = environ; *entry != nullptr; ++entry) {
        const std::string_view name = std::string_view(*entry).substr(0, std::string_view(*entry).find('=') + 1);
        const bool replaced = std::ranges::any_of(added, [name](const auto& own) { return own.starts_with(name); });
        if (!replaced) {
            merged.emplace_back(*entry);
        }
    }
    return merged;
}

Result<pid_t> spawn(const std::string& script, const std::vector<std::string>& arguments,
                    const std::vector<std::string>& environment) {
    std::vector<std::string> words{script};
    words.insert(words.end(), arguments.begin(), arguments.end());
    const std::vector<std::string> variables = merged_environment(environment);

    // A group of its own, so that a script that hangs can be killed with all it has started.
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    pid_t child = 0;
    const int error =
        ::posix_spawn(&child, script.c_str(), nullptr, &attributes, pointers(words).data(), pointers(variables).data());
    posix_spawnattr_destroy(&attributes);
    if (error != 0) {
        return fail(error, fmt::format("cannot run the hotplug script {}: {}", script, std::strerror(error)));
    }
    return child;
}

}  // namespace

Result<void> run_hotplug_script(const std::string& script, const std::vector<std::string>& arguments,
                                const std::vector<std::string>& environment, std::chrono::milliseconds limit) {
    auto child = spawn(script, arguments, environment);
    if (!child) {
        return propagate(child);
    }
    const UniqueFd handle(static_cast<int>(::syscall(SYS_pidfd_open, *child, 0)));
    const auto deadline = std::chrono::steady_clock::now() + limit;
    bool ended = false;
    for (auto left = limit; !ended && left.count() > 0;) {
        pollfd wait{handle.get(), POLLIN, 0};
        ended = ::poll(&wait, 1, static_cast<int>(left.count())) > 0;
        left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    }
    if (!ended) {
        ::kill(-*child, SIGKILL);
    }
    int status = 0;
    while (::waitpid(*child, &status, 0) < 0 && errno == EINTR) {
    }
    if (!ended) {
        return fail(ETIMEDOUT, fmt::format("the hotplug script {} did not end within {} s and was killed", script,
                                           std::chrono::duration_cast<std::chrono::seconds>(limit).count()));
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        return {};
    }
    return fail(EIO, WIFEXITED(status)
                         ? fmt::format("the hotplug script {} failed with status {}", script, WEXITSTATUS(status))
                         : fmt::format("the hotplug script {} was ended by signal {}", script, WTERMSIG(status)));
}

}  // namespace uvif::xen
