// SPDX-License-Identifier: MIT
#include "xen/emulated/server.hpp"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "runtime/describe_error.hpp"
#include "xen/emulated/admin.hpp"
#include "xen/emulated/call_service.hpp"
#include "xen/emulated/seqpacket.hpp"
#include "xen/emulated/wire.hpp"

namespace uvif::xen {
namespace {

using nlohmann::json;

// Keys of the two descriptors that are not endpoints of ours.
constexpr std::uint64_t store_key = 0;
constexpr std::uint64_t stop_key = 1;
constexpr std::uint64_t first_endpoint_key = 2;

// A domain's processes open a few handles a worker; past this number one of them is running away.
constexpr std::ptrdiff_t max_clients_per_domain = 1024;
constexpr std::size_t admin_request_max = 4096;

std::string refusal_text(const Error& error) {
    return json{{"error", error.code}, {"message", error.message}}.dump();
}

json status_of(DomainId domain, const DomainUsage& usage) {
    return {{"domain", std::to_underlying(domain)},
            {"grants_in_use", usage.grants_in_use},
            {"grants_held", usage.grants_held},
            {"ports_unbound", usage.ports_unbound},
            {"ports_interdomain", usage.ports_interdomain},
            {"pages_shared", usage.pages_shared},
            {"pages_deferred", usage.pages_deferred},
            {"handles", usage.handles}};
}

}  // namespace

Result<std::unique_ptr<Server>> Server::create(Machine& machine, StoreCore& core, StoreServer& store,
                                               std::string directory) {
    auto server = std::unique_ptr<Server>(new Server(machine, core, store, std::move(directory)));
    server->next_key_ = first_endpoint_key;
    server->epoll_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
    epoll_event event{EPOLLIN, {.u64 = store_key}};
    if (!server->acceptor_ || !server->epoll_ ||
        ::epoll_ctl(server->epoll_.get(), EPOLL_CTL_ADD, store.fd(), &event) != 0) {
        return fail(errno, fmt::format("cannot serve: {}", describe_error(errno)));
    }
    for (const DomainId domain : machine.domains()) {
        if (auto opened = server->open_domain(domain); !opened) {
            return propagate(opened);
        }
    }
    if (auto listening = server->listen(Kind::admin_listener, DomainId{0}, admin_socket(server->directory_));
        !listening) {
        return propagate(listening);
    }
    return server;
}

Server::~Server() {
    while (!endpoints_.empty()) {
        drop(endpoints_.begin()->first);
    }
    for (const DomainId domain : machine_.domains()) {
        close_domain(domain);
    }
    ::unlink(admin_socket(directory_).c_str());
}

Result<void> Server::run(int stop_fd) {
    epoll_event stop{EPOLLIN, {.u64 = stop_key}};
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, stop_fd, &stop) != 0) {
        return fail(errno,
                    fmt::format("cannot wait for the signal to stop: {}; raise fs.epoll.max_user_watches with sysctl",
                                std::strerror(errno)));
    }
    std::array<epoll_event, 64> events;
    while (!stopping_) {
        const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), -1);
        if (count < 0 && errno != EINTR) {
            return fail(errno, fmt::format("cannot wait for clients: {}", std::strerror(errno)));
        }
        for (const epoll_event& event : std::span(events).first(static_cast<std::size_t>(std::max(count, 0)))) {
            if (event.data.u64 == store_key) {
                store_.dispatch();
            } else if (event.data.u64 == stop_key) {
                stopping_ = true;
            } else {
                serve(event.data.u64);
            }
        }
    }
    return {};
}

Result<void> Server::listen(Kind kind, DomainId domain, const std::string& path) {
    auto socket = listen_at(path);
    if (!socket) {
        return propagate(socket);
    }
    return add(Endpoint{kind, domain, {}, std::move(*socket)});
}

Result<void> Server::add(Endpoint endpoint) {
    epoll_event event{EPOLLIN, {.u64 = next_key_}};
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, endpoint.fd.get(), &event) != 0) {
        return fail(errno, fmt::format("cannot watch a socket: {}; raise fs.epoll.max_user_watches with sysctl",
                                       std::strerror(errno)));
    }
    endpoints_.emplace(next_key_++, std::move(endpoint));
    return {};
}

void Server::drop(std::uint64_t key) noexcept {
    const auto found = endpoints_.find(key);
    if (found->second.kind == Kind::domain) {
        machine_.close_handle(found->second.handle);
    }
    endpoints_.erase(found);  // closing the descriptor takes it out of the epoll set
}

Result<void> Server::open_domain(DomainId domain) {
    if (auto listening = listen(Kind::domain_listener, domain, hypervisor_socket(directory_, domain)); !listening) {
        return listening;
    }
    const std::string path = store_socket(directory_, domain);
    ::unlink(path.c_str());  // what a machine that was killed left behind
    return store_.open_domain(domain, path);
}

