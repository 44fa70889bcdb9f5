// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <nlohmann/json.hpp>
#include <string>

#include "runtime/unique_fd.hpp"
#include "uvif/error.hpp"

namespace uvif::tools {

/// A connection to a daemon's control socket. Calls block, for 10 seconds at most.
class ControlClient {
public:
    /// Errors: ENOENT, ECONNREFUSED (nobody listens), EACCES, ENAMETOOLONG.
    static Result<ControlClient> connect(const std::string& path);

    /// The `result` of the daemon's answer. Errors: EINVAL (the daemon says no, in its own words), EPROTO (no answer
    /// that makes sense), ETIMEDOUT, ECONNRESET.
    Result<nlohmann::json> request(const nlohmann::json& request);

    /// The process at the other end.
    [[nodiscard]] pid_t peer() const noexcept { return peer_; }

private:
    ControlClient(std::string path, UniqueFd fd, pid_t peer)
        : path_(std::move(path)), fd_(std::move(fd)), peer_(peer) {}
    Result<std::string> read_line();

    std::string path_;
    UniqueFd fd_;
    pid_t peer_;
};

}  // namespace uvif::tools
