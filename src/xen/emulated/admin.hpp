// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "uvif/error.hpp"
#include "xen/emulated/machine.hpp"

namespace uvif::xen {

/// What the toolstack asks of a running machine beside the store: one JSON object each way over DIR/admin.
/// {"request": "create" | "destroy" | "list" | "stop", "domain": N} is answered by an object that holds either the
/// answer, or "error" (an errno value) and "message".
inline constexpr std::size_t admin_message_max = 128 * 1024;

struct DomainStatus {
    DomainId domain{};
    DomainUsage usage;
};

/// The toolstack's connection to a running machine. Each call waits for its answer. Thread rule: one thread.
class Admin {
public:
    /// `directory` is that of `uvif-machine start`.
    static Result<Admin> connect(const std::string& directory);

    /// Makes the domain and its sockets; nothing is written into the store.
    Result<DomainId> create_domain();
    /// Ends the domain, cuts off its processes and removes its sockets; its nodes in the store stay.
    Result<void> destroy_domain(DomainId domain);
    Result<std::vector<DomainStatus>> list();
    Result<void> stop();

private:
    explicit Admin(UniqueFd socket) noexcept : socket_(std::move(socket)) {}

    UniqueFd socket_;
};

/// Where dom0's store listens, and the socket that a domain's programs are to be given.
[[nodiscard]] std::string store_socket(const std::string& directory, DomainId domain);
[[nodiscard]] std::string hypervisor_socket(const std::string& directory, DomainId domain);
[[nodiscard]] std::string admin_socket(const std::string& directory);

}  // namespace uvif::xen
