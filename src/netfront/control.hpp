// SPDX-License-Identifier: MIT
//
// Theory of operation: the control ring
//
// A third ring, for what concerns the device as a whole (xen/io/netif.h, "Control ring"): one request at a time, whose
// answer is waited for. Lists and keys go by a page of their own. A backend that does not answer in time may still be
// about to read that page: from then on nothing is asked any more in this connection.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "ring/front_ring.hpp"
#include "uvif/error.hpp"
#include "uvif/netfront.hpp"
#include "xen/hypervisor.hpp"

namespace uvif::netfront {

/// Thread rule: the device's.
class Control {
public:
    static Result<std::unique_ptr<Control>> create(xen::Hypervisor& hypervisor, xen::GrantAllocator& grants,
                                                   xen::DomainId backend);

    /// Sends a request and waits for its answer, at most limits::control_answer_ms. What the answer says besides its
    /// status is returned. Errors: EOPNOTSUPP, EINVAL, EMSGSIZE for the three bad statuses; ETIMEDOUT; EPROTO for an
    /// answer that fits no request.
    Result<std::uint32_t> ask(ring::CtrlType type, std::uint32_t first = 0, std::uint32_t second = 0,
                              std::uint32_t third = 0);

    /// Has the backend hash and steer what it sends us, or stop doing so (Device::steer_by_hash()).
    Result<void> steer_by_hash(const Hashing& hashing, unsigned queues);

    /// Has the backend keep pages mapped for a queue, all of them or, where it has no room, none. Returns how many. An
    /// error: it takes none at all.
    Result<unsigned> add_static(unsigned queue, std::span<const xen::GrantRef> refs, xen::Access access);

    /// The page for lists.
    [[nodiscard]] std::span<std::byte> list() const noexcept { return pages_->memory().subspan(xen::page_size); }
    [[nodiscard]] std::uint32_t list_ref() const noexcept { return static_cast<std::uint32_t>(pages_->refs()[1]); }

    [[nodiscard]] xen::GrantRef ring_ref() const noexcept { return pages_->refs()[0]; }
    [[nodiscard]] xen::EventPort port() const noexcept { return port_; }

private:
    Control(std::unique_ptr<xen::SharedPages> pages, std::unique_ptr<xen::EventChannels> events,
            xen::EventPort port) noexcept
        : pages_(std::move(pages)), events_(std::move(events)), port_(port), ring_(pages_->memory().data()) {}
    Result<ring::CtrlResponse> wait();

    std::unique_ptr<xen::SharedPages> pages_;  // the ring, the list
    std::unique_ptr<xen::EventChannels> events_;
    xen::EventPort port_;
    ring::CtrlFrontRing ring_;
    std::uint16_t next_id_ = 0;
    bool given_up_ = false;
};

}  // namespace uvif::netfront
