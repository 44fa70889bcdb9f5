// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "xen/emulated/store_core.hpp"
#include "xen/types.hpp"

/// Theory of operation
///
/// One client's conversation in the xenstore wire protocol (xen/io/xs_wire.h), from bytes to bytes and without a
/// socket, so that it can be tested and fuzzed as a function. A request is a header and up to 4096 octets; each gets
/// one reply, an error's name where it fails; events come in between. A client that does not fetch its replies
/// is not served: no request is taken and no event is written out while more than `backlog_max` octets wait.
namespace uvif::xen {

/// Thread rule: that of the StoreCore.
class StoreConnection {
public:
    static constexpr std::size_t backlog_max = 64 * 1024;

    /// `on_event` as for StoreSession: there is output now, or will be once the backlog is gone.
    StoreConnection(StoreCore& core, DomainId domain, std::function<void()> on_event = {})
        : session_(core, domain, std::move(on_event)) {}

    /// Takes what the client sent, cut anywhere. False: it does not speak the protocol, close the connection.
    [[nodiscard]] bool feed(std::span<const std::byte> bytes);
    /// More may be fed: the backlog is small and every whole request has been served.
    [[nodiscard]] bool wants_input() const noexcept { return !failed_ && backlog() < backlog_max; }
    /// What is to be sent to the client, with the events that have come meanwhile.
    [[nodiscard]] std::span<const std::byte> output();
    /// The first `count` octets of the output are sent. False as for feed().
    [[nodiscard]] bool sent(std::size_t count);

    [[nodiscard]] DomainId domain() const noexcept { return session_.domain(); }

private:
    struct Request {
        std::uint32_t type;
        std::uint32_t id;
        Transaction transaction;
        std::string_view payload;
    };

    [[nodiscard]] std::size_t backlog() const noexcept { return output_.size() - output_head_; }
    void serve();
    void answer(const Request& request);
    StoreAnswer<std::string> execute(const Request& request);
    StoreAnswer<std::string> execute_on_node(const Request& request, std::string_view path, std::string_view rest);
    StoreAnswer<std::string> list_part(const Request& request, std::string_view path, std::string_view offset);
    StoreAnswer<std::string> about_domain(const Request& request);
    void message(std::uint32_t type, std::uint32_t id, Transaction transaction, std::string_view payload);

    StoreSession session_;
    std::vector<std::byte> input_;
    std::vector<std::byte> output_;
    std::size_t output_head_ = 0;
    bool failed_ = false;
};

}  // namespace uvif::xen