void Server::close_domain(DomainId domain) noexcept {
    for (auto endpoint = endpoints_.begin(); endpoint != endpoints_.end();) {
        const auto next = std::next(endpoint);
        const bool of_domain = endpoint->second.kind == Kind::domain || endpoint->second.kind == Kind::domain_listener;
        if (of_domain && endpoint->second.domain == domain) {
            drop(endpoint->first);
        }
        endpoint = next;
    }
    ::unlink(hypervisor_socket(directory_, domain).c_str());
    store_.close_domain(domain);
}

void Server::serve(std::uint64_t key) {
    // An earlier event of the same round may have closed it.
    const auto found = endpoints_.find(key);
    if (found == endpoints_.end()) {
        return;
    }
    const Endpoint& endpoint = found->second;
    bool keep = true;
    switch (endpoint.kind) {
        case Kind::admin_listener:
        case Kind::domain_listener:
            accept_client(endpoint.kind, endpoint.domain, endpoint.fd.get());
            break;
        case Kind::domain:
            keep = serve_domain(endpoint);
            break;
        case Kind::admin:
            keep = serve_admin(endpoint);
            break;
    }
    if (!keep) {
        drop(key);
    }
}

void Server::accept_client(Kind listener, DomainId domain, int listening) {
    UniqueFd socket = acceptor_.accept(listening);
    const auto clients = std::ranges::count_if(endpoints_, [domain](const auto& entry) {
        return entry.second.kind == Kind::domain && entry.second.domain == domain;
    });
    if (!socket || clients >= max_clients_per_domain) {
        return;
    }
    Endpoint client{Kind::admin, domain, {}, std::move(socket)};
    if (listener == Kind::domain_listener) {
        auto handle = machine_.open_handle(domain);
        if (!handle) {
            return;
        }
        client.kind = Kind::domain;
        client.handle = *handle;
    }
    const HandleId handle = client.handle;
    if (auto added = add(std::move(client)); !added) {
        machine_.close_handle(handle);
    }
}

bool Server::serve_domain(const Endpoint& client) {
    std::array<std::byte, sizeof(wire::Request)> request;
    auto received = receive_message(client.fd.get(), request);
    if (!received || received->length == 0) {
        return !received && received.error().code == EAGAIN;
    }
    const CallAnswer answer =
        answer_call(machine_, client.domain, client.handle, store_socket(directory_, client.domain),
                    std::span(request).first(received->length));
    return send_message(client.fd.get(), answer.message, answer.fd).has_value();
}

bool Server::serve_admin(const Endpoint& client) {
    std::array<std::byte, admin_request_max> request;
    auto received = receive_message(client.fd.get(), request);
    if (!received || received->length == 0) {
        return !received && received.error().code == EAGAIN;
    }
    const std::string answer = answer_admin({reinterpret_cast<const char*>(request.data()), received->length});
    return send_message(client.fd.get(), std::as_bytes(std::span(answer))).has_value();
}

std::string Server::answer_admin(std::string_view text) {
    const json request = json::parse(text, nullptr, false);
    const auto field = [&request](const char* key) -> json {
        return request.is_object() && request.contains(key) ? request.at(key) : json();
    };
    const json verb = field("request");
    json answer = json::object();
    if (verb == "create") {
        auto domain = machine_.create_domain();
        if (!domain) {
            return refusal_text(domain.error());
        }
        if (auto opened = open_domain(*domain); !opened) {
            close_domain(*domain);
            [[maybe_unused]] const auto undone = machine_.destroy_domain(*domain);
            return refusal_text(opened.error());
        }
        core_.introduce(*domain);
        answer["domain"] = std::to_underlying(*domain);
    } else if (verb == "destroy") {
        const json number = field("domain");
        const bool valid = number.is_number_unsigned() && number < first_reserved_domain_id;
        const auto domain = static_cast<DomainId>(valid ? number.get<std::uint16_t>() : first_reserved_domain_id);
        if (auto destroyed = machine_.destroy_domain(domain); !destroyed) {
            return refusal_text(destroyed.error());
        }
        close_domain(domain);
        core_.release(domain);
    } else if (verb == "list") {
        answer["domains"] = json::array();
        for (const DomainId domain : machine_.domains()) {
            if (const auto usage = machine_.usage(domain); usage) {
                answer["domains"].push_back(status_of(domain, *usage));
            }
        }
    } else if (verb == "stop") {
        stopping_ = true;
    } else {
        return refusal_text(Error{EINVAL, "an administrative request that this machine does not know"});
    }
    return answer.dump();
}

}  // namespace uvif::xen
