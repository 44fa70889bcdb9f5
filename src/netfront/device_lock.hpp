// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <utility>

#include "runtime/unique_fd.hpp"
#include "uvif/error.hpp"

namespace uvif::netfront {

/// Says to other programs of this library that a device is in use, for as long as the program lives: a lock on a file
/// in /run/lock. The kernel drops the lock of a killed program; the file that stays then is taken over.
class DeviceLock {
public:
    /// Holds nothing.
    DeviceLock() = default;
    DeviceLock(DeviceLock&&) noexcept = default;
    DeviceLock& operator=(DeviceLock&&) = delete;
    ~DeviceLock();

    /// `hypervisor` is Hypervisor::description(): with `id` it names the device. EBUSY: another program holds it. Where
    /// no file can be made the result holds nothing, and the device goes unguarded.
    static Result<DeviceLock> acquire(const std::string& hypervisor, unsigned id);

private:
    DeviceLock(UniqueFd file, std::string path) noexcept : file_(std::move(file)), path_(std::move(path)) {}

    UniqueFd file_;
    std::string path_;
};

}  // namespace uvif::netfront
