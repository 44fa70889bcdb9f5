// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "grant/static_table.hpp"
#include "netback/rx_queue.hpp"
#include "netback/tx_queue.hpp"
#include "support/fake_port.hpp"
#include "support/mock_guest.hpp"

namespace uvif::test {

/// Both queues of a guest over the emulated hypervisor, single-threaded, and the table of its pages that stay mapped,
/// which who derives from this fills, and has them use.
class StandingQueues {
protected:
    explicit StandingQueues(const netback::FetchPolicy& fetch) {
        std::array<std::byte*, 1> page{};
        EXPECT_EQ(grants->map(guest.id, std::array{guest.tx_ring_ref}, xen::Access::read_write, page, rings[0]), 0);
        tx = std::move(*netback::TxQueue::create(*ring::TxBackRing::attach(page[0]), guest.id, *grants, port, fetch,
                                                 credit, held));
        EXPECT_EQ(grants->map(guest.id, std::array{guest.rx_ring_ref}, xen::Access::read_write, page, rings[1]), 0);
        rx = std::move(*netback::RxQueue::create(*ring::RxBackRing::attach(page[0]), guest.id, *grants, port,
                                                 {.scatter_gather = true, .gso_v4 = true, .announces_buffers = true}));
    }
    ~StandingQueues() = default;
    /// Before what they use goes.
    void end() {
        (void)tx->abandon();
        tx.reset();
        rx.reset();
        EXPECT_EQ(grants->unmap(rings), 0);
    }

    /// Puts a packet on the ring; its octets are what is in the pages.
    void send(const std::vector<MockGuest::Page>& pages, const std::vector<std::uint32_t>& sizes) {
        Frame frame;
        const std::uint32_t total = std::accumulate(sizes.begin(), sizes.end(), 0U);
        for (std::size_t i = 0; i < pages.size(); ++i) {
            const auto memory = guest.memory.page(pages[i].frame);
            for (std::uint32_t n = 0; n < sizes[i]; ++n) {
                memory[n] = static_cast<std::byte>(next++);
                frame.data.push_back(memory[n]);
            }
            ring::TxRequest request;
            request.gref = std::to_underlying(pages[i].ref);
            request.id = static_cast<std::uint16_t>(500 + i);  // as Windows: beyond 255
            request.size = static_cast<std::uint16_t>(i == 0 ? total : sizes[i]);
            request.flags.bits = i + 1 < pages.size() ? ring::TxFlags::more_data : std::uint16_t{0};
            guest.tx.put(ring::TxSlot::from(request));
        }
        (void)guest.tx.push_and_check_notify();
        expected.push_back(std::move(frame));
    }
    /// Returns how many segments the hypervisor was asked for.
    std::uint32_t turn() {
        copies.clear();
        (void)tx->gather(copies);
        (void)rx->gather(true, copies);
        const std::uint32_t segments = copies.size();
        copies.flush(*grants);
        (void)rx->publish(copies);
        (void)tx->publish(copies);
        tx->send(copies);
        return segments;
    }

    std::unique_ptr<xen::LocalHost> host = *xen::LocalHost::create();
    MockGuest guest{*host};
    std::unique_ptr<xen::Hypervisor> hypervisor = host->open(backend_domain);
    std::unique_ptr<xen::GrantTable> grants = *hypervisor->open_grant_table();
    StaticTable table;
    std::array<xen::MappingId, 2> rings;
    FakePort port;
    netback::TxCredit credit;
    netback::HeldSlots held;
    CopyBatch copies;
    std::unique_ptr<netback::TxQueue> tx;
    std::unique_ptr<netback::RxQueue> rx;
    std::vector<Frame> expected;
    unsigned next = 1;
};

}  // namespace uvif::test
