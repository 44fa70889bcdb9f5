// SPDX-License-Identifier: MIT
#include "xen/emulated/store_server.hpp"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "runtime/describe_error.hpp"

namespace uvif::xen {

namespace {

constexpr std::size_t receive_chunk = 8192;
constexpr int events_a_turn = 64;

bool would_wait(int error) noexcept {
    return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

std::unexpected<Error> system_failure(std::string_view what, std::string_view path) {
    const int error = errno;
    return fail(error, fmt::format("cannot {} {}: {}", what, path, describe_error(error)));
}

}  // namespace

Result<std::unique_ptr<StoreServer>> StoreServer::create(StoreCore& core) {
    const int epoll = ::epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0) {
        return system_failure("make", "an epoll descriptor for the store");
    }
    const int wake = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    epoll_event event{.events = EPOLLIN, .data = {.fd = wake}};
    if (wake < 0 || ::epoll_ctl(epoll, EPOLL_CTL_ADD, wake, &event) != 0) {
        auto failed = system_failure("make", "an eventfd for the store");
        ::close(epoll);
        if (wake >= 0) {
            ::close(wake);
        }
        return failed;
    }
    return std::unique_ptr<StoreServer>(new StoreServer(core, epoll, wake));
}

StoreServer::~StoreServer() {
    while (!listeners_.empty()) {
        close_domain(listeners_.begin()->second.domain);
    }
    ::close(wake_);
    ::close(epoll_);
}

Result<void> StoreServer::open_domain(DomainId domain, const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof(address.sun_path)) {
        return fail(ENAMETOOLONG, fmt::format("cannot listen at {}: a socket's path has 1 to {} octets", path,
                                              sizeof(address.sun_path) - 1));
    }
    std::ranges::copy(path, address.sun_path);
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return system_failure("make a socket for", path);
    }
    if (::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
        auto failed = system_failure("listen at", path);
        ::close(fd);
        return failed;
    }
    epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
    if (::listen(fd, SOMAXCONN) != 0 || ::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) != 0) {
        auto failed = system_failure("listen at", path);
        ::unlink(path.c_str());
        ::close(fd);
        return failed;
    }
    listeners_.emplace(fd, Listener{domain, path});
    return {};
}

void StoreServer::close_domain(DomainId domain) {
    std::vector<int> clients;
    for (const auto& [fd, client] : clients_) {
        if (client.connection->domain() == domain) {
            clients.push_back(fd);
        }
    }
    std::ranges::for_each(clients, [this](int fd) { hang_up(fd); });
    std::erase_if(listeners_, [domain](const auto& entry) {
        if (entry.second.domain != domain) {
            return false;
        }
        ::unlink(entry.second.path.c_str());
        ::close(entry.first);
        return true;
    });
}

void StoreServer::dispatch() {
    std::array<epoll_event, events_a_turn> events;
    const int ready = ::epoll_wait(epoll_, events.data(), events_a_turn, 0);
    dispatching_ = true;
    for (int i = 0; i < ready; ++i) {
        const epoll_event& event = events[static_cast<std::size_t>(i)];
        if (event.data.fd == wake_) {
            eventfd_t count = 0;
            ::eventfd_read(wake_, &count);
        } else if (listeners_.contains(event.data.fd)) {
            accept(event.data.fd);
        } else if (clients_.contains(event.data.fd)) {
            serve(event.data.fd, event.events);
        }
    }
    serve_marked();
    dispatching_ = false;
}

void StoreServer::accept(int listener) {
    const DomainId domain = listeners_.at(listener).domain;
    while (true) {
        UniqueFd accepted = acceptor_.accept(listener);
        if (!accepted) {
            return;
        }
        const int fd = accepted.get();
        const auto same_domain = std::ranges::count_if(
            clients_, [domain](const auto& entry) { return entry.second.connection->domain() == domain; });
        epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
        if (static_cast<std::size_t>(same_domain) >= connections_per_domain_max ||
            ::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) != 0) {
            continue;
        }
        clients_.emplace(
            accepted.release(),
            Client{std::make_unique<StoreConnection>(core_, domain, [this, fd] { mark(fd); }), EPOLLIN, false});
    }
}

/// Called by a session that got its first waiting event.
void StoreServer::mark(int client) {
    Client& marked = clients_.at(client);
    if (marked.marked) {
        return;
    }
    marked.marked = true;
    marked_.push_back(client);
    if (!dispatching_) {
        ::eventfd_write(wake_, 1);
    }
}

void StoreServer::serve_marked() {
    // Serving may mark others, so the list can grow meanwhile.
    while (!marked_.empty()) {
        const int fd = marked_.back();
        marked_.pop_back();
        if (const auto client = clients_.find(fd); client != clients_.end()) {
            client->second.marked = false;
            serve(fd, 0);
        }
    }
}

void StoreServer::serve(int fd, std::uint32_t events) {
    Client& client = clients_.at(fd);
    StoreConnection& connection = *client.connection;
    const bool alive =
        ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) == 0 || receive(fd, connection)) && send(fd, connection);
    if (!alive) {
        hang_up(fd);
        return;
    }
    const std::uint32_t interest =
        (connection.wants_input() ? EPOLLIN : 0U) | (connection.output().empty() ? 0U : EPOLLOUT);
    if (interest != client.interest) {
        epoll_event event{.events = interest, .data = {.fd = fd}};
        ::epoll_ctl(epoll_, EPOLL_CTL_MOD, fd, &event);
        client.interest = interest;
    }
}

void StoreServer::hang_up(int fd) {
    ::close(fd);
    clients_.erase(fd);
    std::erase(marked_, fd);
}

/// One read a turn, so that a busy client does not keep the others waiting.
bool StoreServer::receive(int fd, StoreConnection& connection) {
    if (!connection.wants_input()) {
        // Hung up with replies still to fetch: nobody will.
        return false;
    }
    std::array<std::byte, receive_chunk> chunk;
    const ssize_t count = ::recv(fd, chunk.data(), chunk.size(), 0);
    if (count < 0) {
        return would_wait(errno);
    }
    return count != 0 && connection.feed(std::span(chunk).first(static_cast<std::size_t>(count)));
}

bool StoreServer::send(int fd, StoreConnection& connection) {
    for (auto output = connection.output(); !output.empty(); output = connection.output()) {
        const ssize_t count = ::send(fd, output.data(), output.size(), MSG_NOSIGNAL);
        if (count < 0) {
            return would_wait(errno);
        }
        if (!connection.sent(static_cast<std::size_t>(count))) {
            return false;
        }
    }
    return true;
}

}  // namespace uvif::xen
