// SPDX-License-Identifier: MIT
#include "netback/control_ring.hpp"

#include <array>
#include <cerrno>

#include "runtime/clock.hpp"
#include "runtime/limits.hpp"

namespace uvif::netback {

Result<std::unique_ptr<ControlRing>> ControlRing::connect(xen::GrantTable& grants, xen::EventChannels& events,
                                                          xen::DomainId domain, const ControlRingKeys& keys) {
    auto page = MappedPage::map(grants, domain, keys.ring);
    if (!page) {
        return fail(page.error().code, "ctrl-ring-ref: " + page.error().message);
    }
    const auto ring = ring::CtrlBackRing::attach(page->address());
    if (!ring) {
        return fail(EPROTO, "ctrl-ring-ref: the page is no ring: more requests outstanding than it holds");
    }
    const auto port = events.bind_interdomain(domain, keys.event);
    if (!port) {
        return fail(port.error().code, "event-channel-ctrl: " + port.error().message);
    }
    return std::unique_ptr<ControlRing>(new ControlRing(grants, events, domain, std::move(*page), *ring, *port));
}

ControlRing::~ControlRing() {
    events_.unbind(port_);
}

ControlRing::Served ControlRing::serve(const std::function<ring::CtrlResponse(const ring::CtrlRequest&)>& execute,
                                       const std::function<void()>& commit) {
    std::array<ring::CtrlRequest, ring::CtrlBackRing::size> requests;
    std::array<ring::CtrlResponse, ring::CtrlBackRing::size> responses;
    const ring::Taken seen = ring_.peek(requests);
    if (seen.impossible) {
        return Served::impossible;
    }
    const std::int64_t enough = monotonic_ns() + limits::control_turn_ns;
    std::size_t count = 0;
    while (count < seen.count && (count == 0 || monotonic_ns() < enough)) {
        responses[count] = execute(requests[count]);
        ++count;
    }
    if (count != 0) {
        commit();
    }
    ring_.consume(std::span(requests).first(count));
    ring_.respond(std::span(responses).first(count));
    if (ring_.push_and_check_notify()) {
        (void)events_.notify(port_);
    }
    return ring_.arm() ? Served::all : Served::more;
}

bool ControlRing::read_page(xen::GrantRef ref, std::span<std::byte> out) noexcept {
    return copy(xen::CopySegment::from_guest(domain_, ref, 0, out.data(), static_cast<std::uint16_t>(out.size())));
}

bool ControlRing::write_page(xen::GrantRef ref, std::span<const std::byte> octets) noexcept {
    return copy(xen::CopySegment::to_guest(octets.data(), domain_, ref, 0, static_cast<std::uint16_t>(octets.size())));
}

bool ControlRing::copy(xen::CopySegment segment) noexcept {
    return grants_.copy(std::span(&segment, 1)) == 0 &&
           segment.status == static_cast<std::int16_t>(xen::GrantStatus::okay);
}

}  // namespace uvif::netback
