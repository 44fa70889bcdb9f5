// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <string_view>

#include "runtime/unique_fd.hpp"
#include "uvif/error.hpp"

namespace uvif::netback {

/// The right to be the one netback of a domain: a lock that ends with the process, however it ends.
class Instance {
public:
    /// `hypervisor` is Hypervisor::description(). EBUSY when another daemon serves the same domain.
    static Result<Instance> claim(std::string_view hypervisor);

    /// Where this domain's daemon listens unless told otherwise: /run/uvif/netback, or beside the emulated domain's
    /// socket.
    [[nodiscard]] static std::string control_path(std::string_view hypervisor);
    [[nodiscard]] const std::string& control_path() const noexcept { return path_; }
    /// The folder of its journals, beside that.
    [[nodiscard]] std::string journal_path() const { return path_ + ".journal"; }

private:
    Instance(std::string path, UniqueFd lock) : path_(std::move(path)), lock_(std::move(lock)) {}

    std::string path_;
    UniqueFd lock_;
};

}  // namespace uvif::netback
