// SPDX-License-Identifier: MIT
#include "netback/instance.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

namespace uvif::netback {

std::string Instance::control_path(std::string_view hypervisor) {
    constexpr std::string_view emulated = "emulated:";
    if (hypervisor.starts_with(emulated)) {
        return fmt::format("{}.netback", hypervisor.substr(emulated.size()));
    }
    return "/run/uvif/netback";
}

Result<Instance> Instance::claim(std::string_view hypervisor) {
    const std::string path = control_path(hypervisor);
    if (path.starts_with("/run/uvif/")) {
        ::mkdir("/run/uvif", 0755);
    }
    const std::string lock = path + ".lock";
    UniqueFd fd(::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!fd) {
        return fail(errno, fmt::format("cannot open the lock file {}: {}; run as root, or make its folder writable",
                                       lock, std::strerror(errno)));
    }
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
        return fail(EBUSY,
                    fmt::format("another uvif-netback serves this domain already (it holds {}); stop it first", lock));
    }
    return Instance(path, std::move(fd));
}

}  // namespace uvif::netback
