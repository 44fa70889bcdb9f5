// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <string>

#include "runtime/unique_fd.hpp"

namespace uvif::test {

/// Why there can be no TAP interfaces and network namespaces here; empty: there can.
[[nodiscard]] std::string missing_privilege();

/// A network of its own, that goes with its owner and those who run in it.
class NetworkNamespace {
public:
    NetworkNamespace();
    [[nodiscard]] int fd() const noexcept { return fd_.get(); }
    /// Runs `function` on a thread that is in it. Sockets made there stay in it.
    void run(const std::function<void()>& function) const;
    [[nodiscard]] bool has_interface(const std::string& name) const;
    /// A counter of its kernel's, such as "Tcp", "InCsumErrors" (/proc/net/snmp); -1: there is none.
    [[nodiscard]] long counter(const std::string& group, const std::string& name) const;
    /// Runs a shell command in it; false and its output as a test failure when it fails.
    bool shell(const std::string& command) const;

private:
    UniqueFd fd_;
};

}  // namespace uvif::test

/// For cases that nothing but a privileged user can run. On a CI machine, which is one, a skip would be a hole.
#define UVIF_NEEDS_PRIVILEGE()                                                                \
    if (const std::string why = uvif::test::missing_privilege(); !why.empty()) {              \
        if (const char* ci = std::getenv("CI"); ci != nullptr && std::string(ci) == "true") { \
            FAIL() << why;                                                                    \
        }                                                                                     \
        GTEST_SKIP() << why;                                                                  \
    }                                                                                         \
    static_assert(true)
