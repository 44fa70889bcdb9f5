// SPDX-License-Identifier: MIT
#include "netback/control_server.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "runtime/clock.hpp"
#include "runtime/describe_error.hpp"
#include "runtime/limits.hpp"
#include "runtime/log.hpp"

namespace uvif::netback {

/// One client. Its requests are answered one at a time, each when the reply before it is written, and it is read only
/// when none is left: a client that does not read is owed one reply at most, and one that asks without end has one turn
/// in the loop as everybody else.
class ControlServer::Connection final : private ReadyHandler {
public:
    Connection(ControlServer& server, UniqueFd fd) : server_(server), fd_(std::move(fd)) {}
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;
    ~Connection() {
        if (watched_) {
            server_.loop_.remove(fd_.get());
        }
    }
    Result<void> watch() {
        auto added = server_.loop_.add(fd_.get(), EPOLLIN, *this);
        watched_ = added.has_value();
        return added;
    }
    [[nodiscard]] bool done() const noexcept { return done_; }

private:
    void on_ready(std::uint32_t /*events*/) noexcept override {
        try {
            if (output_.empty()) {
                if (!has_request()) {
                    read_some();
                }
                answer_next();
            }
            write_some();
        } catch (const std::exception&) {
            done_ = true;  // no memory for this client
        }
        if (!done_) {
            const bool owed = !output_.empty() || has_request();
            server_.loop_.modify(fd_.get(), owed ? EPOLLOUT : EPOLLIN);
        } else if (std::exchange(watched_, false)) {
            server_.loop_.remove(fd_.get());  // destroyed by the next sweep: not from inside itself
        }
    }

    void read_some() {
        std::array<char, 4096> chunk;
        const ssize_t got = ::recv(fd_.get(), chunk.data(), chunk.size(), MSG_DONTWAIT);
        if (got <= 0) {
            done_ = got == 0 || (errno != EAGAIN && errno != EINTR);
            return;
        }
        input_.append(chunk.data(), static_cast<std::size_t>(got));
        done_ = std::min(input_.find('\n'), input_.size()) > limits::control_request;
    }

    [[nodiscard]] bool has_request() const noexcept { return input_.find('\n') != std::string::npos; }

    void answer_next() {
        const std::size_t end = input_.find('\n');
        if (end != std::string::npos && !done_) {
            output_ = server_.answer_(input_.substr(0, end)) + '\n';
            input_.erase(0, end + 1);
        }
    }

