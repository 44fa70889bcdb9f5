// SPDX-License-Identifier: MIT
// The two places where processes meet without a lock: revoking a grant that is being used, and unmasking a port
// that is being notified.
#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <thread>

#include "unit/xen_emulated/host.hpp"

namespace uvif::xen {
namespace {

class ConcurrencyTest : public testing::TestWithParam<bool> {
protected:
    Host host{MachineConfig{.charged = GetParam(), .gntalloc_limit = 1024}};
};

INSTANTIATE_TEST_SUITE_P(Costs, ConcurrencyTest, testing::Bool(),
                         [](const auto& mode) { return mode.param ? "charged" : "uncharged"; });

TEST_P(ConcurrencyTest, ARevokedGrantIsNeverRead) {
    constexpr int revocations = 20'000;
    auto table = host.grant_table();
    const std::uint32_t frame = must(host.guest_memory.allocate_frame());
    const auto page = host.guest_memory.page(frame);
    constexpr auto shared = std::byte{'s'};
    constexpr auto secret = std::byte{'x'};
    std::ranges::fill(page, shared);
    const GrantRef ref{100};
    const GrantEntry entry{grant_permit_access, 0, frame};
    host.guest_memory.write_entry(ref, entry);

    std::array<std::byte, 256> buffer{};
    CopySegment segment = CopySegment::from_guest(host.guest, ref, 0, buffer.data(), buffer.size());
    ASSERT_EQ(table->copy(std::span(&segment, 1)), 0);  // attaches here, in the machine's thread

    std::atomic<bool> stop = false;
    int copies = 0;
    int leaks = 0;
    std::thread backend([&] {
        while (!stop) {
            segment.status = 1;
            if (table->copy(std::span(&segment, 1)) == 0 && segment.status == 0) {
                ++copies;
                leaks += std::ranges::count(buffer, shared) == static_cast<std::ptrdiff_t>(buffer.size()) ? 0 : 1;
            }
        }
    });
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(120);
    int revoked = 0;
    while (revoked < revocations && std::chrono::steady_clock::now() < deadline) {
        if (!end_grant_access(must(host.host->machine().mapped_memory(host.guest)), std::to_underlying(ref))) {
            continue;
        }
        ++revoked;
        for (int held = 0; held < 20; ++held) {
            std::ranges::fill(page.first(256), secret);
            std::atomic_signal_fence(std::memory_order_seq_cst);
        }
        std::ranges::fill(page.first(256), shared);
        host.guest_memory.write_entry(ref, entry);
        std::this_thread::yield();
    }
    stop = true;
    backend.join();
    EXPECT_EQ(revoked, revocations);
    EXPECT_EQ(leaks, 0);
    EXPECT_GT(copies, 0);
}

TEST_P(ConcurrencyTest, NoEventIsLost) {
    constexpr unsigned last = 20'000;
    auto guest = host.event_channels(host.guest);
    auto backend = host.event_channels(dom0);
    const EventPort guest_port = must(guest->alloc_unbound(dom0));
    const EventPort backend_port = must(backend->bind_interdomain(host.guest, guest_port));
    ASSERT_EQ(guest->notify(guest_port), 0);  // learns the descriptor here, in the machine's thread

    std::atomic<unsigned> work = 0;
    std::thread producer([&] {
        for (unsigned i = 1; i <= last; ++i) {
            work = i;
            guest->notify(guest_port);
            if (i % 16 == 0) {
                std::this_thread::yield();
            }
        }
    });
    bool lost = false;
    for (unsigned seen = 0; seen != last && !lost;) {
        pollfd wait{backend->fd(), POLLIN, 0};
        lost = ::poll(&wait, 1, 60'000) != 1;
        EventPort ports[2];
        const std::size_t count = backend->pending(ports);
        backend->unmask(std::span(ports).first(count));
        seen = work;
    }
    EXPECT_FALSE(lost);
    producer.join();
    EXPECT_EQ(backend->notify(backend_port), 0);
}

}  // namespace
}  // namespace uvif::xen
