// SPDX-License-Identifier: MIT
//
// A backend's TX queue on a guest that a test plays, and a guest of which every octet is known.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <string_view>
#include <vector>

#include "netback/tx_queue.hpp"
#include "support/fake_port.hpp"
#include "support/mock_guest.hpp"

namespace uvif::netback::test_queue {

using ring::ExtraInfo;
using ring::TxFlags;
using ring::TxRequest;
using ring::TxResponse;
using ring::TxSlot;
using test::FakePort;
using test::MockGuest;

constexpr auto okay = static_cast<std::int16_t>(ring::TxStatus::okay);
constexpr auto error = static_cast<std::int16_t>(ring::TxStatus::error);
constexpr auto null = static_cast<std::int16_t>(ring::TxStatus::null);

/// How the octets come: by a strategy, or by copying the header first, for a port that may pass the packet on.
enum class Way : std::uint8_t { copy, map, map_each, left };

inline bool maps(Way way) {
    return way == Way::map || way == Way::map_each;
}

/// A backend queue on a guest's TX ring. `faults` is a fault plan for the backend's grant operations.
struct Backend {
    Backend(MockGuest& guest, Way way, std::string_view faults = "") : Backend(guest, policy_of(way), faults) {
        port.granted = way == Way::left;
    }
    Backend(MockGuest& guest, const FetchPolicy& fetch, std::string_view faults = "")
        : hypervisor(guest.host.open(test::backend_domain, *xen::FaultPlan::parse(faults))),
          grants(*hypervisor->open_grant_table()) {
        std::array<std::byte*, 1> page{};
        EXPECT_EQ(grants->map(guest.id, std::array{guest.tx_ring_ref}, xen::Access::read_write, page, ring_mapping), 0);
        auto ring = ring::TxBackRing::attach(page[0]);
        queue = std::move(*TxQueue::create(*ring, guest.id, *grants, port, fetch, credit, held));
    }
    ~Backend() {
        (void)queue->abandon();
        queue.reset();
        EXPECT_EQ(grants->unmap(std::array{ring_mapping}), 0);
    }
    Backend(const Backend&) = delete;
    Backend& operator=(const Backend&) = delete;

    static FetchPolicy policy_of(Way way) {
        return {.strategy = maps(way) ? FetchStrategy::map : FetchStrategy::copy,
                .unmap = way == Way::map_each ? UnmapStrategy::each : UnmapStrategy::batch};
    }

    struct Turn {
        bool worked, notify;
    };
    Turn turn() {
        copies.clear();
        const bool worked = queue->gather(copies);
        copies.flush(*grants);
        const bool notify = queue->publish(copies);
        queue->send(copies);
        return {worked, notify};
    }
    void run() {
        while (turn().worked) {
        }
    }

    std::unique_ptr<xen::Hypervisor> hypervisor;
    std::unique_ptr<xen::GrantTable> grants;
    xen::MappingId ring_mapping;
    FakePort port;
    TxCredit credit;
    HeldSlots held;
    CopyBatch copies;
    std::unique_ptr<TxQueue> queue;
};

/// Sends packets of which every octet is known.
struct Sender {
    explicit Sender(MockGuest& guest_in) : guest(guest_in) {}

    /// One packet of `sizes.size()` data slots; sizes[0] is what the first slot holds. Returns the ids used.
    std::vector<std::uint16_t> put(const std::vector<std::uint32_t>& sizes, std::size_t extras = 0,
                                   std::uint16_t offset = 0, std::uint16_t flags = 0) {
        test::Frame frame;
        std::vector<std::uint16_t> ids;
        const std::uint32_t total = std::accumulate(sizes.begin(), sizes.end(), 0U);
        for (std::size_t i = 0; i < sizes.size(); ++i) {
            const MockGuest::Page page = guest.page();
            const auto memory = guest.memory.page(page.frame);
            for (std::uint32_t n = 0; n < sizes[i] && offset + n < memory.size(); ++n) {
                memory[offset + n] = static_cast<std::byte>(next_octet++);
                frame.data.push_back(memory[offset + n]);
            }
            TxRequest request;
            request.gref = std::to_underlying(page.ref);
            request.offset = sizes[i] == 0 ? std::uint16_t{0} : offset;
            request.id = next_id++;
            request.size = static_cast<std::uint16_t>(i == 0 ? total : sizes[i]);
            request.flags.bits =
                static_cast<std::uint16_t>((i + 1 < sizes.size() ? TxFlags::more_data : 0) | (i == 0 ? flags : 0) |
                                           (i == 0 && extras != 0 ? TxFlags::extra_info : 0));
            pages[request.id] = page;
            ids.push_back(request.id);
            guest.tx.put(TxSlot::from(request));
            for (std::size_t e = 0; i == 0 && e < extras; ++e) {
                ExtraInfo extra = ExtraInfo::gso(GsoType::tcpv4, 1448);
                extra.flags = e + 1 < extras ? ExtraInfo::more : std::uint8_t{0};
                guest.tx.put(TxSlot::from(extra));
            }
        }
        frame.offload.checksum_blank = (flags & TxFlags::checksum_blank) != 0;
        frame.offload.data_validated = (flags & TxFlags::data_validated) != 0;
        if (extras != 0) {
            frame.offload.gso_type = GsoType::tcpv4;
            frame.offload.gso_size = 1448;
        }
        expected.push_back(std::move(frame));
        return ids;
    }

    /// Takes the answers, checks that each is for a request in flight and that its grant is free by now.
    std::map<std::uint16_t, std::int16_t> answers(std::size_t* nulls = nullptr) {
        std::map<std::uint16_t, std::int16_t> result;
        for (const TxResponse& answer : guest.tx_answers()) {
            if (answer.status == null) {
                if (nulls != nullptr) {
                    ++*nulls;
                }
                continue;
            }
            const auto page = pages.find(answer.id);
            if (page == pages.end()) {
                ADD_FAILURE() << "id " << answer.id << " was answered twice, or never asked";
                continue;
            }
            EXPECT_TRUE(guest.take_back(page->second)) << "answered while its page was still in use";
            pages.erase(page);
            result[answer.id] = answer.status;
        }
        return result;
    }

    MockGuest& guest;
    std::map<std::uint16_t, MockGuest::Page> pages;  // in flight
    std::vector<test::Frame> expected;
    std::uint16_t next_id = 0;
    std::uint32_t next_octet = 1;
};

}  // namespace uvif::netback::test_queue