    void write_some() {
        while (!output_.empty() && !done_) {
            const ssize_t sent = ::send(fd_.get(), output_.data(), output_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
            if (sent < 0) {
                done_ = errno != EAGAIN && errno != EINTR;
                return;
            }
            output_.erase(0, static_cast<std::size_t>(sent));
        }
    }

    ControlServer& server_;
    UniqueFd fd_;
    bool watched_ = false;
    bool done_ = false;
    std::string input_;
    std::string output_;
};

namespace {

UniqueFd new_socket() noexcept {
    return UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

std::unexpected<Error> no_descriptor(int error) {
    return fail(error, fmt::format("cannot make the control socket: {}", describe_error(error)));
}

/// Whether somebody listens at `address`. Only a refusal says that nobody does: a live server may be busy, or of
/// another kind. The io_uring of a daemon that was killed keeps its listener for a while, so a server that does not
/// accept is given the time to vanish, by one connection only: each could cost another client its own.
Result<bool> is_taken(const sockaddr* address, socklen_t length) {
    const std::int64_t deadline = monotonic_ns() + limits::control_busy_ns;
    std::int64_t left = limits::control_busy_ns;
    for (; left > 0; left = deadline - monotonic_ns()) {
        const UniqueFd client = new_socket();
        if (!client) {
            return no_descriptor(errno);
        }
        if (::connect(client.get(), address, length) == 0) {
            pollfd hangup{client.get(), 0, 0};
            if (::poll(&hangup, 1, static_cast<int>(left / ns_per_ms) + 1) == 0) {
                return true;
            }
        } else if (errno == ECONNREFUSED || errno == ENOENT) {
            return false;
        } else if (errno != EAGAIN) {
            return true;
        }
        ::poll(nullptr, 0, 10);
    }
    return true;
}

/// Takes away a socket that nobody listens on any more.
Result<void> clear_path(const std::string& path, const sockaddr* address, socklen_t length) {
    struct stat existing{};
    if (::lstat(path.c_str(), &existing) != 0) {
        return {};
    }
    if (!S_ISSOCK(existing.st_mode)) {
        return fail(EEXIST, fmt::format("{} exists and is no socket; remove it, or choose another path with --control",
                                        printable(path)));
    }
    auto taken = is_taken(address, length);
    if (!taken) {
        return propagate(taken);
    }
    if (*taken) {
        return fail(EADDRINUSE, fmt::format("the control socket {} is in use, perhaps by the uvif-netback of another "
                                            "domain; stop that one, or choose another path with --control",
                                            printable(path)));
    }
    ::unlink(path.c_str());
    return {};
}

}  // namespace

Result<std::unique_ptr<ControlServer>> ControlServer::listen(Loop& loop, const std::string& path, Answer answer) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof(address.sun_path)) {
        return fail(ENAMETOOLONG, fmt::format("control socket path {} is longer than the {} octets that a Unix socket "
                                              "allows; choose a shorter one with --control",
                                              printable(path), sizeof(address.sun_path) - 1));
    }
    std::memcpy(address.sun_path, path.data(), path.size());
    const auto* generic = reinterpret_cast<const sockaddr*>(&address);
    UniqueFd listener = new_socket();
    Acceptor acceptor;
    if (!listener || !acceptor) {
        return no_descriptor(errno);
    }
    if (auto cleared = clear_path(path, generic, sizeof(address)); !cleared) {
        return propagate(cleared);
    }
    const mode_t old_mask = ::umask(0177);
    const bool listening = ::bind(listener.get(), generic, sizeof(address)) == 0 && ::listen(listener.get(), 8) == 0;
    const int error = errno;
    ::umask(old_mask);
    if (!listening) {
        return fail(error, fmt::format("cannot listen on the control socket {}: {}; choose another path with --control",
                                       printable(path), std::strerror(error)));
    }
    std::unique_ptr<ControlServer> server(
        new ControlServer(loop, path, std::move(listener), std::move(acceptor), std::move(answer)));
    if (auto added = loop.add(server->listener_.get(), EPOLLIN, *server); !added) {
        return propagate(added);
    }
    return server;
}

ControlServer::ControlServer(Loop& loop, std::string path, UniqueFd listener, Acceptor acceptor, Answer answer)
    : loop_(loop),
      path_(std::move(path)),
      listener_(std::move(listener)),
      acceptor_(std::move(acceptor)),
      answer_(std::move(answer)) {}

ControlServer::~ControlServer() {
    connections_.clear();
    loop_.remove(listener_.get());
    ::unlink(path_.c_str());
}

void ControlServer::on_ready(std::uint32_t /*events*/) noexcept {
    try {
        accept_one();
    } catch (const std::exception&) {
        // No memory for one more client: it sees its connection closed.
    }
}

void ControlServer::accept_one() {
    UniqueFd fd = acceptor_.accept(listener_.get());
    if (!fd) {
        return;
    }
    if (connections_.size() == limits::control_connections) {
        connections_.erase(connections_.begin());  // the oldest makes room: nobody is locked out by idle clients
    }
    auto connection = std::make_unique<Connection>(*this, std::move(fd));
    if (connection->watch()) {
        connections_.push_back(std::move(connection));
    }
}

void ControlServer::sweep() noexcept {
    std::erase_if(connections_, [](const auto& connection) { return connection->done(); });
}

}  // namespace uvif::netback
