// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "runtime/acceptor.hpp"
#include "uvif/error.hpp"
#include "xen/emulated/store_connection.hpp"
#include "xen/emulated/store_core.hpp"
#include "xen/types.hpp"

/// Theory of operation
///
/// One Unix stream socket per domain: whoever connects to it is that domain, as far as the store knows, so access to
/// a socket's path is what stands for being inside the domain. All sockets hang on one epoll descriptor, which the
/// machine's loop polls. A change made by one client wakes others, and so does one made to the core from elsewhere in
/// the process: their sessions put them on a list of those to be served, and an eventfd makes the epoll descriptor
/// readable when that happens outside dispatch().
namespace uvif::xen {

/// Thread rule: that of the StoreCore, which outlives it.
class StoreServer {
public:
    /// Connections of one domain at a time; further ones are closed at once. Each may hold some hundred KiB.
    static constexpr std::size_t connections_per_domain_max = 64;

    static Result<std::unique_ptr<StoreServer>> create(StoreCore& core);
    StoreServer(const StoreServer&) = delete;
    StoreServer& operator=(const StoreServer&) = delete;
    ~StoreServer();

    /// Serves the domain at `path`, where nothing may be yet. Does not introduce it: see StoreCore.
    Result<void> open_domain(DomainId domain, const std::string& path);
    /// Hangs up on all of the domain's clients and removes the socket. Nothing when it is not open.
    void close_domain(DomainId domain);

    /// Readable when dispatch() has something to do.
    [[nodiscard]] int fd() const noexcept { return epoll_; }
    /// Serves what is ready, without waiting.
    void dispatch();

private:
    struct Listener {
        DomainId domain;
        std::string path;
    };
    struct Client {
        std::unique_ptr<StoreConnection> connection;
        std::uint32_t interest = 0;  ///< epoll events asked for
        bool marked = false;         ///< on the list of those to be served
    };

    StoreServer(StoreCore& core, int epoll, int wake) : core_(core), epoll_(epoll), wake_(wake) {}

    void accept(int listener);
    void mark(int client);
    void serve_marked();
    void serve(int client, std::uint32_t events);
    void hang_up(int client);
    [[nodiscard]] bool receive(int fd, StoreConnection& connection);
    [[nodiscard]] bool send(int fd, StoreConnection& connection);

    StoreCore& core_;
    int epoll_;
    int wake_;
    Acceptor acceptor_;
    bool dispatching_ = false;
    std::map<int, Listener> listeners_;
    std::map<int, Client> clients_;
    std::vector<int> marked_;
};

}  // namespace uvif::xen
