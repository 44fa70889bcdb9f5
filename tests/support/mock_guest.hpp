// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "ring/front_ring.hpp"
#include "xen/emulated/guest_memory.hpp"
#include "xen/emulated/local_hypervisor.hpp"

namespace uvif::test {

inline constexpr xen::DomainId backend_domain{0};

/// A guest that a test plays, over the emulated hypervisor in this process: its rings are real shared pages, its
/// grants real grant entries, and it may do anything to either.
class MockGuest {
public:
    explicit MockGuest(xen::LocalHost& on, ring::Index start = 0)
        : host(on),
          id(*host.create_domain("guest")),
          memory(*xen::GuestMemory::create(host.machine(), id)),
          tx_frame(*memory.allocate_frame()),
          rx_frame(*memory.allocate_frame()),
          tx_ring_ref(*memory.grant(tx_frame, backend_domain, xen::Access::read_write)),
          rx_ring_ref(*memory.grant(rx_frame, backend_domain, xen::Access::read_write)),
          tx(memory.page(tx_frame).data(), start),
          rx(memory.page(rx_frame).data(), start),
          hypervisor(host.open(id)),
          events(*hypervisor->open_event_channels()),
          tx_port(*events->alloc_unbound(backend_domain)),
          rx_port(*events->alloc_unbound(backend_domain)) {}

    /// A granted page with the given octets at `offset`.
    struct Page {
        std::uint32_t frame;
        xen::GrantRef ref;
    };
    Page page(xen::Access access = xen::Access::read_only) {
        const std::uint32_t frame = *memory.allocate_frame();
        return {frame, *memory.grant(frame, backend_domain, access)};
    }
    /// True when the backend had let go of it (then it is gone), as a driver checks at each answer.
    bool take_back(const Page& page) {
        if (!memory.end_access(page.ref)) {
            return false;
        }
        memory.free_frame(page.frame);
        return true;
    }

    /// Everything the backend answered on the TX ring since the last call.
    std::vector<ring::TxResponse> tx_answers() {
        std::vector<ring::TxResponse> answers(ring::TxFrontRing::size);
        const ring::Taken taken = tx.take(answers);
        EXPECT_FALSE(taken.impossible);
        answers.resize(taken.count);
        return answers;
    }
    std::vector<ring::RxSlot> rx_answers() {
        std::vector<ring::RxSlot> answers(ring::RxFrontRing::size);
        const ring::Taken taken = rx.take(answers);
        EXPECT_FALSE(taken.impossible);
        answers.resize(taken.count);
        return answers;
    }
    /// Grants of this guest that somebody has mapped, the two rings not counted.
    std::uint32_t grants_in_use() { return host.machine().usage(id)->grants_in_use; }

    xen::LocalHost& host;
    xen::DomainId id;
    xen::GuestMemory memory;
    std::uint32_t tx_frame, rx_frame;
    xen::GrantRef tx_ring_ref, rx_ring_ref;
    ring::TxFrontRing tx;
    ring::RxFrontRing rx;
    std::unique_ptr<xen::Hypervisor> hypervisor;
    std::unique_ptr<xen::EventChannels> events;
    xen::EventPort tx_port, rx_port;
};

}  // namespace uvif::test
