// SPDX-License-Identifier: MIT
#include "support/network_namespace.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "support/process.hpp"

namespace uvif::test {

std::string missing_privilege() {
    const UniqueFd tun(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    if (!tun) {
        return std::string("needs TAP interfaces, and cannot open /dev/net/tun: ") + std::strerror(errno);
    }
    int error = 0;
    std::thread([&error] { error = ::unshare(CLONE_NEWNET) == 0 ? 0 : errno; }).join();
    return error == 0 ? "" : std::string("needs to be root, to make a network namespace: ") + std::strerror(error);
}

NetworkNamespace::NetworkNamespace() {
    std::thread([this] {
        if (::unshare(CLONE_NEWNET) == 0) {
            fd_.reset(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
        }
    }).join();
    if (!fd_) {
        throw std::runtime_error("cannot make a network namespace");
    }
}

void NetworkNamespace::run(const std::function<void()>& function) const {
    std::thread([&] {
        if (::setns(fd_.get(), CLONE_NEWNET) == 0) {
            function();
        } else {
            ADD_FAILURE() << "cannot enter a network namespace: " << std::strerror(errno);
        }
    }).join();
}

bool NetworkNamespace::has_interface(const std::string& name) const {
    bool found = false;
    run([&] { found = ::if_nametoindex(name.c_str()) != 0; });
    return found;
}

long NetworkNamespace::counter(const std::string& group, const std::string& name) const {
    long found = -1;
    run([&] {
        // Two lines a group: names, then values.
        std::ifstream file("/proc/thread-self/net/snmp");
        for (std::string names, values; std::getline(file, names) && std::getline(file, values);) {
            std::istringstream keys(names);
            std::istringstream numbers(values);
            std::string key;
            std::string number;
            if (!(keys >> key && numbers >> number) || key != group + ":") {
                continue;
            }
            while (keys >> key && numbers >> number) {
                found = key == name ? std::atol(number.c_str()) : found;
            }
        }
    });
    return found;
}

bool NetworkNamespace::shell(const std::string& command) const {
    const Outcome outcome = test::run({{"sh", "-c", command}, {}, fd_.get()});
    EXPECT_EQ(outcome.status, 0) << command << ": " << outcome.output;
    return outcome.status == 0;
}

}  // namespace uvif::test
