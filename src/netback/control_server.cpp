// SPDX-License-Identifier: MIT
#include "netback/control_server.hpp"

#include <fmt/format.h>
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

#include "runtime/limits.hpp"
#include "runtime/log.hpp"

namespace uvif::netback {

/// One client. It is read only while nothing is left to be written to it, so a client that does not read is owed one
/// reply at most.
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
                read_some();
            }
            write_some();
        } catch (const std::exception&) {
            done_ = true;  // no memory for this client
        }
        if (!done_) {
            server_.loop_.modify(fd_.get(), output_.empty() ? EPOLLIN : EPOLLOUT);
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
        for (std::size_t end; (end = input_.find('\n')) != std::string::npos; input_.erase(0, end + 1)) {
            output_ += server_.answer_(input_.substr(0, end)) + '\n';
        }
        done_ = input_.size() > limits::control_request;
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

Result<std::unique_ptr<ControlServer>> ControlServer::listen(Loop& loop, const std::string& path, Answer answer) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof(address.sun_path)) {
        return fail(ENAMETOOLONG, fmt::format("control socket path {} is longer than the {} octets that a Unix socket "
                                              "allows; choose a shorter one with --control",
                                              printable(path), sizeof(address.sun_path) - 1));
    }
    std::memcpy(address.sun_path, path.data(), path.size());
    UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    struct stat existing{};
    if (::lstat(path.c_str(), &existing) == 0) {
        if (!S_ISSOCK(existing.st_mode)) {
            return fail(EEXIST,
                        fmt::format("{} exists and is no socket; remove it, or choose another path with --control",
                                    printable(path)));
        }
        ::unlink(path.c_str());
    }
    const mode_t old_mask = ::umask(0177);
    const int bound =
        listener ? ::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) : -1;
    const int error = errno;
    ::umask(old_mask);
    if (bound != 0 || ::listen(listener.get(), 8) != 0) {
        return fail(bound != 0 ? error : errno,
                    fmt::format("cannot listen on the control socket {}: {}; choose another path with --control",
                                printable(path), std::strerror(bound != 0 ? error : errno)));
    }
    std::unique_ptr<ControlServer> server(new ControlServer(loop, path, std::move(listener), std::move(answer)));
    if (auto added = loop.add(server->listener_.get(), EPOLLIN, *server); !added) {
        return propagate(added);
    }
    return server;
}

ControlServer::ControlServer(Loop& loop, std::string path, UniqueFd listener, Answer answer)
    : loop_(loop), path_(std::move(path)), listener_(std::move(listener)), answer_(std::move(answer)) {}

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
    UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
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
