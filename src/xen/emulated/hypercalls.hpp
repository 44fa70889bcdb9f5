// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <vector>

#include "uvif/error.hpp"
#include "xen/emulated/shared_memory.hpp"
#include "xen/types.hpp"

namespace uvif::xen {

/// A domain's memory and the column of pins in it that is this handle's own.
struct Attachment {
    UniqueFd memory;
    std::uint32_t column = 0;
};

/// The descriptor to signal for events of a port, and the owner (see DomainMemory::owner) that it belongs to.
struct EventTarget {
    UniqueFd fd;
    std::uint32_t owner = 0;
};

enum class ShareId : std::uint32_t {};

/// Frames that a domain shares: contiguous, from `first_frame` on, one reference each.
struct SharedRange {
    ShareId id{};
    std::uint32_t first_frame = 0;
    std::vector<GrantRef> refs;
};

/// The control path of one handle on the emulated hypervisor: everything that is not a table look-up in shared
/// memory. All that a handle holds is released when this object goes, or its process.
/// Thread rule: one thread at a time.
class Hypercalls {
public:
    Hypercalls() = default;
    Hypercalls(const Hypercalls&) = delete;
    Hypercalls& operator=(const Hypercalls&) = delete;
    virtual ~Hypercalls() = default;

    /// The domain that makes the calls.
    [[nodiscard]] virtual DomainId domain() const noexcept = 0;
    /// Whether every grant operation and every notification is to cost a real system call.
    [[nodiscard]] virtual bool charged() const noexcept = 0;

    /// Gives this handle the right to pin grants of `domain`.
    virtual Result<Attachment> attach(DomainId domain) = 0;
    /// The memory of any domain, for its events.
    virtual Result<UniqueFd> memory(DomainId domain) = 0;

    /// The eventfd that tells of events on this handle's ports.
    virtual Result<UniqueFd> event_fd() = 0;
    /// The eventfd of whoever owns the other end of `port`.
    virtual Result<EventTarget> event_target(EventPort port) = 0;
    virtual Result<EventPort> bind_interdomain(DomainId remote, EventPort remote_port) = 0;
    virtual Result<EventPort> alloc_unbound(DomainId remote) = 0;
    virtual void unbind(EventPort port) noexcept = 0;

    virtual Result<SharedRange> share(DomainId with, std::uint32_t pages, Access access) = 0;
    virtual void unshare(ShareId id) noexcept = 0;
};

}  // namespace uvif::xen
