// SPDX-License-Identifier: MIT
#include "xen/emulated/call_service.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "xen/emulated/wire.hpp"

namespace uvif::xen {
namespace {

CallAnswer make_answer(const wire::Reply& reply, std::span<const std::byte> payload = {}, int fd = -1) {
    CallAnswer answer;
    const auto head = std::as_bytes(std::span(&reply, 1));
    answer.message.resize(head.size() + payload.size());
    std::ranges::copy(payload, std::ranges::copy(head, answer.message.begin()).out);
    answer.fd = fd;
    return answer;
}

CallAnswer refusal(const Error& error) {
    return make_answer({error.code, 0, 0}, std::as_bytes(std::span(error.message)));
}

/// Domain ids come as 32 bits: one that does not fit names no domain.
DomainId domain_of(std::uint32_t number) noexcept {
    constexpr std::uint32_t largest = std::numeric_limits<std::uint16_t>::max();
    return static_cast<DomainId>(number < largest ? number : largest);
}

CallAnswer port_answer(Result<EventPort> port) {
    return port ? make_answer({0, std::to_underlying(*port), 0}) : refusal(port.error());
}

CallAnswer fd_answer(const Result<int>& fd) {
    return fd ? make_answer({}, {}, *fd) : refusal(fd.error());
}

CallAnswer hello(const Machine& machine, DomainId caller, std::string_view store_path, const wire::Request& request) {
    if (request.a != wire::version) {
        return refusal(Error{EPROTO, fmt::format("this machine speaks version {} and the client version {}: use "
                                                 "programs of one build",
                                                 wire::version, request.a)});
    }
    return make_answer({0, std::to_underlying(caller), machine.config().charged ? 1U : 0U},
                       std::as_bytes(std::span(store_path)));
}

CallAnswer attach(Machine& machine, HandleId handle, const wire::Request& request) {
    const auto column = machine.attach(handle, domain_of(request.a));
    return column ? make_answer({0, column->column, 0}, {}, column->memory) : refusal(column.error());
}

CallAnswer event_target(Machine& machine, HandleId handle, const wire::Request& request) {
    const auto target = machine.event_target(handle, static_cast<EventPort>(request.a));
    return target ? make_answer({0, target->owner, 0}, {}, target->fd) : refusal(target.error());
}

CallAnswer share(Machine& machine, HandleId handle, const wire::Request& request) {
    if (request.b > wire::max_share_pages) {
        return refusal(Error{ENOSPC, fmt::format("cannot share {} pages in one call: the limit is {}", request.b,
                                                 wire::max_share_pages)});
    }
    const auto range =
        machine.share(handle, domain_of(request.a), request.b, request.c != 0 ? Access::read_write : Access::read_only);
    return range ? make_answer({0, std::to_underlying(range->id), range->first_frame},
                               std::as_bytes(std::span(range->refs)))
                 : refusal(range.error());
}

}  // namespace

CallAnswer answer_call(Machine& machine, DomainId caller, HandleId handle, std::string_view store_path,
                       std::span<const std::byte> request_octets) {
    wire::Request request;
    if (request_octets.size() != sizeof request) {
        return refusal(Error{EPROTO, "a call of the wrong length"});
    }
    std::memcpy(&request, request_octets.data(), sizeof request);
    switch (request.call) {
        case wire::Call::hello:
            return hello(machine, caller, store_path, request);
        case wire::Call::attach:
            return attach(machine, handle, request);
        case wire::Call::memory:
            return fd_answer(machine.memory(domain_of(request.a)));
        case wire::Call::event_fd:
            return fd_answer(machine.event_fd(handle));
        case wire::Call::event_target:
            return event_target(machine, handle, request);
        case wire::Call::bind_interdomain:
            return port_answer(
                machine.bind_interdomain(handle, domain_of(request.a), static_cast<EventPort>(request.b)));
        case wire::Call::alloc_unbound:
            return port_answer(machine.alloc_unbound(handle, domain_of(request.a)));
        case wire::Call::unbind:
            machine.unbind(handle, static_cast<EventPort>(request.a));
            return make_answer({});
        case wire::Call::share:
            return share(machine, handle, request);
        case wire::Call::unshare:
            machine.unshare(handle, static_cast<ShareId>(request.a));
            return make_answer({});
    }
    return refusal(Error{ENOSYS, "a call that this machine does not know"});
}

}  // namespace uvif::xen
