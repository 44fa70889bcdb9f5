// SPDX-License-Identifier: MIT
#include "netfront/device_lock.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

namespace uvif::netfront {
namespace {

constexpr std::string_view emulated_prefix = "emulated:";

/// Names this domain: the same for every program in it, and different for domains of emulated machines.
std::string domain_name(const std::string& hypervisor) {
    std::string name = hypervisor;
    if (name.starts_with(emulated_prefix)) {
        std::error_code ignored;
        name = std::filesystem::weakly_canonical(name.substr(emulated_prefix.size()), ignored).string();
    }
    std::ranges::replace_if(
        name, [](char c) { return (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z'); }, '-');
    constexpr std::size_t longest = 200;  // a file name has 255 octets
    return name.size() > longest ? name.substr(name.size() - longest) : name;
}

/// Its last holder may have removed the file between our opening it and locking it.
bool is_still_at(int file, const std::string& path) {
    struct stat opened{};
    struct stat named{};
    return ::fstat(file, &opened) == 0 && ::lstat(path.c_str(), &named) == 0 && opened.st_dev == named.st_dev &&
           opened.st_ino == named.st_ino;
}

}  // namespace

Result<DeviceLock> DeviceLock::acquire(const std::string& hypervisor, unsigned id) {
    std::string path = fmt::format("/run/lock/uvif-netfront.{}.{}", domain_name(hypervisor), id);
    for (;;) {
        UniqueFd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
        if (!file) {
            return DeviceLock();
        }
        if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
            return fail(EBUSY, fmt::format("vif {} is held by another program (lock {}): end it, or use another device",
                                           id, path));
        }
        if (is_still_at(file.get(), path)) {
            return DeviceLock(std::move(file), std::move(path));
        }
    }
}

DeviceLock::~DeviceLock() {
    if (file_) {
        ::unlink(path_.c_str());  // while it is locked: nobody else has it
    }
}

}  // namespace uvif::netfront
