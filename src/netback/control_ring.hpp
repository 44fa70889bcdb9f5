// SPDX-License-Identifier: MIT
//
// Theory of operation: the control ring
//
// A guest that has set up a third ring (netif.h, "Control ring") sends requests by it, of which each gets one answer.
// They are few, and what they ask for concerns all queues of the vif, so the control thread serves it: it has an
// event-channel and a grant handle for this. Requests that a guest sends without end cost it limits::control_turn_ns
// between the other things that it does, or what one request costs.
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "grant/mapped_page.hpp"
#include "ring/back_ring.hpp"
#include "uvif/error.hpp"
#include "xen/event_channels.hpp"
#include "xen/grant_table.hpp"

namespace uvif::netback {

/// What the guest wrote about it.
struct ControlRingKeys {
    xen::GrantRef ring{};
    xen::EventPort event{};
};

/// Thread rule: the control thread, whose handles these are.
class ControlRing {
public:
    static Result<std::unique_ptr<ControlRing>> connect(xen::GrantTable& grants, xen::EventChannels& events,
                                                        xen::DomainId domain, const ControlRingKeys& keys);
    ControlRing(const ControlRing&) = delete;
    ControlRing& operator=(const ControlRing&) = delete;
    ~ControlRing();

    enum class Served : std::uint8_t {
        all,        ///< and an event was asked for
        more,       ///< there are more requests than were served: again, soon
        impossible  ///< the guest's producer runs ahead of the ring
    };
    /// Takes requests for some time and answers them with what `execute` makes of them, one after the other. `commit`
    /// is called between the last of these and the answers.
    Served serve(const std::function<ring::CtrlResponse(const ring::CtrlRequest&)>& execute,
                 const std::function<void()>& commit);

    [[nodiscard]] xen::EventPort port() const noexcept { return port_; }

    /// Copies the beginning of a page that the guest has granted: a ReadPage.
    [[nodiscard]] bool read_page(xen::GrantRef ref, std::span<std::byte> out) noexcept;
    /// And writes to it: a WritePage.
    [[nodiscard]] bool write_page(xen::GrantRef ref, std::span<const std::byte> octets) noexcept;

private:
    ControlRing(xen::GrantTable& grants, xen::EventChannels& events, xen::DomainId domain, MappedPage page,
                ring::CtrlBackRing ring, xen::EventPort port) noexcept
        : grants_(grants), events_(events), domain_(domain), page_(std::move(page)), ring_(ring), port_(port) {}

    [[nodiscard]] bool copy(xen::CopySegment segment) noexcept;

    xen::GrantTable& grants_;
    xen::EventChannels& events_;
    xen::DomainId domain_;
    MappedPage page_;
    ring::CtrlBackRing ring_;
    xen::EventPort port_;
};

}  // namespace uvif::netback
