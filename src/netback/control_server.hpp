// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/acceptor.hpp"
#include "runtime/loop.hpp"
#include "runtime/unique_fd.hpp"
#include "uvif/error.hpp"

namespace uvif::netback {

/// The daemon's Unix socket: one JSON object a line in, one out. Who may ask is what the socket's mode (0600) says.
/// Thread rule: the control thread.
class ControlServer final : private ReadyHandler {
public:
    /// Text of a request to text of its reply, both one line without the newline.
    using Answer = std::function<std::string(const std::string&)>;

    /// A socket file left by a daemon that died is replaced. EADDRINUSE when somebody listens there: the daemon's lock
    /// is one of its domain, and another domain's daemon may have been given the same path.
    static Result<std::unique_ptr<ControlServer>> listen(Loop& loop, const std::string& path, Answer answer);
    ControlServer(const ControlServer&) = delete;
    ControlServer& operator=(const ControlServer&) = delete;
    ~ControlServer();

    /// Closes the connections of clients that are gone. Not from a handler of the loop.
    void sweep() noexcept;

private:
    class Connection;

    ControlServer(Loop& loop, std::string path, UniqueFd listener, Acceptor acceptor, Answer answer);
    void on_ready(std::uint32_t events) noexcept override;  // of the listener
    void accept_one();

    Loop& loop_;
    std::string path_;
    UniqueFd listener_;
    Acceptor acceptor_;
    Answer answer_;
    std::vector<std::unique_ptr<Connection>> connections_;
};

}  // namespace uvif::netback
