// SPDX-License-Identifier: MIT
#include "xen/emulated/local_hypercalls.hpp"

#include <utility>

namespace uvif::xen {
namespace {

Result<UniqueFd> duplicated(Result<int> fd) {
    if (!fd) {
        return propagate(fd);
    }
    return duplicate(*fd);
}

}  // namespace

Result<std::unique_ptr<Hypercalls>> LocalHypercalls::open(Machine& machine, DomainId domain) {
    auto handle = machine.open_handle(domain);
    if (!handle) {
        return propagate(handle);
    }
    return std::unique_ptr<Hypercalls>(new LocalHypercalls(machine, domain, *handle));
}

Result<Attachment> LocalHypercalls::attach(DomainId domain) {
    auto column = machine_.attach(handle_, domain);
    if (!column) {
        return propagate(column);
    }
    auto memory = duplicate(column->memory);
    if (!memory) {
        return propagate(memory);
    }
    return Attachment{std::move(*memory), column->column};
}

Result<UniqueFd> LocalHypercalls::memory(DomainId domain) {
    return duplicated(machine_.memory(domain));
}

Result<UniqueFd> LocalHypercalls::event_fd() {
    return duplicated(machine_.event_fd(handle_));
}

Result<EventTarget> LocalHypercalls::event_target(EventPort port) {
    auto target = machine_.event_target(handle_, port);
    if (!target) {
        return propagate(target);
    }
    auto fd = duplicate(target->fd);
    if (!fd) {
        return propagate(fd);
    }
    return EventTarget{std::move(*fd), target->owner};
}

}  // namespace uvif::xen
