// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "runtime/acceptor.hpp"
#include "uvif/error.hpp"
#include "xen/emulated/machine.hpp"
#include "xen/emulated/shared_memory.hpp"
#include "xen/emulated/store_core.hpp"
#include "xen/emulated/store_server.hpp"

namespace uvif::xen {

/// Serves a machine and its store to other processes: in `directory`, the sockets `admin` (see admin.hpp), `domN`
/// (the hypervisor as domain N sees it) and `domN.xenstore`.
/// Whatever a client sends or leaves unread costs at most its own connection.
/// Thread rule: one thread, which is then the machine's.
class Server {
public:
    /// Machine and store must outlive the server. Opens the sockets of the domains that exist.
    static Result<std::unique_ptr<Server>> create(Machine& machine, StoreCore& core, StoreServer& store,
                                                  std::string directory);
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    /// Serves until asked to stop through `admin`, or until `stop_fd` is readable.
    Result<void> run(int stop_fd);

private:
    enum class Kind : std::uint8_t { admin_listener, domain_listener, admin, domain };
    struct Endpoint {
        Kind kind{};
        DomainId domain{};
        HandleId handle{};  ///< of Kind::domain
        UniqueFd fd;
    };

    Server(Machine& machine, StoreCore& core, StoreServer& store, std::string directory)
        : machine_(machine), core_(core), store_(store), directory_(std::move(directory)) {}

    Result<void> listen(Kind kind, DomainId domain, const std::string& path);
    Result<void> add(Endpoint endpoint);
    void drop(std::uint64_t key) noexcept;
    Result<void> open_domain(DomainId domain);
    void close_domain(DomainId domain) noexcept;

    void serve(std::uint64_t key);
    void accept_client(Kind listener, DomainId domain, int listening);
    bool serve_domain(const Endpoint& client);
    bool serve_admin(const Endpoint& client);
    std::string answer_admin(std::string_view request);

    Machine& machine_;
    StoreCore& core_;
    StoreServer& store_;
    std::string directory_;
    UniqueFd epoll_;
    Acceptor acceptor_;
    std::map<std::uint64_t, Endpoint> endpoints_;
    std::uint64_t next_key_ = 0;
    bool stopping_ = false;
};

}  // namespace uvif::xen
