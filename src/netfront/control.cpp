// SPDX-License-Identifier: MIT
#include "netfront/control.hpp"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "runtime/clock.hpp"
#include "runtime/limits.hpp"

namespace uvif::netfront {
namespace {

using ring::CtrlStatus;
using ring::CtrlType;

Result<std::uint32_t> judge(const ring::CtrlResponse& response) {
    const auto refused = [&response](int code, std::string_view why) {
        return fail(code, fmt::format("netfront: the backend refuses control request {}: {}", response.type, why));
    };
    switch (static_cast<CtrlStatus>(response.status)) {
        case CtrlStatus::success:
            return response.data;
        case CtrlStatus::not_supported:
            return refused(EOPNOTSUPP, "it does not support that");
        case CtrlStatus::buffer_overflow:
            return refused(EMSGSIZE, "more than it takes");
        default:
            return refused(EINVAL, "a value that it does not take");
    }
}

}  // namespace

Result<std::unique_ptr<Control>> Control::create(xen::Hypervisor& hypervisor, xen::GrantAllocator& grants,
                                                 xen::DomainId backend) {
    auto pages = grants.share(backend, 2, xen::Access::read_write);
    if (!pages) {
        return propagate(pages);
    }
    auto events = hypervisor.open_event_channels();
    if (!events) {
        return propagate(events);
    }
    auto port = (*events)->alloc_unbound(backend);
    if (!port) {
        return propagate(port);
    }
    return std::unique_ptr<Control>(new Control(std::move(*pages), std::move(*events), *port));
}

Result<std::uint32_t> Control::ask(CtrlType type, std::uint32_t first, std::uint32_t second, std::uint32_t third) {
    if (given_up_) {
        return fail(ETIMEDOUT, "netfront: the backend does not answer on the control ring; connect anew");
    }
    const ring::CtrlRequest request{++next_id_, std::to_underlying(type), {first, second, third}};
    ring_.put(request);
    if (ring_.push_and_check_notify()) {
        (void)events_->notify(port_);
    }
    auto response = wait();
    if (!response) {
        given_up_ = true;
        return propagate(response);
    }
    if (response->id != request.id || response->type != request.type) {
        given_up_ = true;
        return fail(EPROTO, "netfront: the backend answers a control request that was not made");
    }
    return judge(*response);
}

Result<ring::CtrlResponse> Control::wait() {
    const std::int64_t deadline = monotonic_ns() + limits::control_answer_ms * ns_per_ms;
    for (;;) {
        std::array<ring::CtrlResponse, 1> response;
        const ring::Taken taken = ring_.take(response);
        if (taken.impossible) {
            return fail(EPROTO, "netfront: the control ring claims more answers than there were requests");
        }
        if (taken.count != 0) {
            return response[0];
        }
        std::array<xen::EventPort, 1> ports;
        events_->unmask(std::span(ports).first(events_->pending(ports)));
        if (!ring_.arm()) {
            continue;
        }
        const std::int64_t left = deadline - monotonic_ns();
        if (left <= 0) {
            return fail(ETIMEDOUT, fmt::format("netfront: no answer on the control ring within {} ms; see the log of "
                                               "the backend",
                                               limits::control_answer_ms));
        }
        pollfd news{events_->fd(), POLLIN, 0};
        (void)::poll(&news, 1, static_cast<int>((left + ns_per_ms - 1) / ns_per_ms));
    }
}

Result<unsigned> Control::add_static(unsigned queue, std::span<const xen::GrantRef> refs, xen::Access access) {
    auto room = ask(CtrlType::get_gref_mapping_size, queue);
    if (!room) {
        return propagate(room);
    }
    if (refs.size() > *room) {
        return 0U;
    }
    std::array<ring::GrefEntry, xen::page_size / sizeof(ring::GrefEntry)> entries;  // twice as many as there are slots
    std::ranges::transform(refs, entries.begin(), [access](xen::GrantRef ref) {
        const bool read_only = access == xen::Access::read_only;
        return ring::GrefEntry{.ref = static_cast<std::uint32_t>(ref),
                               .flags = read_only ? ring::GrefEntry::read_only : std::uint16_t{0}};
    });
    std::memcpy(list().data(), entries.data(), refs.size() * sizeof(ring::GrefEntry));
    auto added = ask(CtrlType::add_gref_mapping, queue, list_ref(), static_cast<std::uint32_t>(refs.size()));
    if (!added) {
        return propagate(added);
    }
    return static_cast<unsigned>(refs.size());
}

Result<void> Control::steer_by_hash(const Hashing& hashing, unsigned queues) {
    if (hashing.key.size() > max_hash_key || hashing.mapping.size() > max_hash_mapping ||
        (hashing.types & ~HashTypes::all) != 0 ||
        std::ranges::any_of(hashing.mapping, [queues](unsigned queue) { return queue >= queues; })) {
        return fail(EINVAL, fmt::format("netfront: a hash has up to {} octets of key, types of HashTypes, and up to {} "
                                        "entries that name queues, of which there are {}",
                                        max_hash_key, max_hash_mapping, queues));
    }
    // A chain of requests; the first that is refused ends it.
    Result<std::uint32_t> done = 0U;
    const auto then = [this, &done](auto... request) {
        if (done) {
            done = ask(request...);
        }
    };
    const auto size = static_cast<std::uint32_t>(hashing.mapping.size());
    if (hashing.types == 0) {
        then(CtrlType::set_hash_algorithm, std::to_underlying(ring::HashAlgorithm::none));
    } else {
        then(CtrlType::set_hash_algorithm, std::to_underlying(ring::HashAlgorithm::toeplitz));
        then(CtrlType::set_hash_flags, 0U);  // nothing is hashed by half of what is to come
        std::ranges::copy(std::as_bytes(hashing.key), list().begin());
        then(CtrlType::set_hash_key, list_ref(), static_cast<std::uint32_t>(hashing.key.size()));
        then(CtrlType::set_hash_mapping_size, size);
        if (done && size != 0) {
            std::ranges::copy(std::as_bytes(hashing.mapping), list().begin());
            then(CtrlType::set_hash_mapping, list_ref(), size);
        }
        then(CtrlType::set_hash_flags, hashing.types);
    }
    if (!done) {
        return propagate(done);
    }
    return {};
}

}  // namespace uvif::netfront
