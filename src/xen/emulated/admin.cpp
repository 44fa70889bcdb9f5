// SPDX-License-Identifier: MIT
#include "xen/emulated/admin.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <utility>

#include "xen/emulated/seqpacket.hpp"

namespace uvif::xen {
namespace {

using nlohmann::json;

Result<json> exchange(int socket, const json& request) {
    const std::string text = request.dump();
    if (auto sent = send_message(socket, std::as_bytes(std::span(text))); !sent) {
        return propagate(sent);
    }
    std::vector<std::byte> buffer(admin_message_max);
    auto received = receive_message(socket, buffer);
    if (!received) {
        return propagate(received);
    }
    if (received->length == 0) {
        return connection_closed(EPIPE);
    }
    const auto* octets = reinterpret_cast<const char*>(buffer.data());
    json answer = json::parse(octets, octets + received->length, nullptr, false);
    if (!answer.is_object()) {
        return fail(EPROTO, "the emulated machine gave an answer that is not JSON: use programs of one build");
    }
    if (answer.contains("error")) {
        return fail(answer.value("error", EPROTO), answer.value("message", "the emulated machine refused"));
    }
    return answer;
}

}  // namespace

std::string store_socket(const std::string& directory, DomainId domain) {
    return fmt::format("{}/dom{}.xenstore", directory, std::to_underlying(domain));
}

std::string hypervisor_socket(const std::string& directory, DomainId domain) {
    return fmt::format("{}/dom{}", directory, std::to_underlying(domain));
}

std::string admin_socket(const std::string& directory) {
    return directory + "/admin";
}

Result<Admin> Admin::connect(const std::string& directory) {
    auto socket = connect_to(admin_socket(directory));
    if (!socket) {
        return propagate(socket);
    }
    return Admin(std::move(*socket));
}

Result<DomainId> Admin::create_domain() {
    auto answer = exchange(socket_.get(), {{"request", "create"}});
    if (!answer) {
        return propagate(answer);
    }
    return static_cast<DomainId>(answer->value("domain", std::uint16_t{0}));
}

Result<void> Admin::destroy_domain(DomainId domain) {
    auto answer = exchange(socket_.get(), {{"request", "destroy"}, {"domain", std::to_underlying(domain)}});
    if (!answer) {
        return propagate(answer);
    }
    return {};
}

Result<std::vector<DomainStatus>> Admin::list() {
    auto answer = exchange(socket_.get(), {{"request", "list"}});
    if (!answer) {
        return propagate(answer);
    }
    std::vector<DomainStatus> domains;
    for (const json& entry : answer->value("domains", json::array())) {
        const auto count = [&entry](const char* key) { return entry.value(key, std::uint32_t{0}); };
        domains.push_back(
            {static_cast<DomainId>(entry.value("domain", std::uint16_t{0})),
             {count("grants_in_use"), count("grants_held"), count("ports_unbound"), count("ports_interdomain"),
              count("pages_shared"), count("pages_deferred"), count("handles")}});
    }
    return domains;
}

Result<void> Admin::stop() {
    auto answer = exchange(socket_.get(), {{"request", "stop"}});
    if (!answer) {
        return propagate(answer);
    }
    return {};
}

}  // namespace uvif::xen
