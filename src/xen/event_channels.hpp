// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>

#include "uvif/error.hpp"
#include "xen/types.hpp"

namespace uvif::xen {

/// Event channels of this domain (libxenevtchn, one handle; /dev/xen/evtchn).
/// A delivered port stays masked until `unmask`; events coalesce; binding raises one spurious event.
/// Thread rule: one thread at a time; every worker opens its own. The destructor closes every port.
class EventChannels {
public:
    EventChannels() = default;
    EventChannels(const EventChannels&) = delete;
    EventChannels& operator=(const EventChannels&) = delete;
    virtual ~EventChannels() = default;

    /// Readable while a delivered port waits for `pending`. Only to be polled.
    [[nodiscard]] virtual int fd() const noexcept = 0;

    virtual Result<EventPort> bind_interdomain(DomainId remote, EventPort remote_port) = 0;
    /// A handle that makes ports for a domain to bind to makes them for this one only, and binds to no other.
    virtual Result<EventPort> alloc_unbound(DomainId remote) = 0;
    virtual void unbind(EventPort port) noexcept = 0;

    /// Returns 0 or an errno value (a peer that is gone is not an error of ours: callers count and go on).
    virtual int notify(EventPort port) noexcept = 0;

    /// Fills `ports` with ports that had an event and are masked from now on; never blocks.
    virtual std::size_t pending(std::span<EventPort> ports) noexcept = 0;

    /// Lets events of these ports through again. Unmask first, then look at the ring a last time.
    virtual void unmask(std::span<const EventPort> ports) noexcept = 0;
};

}  // namespace uvif::xen
