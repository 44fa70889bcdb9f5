// SPDX-License-Identifier: MIT
//
// The library's queue against the backend's, over the emulated hypervisor in one thread: any interleaving of their
// steps, from ring indices near their wrap. Each side runs only while it is awake or was woken by an event, so a lost
// wakeup shows as packets that never arrive.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "property/played_guest.hpp"

namespace uvif {
namespace {

struct Options {
    netback::FetchStrategy strategy;
    LoopKind loop;
    bool split;
    bool reads_ahead;  ///< the backend's port
    bool persistent = false;
    netback::ReceiveStrategy receive = netback::ReceiveStrategy::bounce;
};

class Pair {
public:
    Pair(const Options& setup, ring::Index start)
        : host(*xen::LocalHost::create()),
          guest(*host, "guest", setup.split, start),
          backend_hypervisor(host->open(xen::DomainId{0})),
          worker(*Worker::create(*backend_hypervisor, {.loop = setup.loop, .spin_ns = 0})) {
        auto owned = std::make_unique<test::FakePort>();
        port = owned.get();
        port->ready.reset(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
        port->scattered = true;
        auto config = guest.config(setup.strategy, setup.persistent);
        config.receive = setup.receive;
        back = *netback::QueuePair::connect(
            *worker, config,
            [&](Loop& loop, Waker& /*waker*/) -> Result<std::unique_ptr<Port>> {
                if (setup.reads_ahead) {
                    port->read_ahead(loop);
                }
                return std::move(owned);
            },
            [this](netback::Rogue) { rogue = true; });
    }
    ~Pair() { back.reset(); }
    Pair(const Pair&) = delete;
    Pair& operator=(const Pair&) = delete;

    /// The backend runs only when it is awake, or something woke it. False: it sleeps on.
    bool step_backend() {
        const bool slept = worker->asleep();
        worker->step(0);
        return !slept || !worker->asleep();
    }

    void queue_packet(std::uint32_t length) { guest.queue(make_frame(length, next_tx++)); }
    void offer_packet(std::uint32_t length) {
        test::Frame frame = make_frame(length, next_rx++);
        expected_rx.push_back(frame);
        port->offer(std::move(frame));
    }

    /// Of the guest's pages, those that the backend has mapped, its rings not counted.
    [[nodiscard]] std::size_t kept_pages_of_guest() const { return host->machine().usage(guest.id)->grants_in_use - 2; }

    static test::Frame make_frame(std::uint32_t length, std::uint32_t number) {
        test::Frame frame;
        frame.data.resize(length);
        for (std::uint32_t i = 0; i < length; ++i) {
            frame.data[i] = static_cast<std::byte>(number * 31 + i);
        }
        std::memcpy(frame.data.data(), &number, sizeof number);
        if (length > 9000) {
            frame.offload = {
                .checksum_blank = true, .data_validated = true, .gso_type = GsoType::tcpv4, .gso_size = 1448};
        }
        return frame;
    }

    std::unique_ptr<xen::LocalHost> host;
    test::PlayedGuest guest;
    std::unique_ptr<xen::Hypervisor> backend_hypervisor;
    test::FakePort* port = nullptr;  // owned by the backend's queue
    std::unique_ptr<Worker> worker;
    std::unique_ptr<netback::QueuePair> back;
    bool rogue = false;
    std::uint32_t next_tx = 0, next_rx = 0;
    std::vector<test::Frame> expected_rx;
};

constexpr std::array<std::uint32_t, 8> lengths{60, 128, 129, 1514, 4096, 4097, 20000, 65535};

class PairProperty : public testing::TestWithParam<Options> {};

TEST_P(PairProperty, NothingIsLostReorderedOrLeftAsleep) {
    const Options setup = GetParam();
    EXPECT_TRUE(rc::check("pair", [&setup] {
        const auto before_wrap = *rc::gen::arbitrary<std::uint8_t>();
        // Long enough that rings fill up and indices wrap.
        const auto steps = *rc::gen::resize(1000, rc::gen::arbitrary<std::vector<std::uint8_t>>());
        Pair pair(setup, ring::Index{0} - before_wrap);
        for (const std::uint8_t step : steps) {
            const std::uint32_t length = lengths[step / 8 % lengths.size()];
            switch (step % 8) {
                case 0:
                case 1:
                    pair.queue_packet(length);
                    break;
                case 2:
                    // Now and then more at once than the guest's ring holds: the backend sleeps with packets in hand.
                    for (int burst = step < 240 ? 1 : 20; burst > 0; --burst) {
                        pair.offer_packet(length);
                    }
                    break;
                case 3:
                case 4:
                    pair.guest.step();
                    break;
                case 5:
                case 6:
                    pair.step_backend();
                    break;
                default:
                    pair.port->defer = !pair.port->defer;
                    // A minute goes by, or much of it.
                    for (unsigned look = 0; setup.persistent && look < step / 8U; ++look) {
                        pair.back->age_grants();
                        (void)pair.back->give_back_grants();
                    }
                    break;
            }
        }
        // From here on everybody does what he would: run while awake, sleep, be woken.
        pair.port->defer = false;
        for (bool moved = true; moved;) {
            if (pair.port->held_count() != 0) {
                pair.port->finish(pair.port->held_count());
                pair.worker->activate(*pair.back);  // as a port's own completion event would
            }
            moved = pair.guest.step();
            moved = pair.step_backend() || moved;
        }
        RC_ASSERT(!pair.rogue);
        RC_ASSERT(pair.guest.to_send.empty());
        RC_ASSERT(pair.port->sent == pair.guest.sent);
        RC_ASSERT(pair.guest.received == pair.expected_rx);
        if (setup.persistent) {
            RC_ASSERT(pair.kept_pages_of_guest() == pair.back->tx_counters().persistent_pages);
            pair.back->stop();
            while (!pair.back->drained()) {
            }
            RC_ASSERT(pair.back->tx_counters().persistent_pages == 0);
        }
        RC_ASSERT(pair.guest.has_all());
    }));
}

/// With every buffer learned, packets cost events and nothing else.
TEST(Pair, PersistentGrantsNeedNoCallOfTheHypervisors) {
    Pair pair({netback::FetchStrategy::copy, LoopKind::epoll, true, false, true}, 0);
    const auto traffic = [&pair] {
        for (int i = 0; i < 200; ++i) {
            pair.queue_packet(1514);
            pair.offer_packet(1514);
            pair.guest.step();
            pair.step_backend();
        }
        for (bool moved = true; moved;) {
            moved = pair.guest.step();
            moved = pair.step_backend() || moved;
        }
    };
    const auto calls = [&pair] {
        const auto tx = pair.back->tx_counters();
        return tx.copy_calls + tx.map_calls + tx.unmap_calls + pair.back->rx_counters().copy_calls;
    };
    traffic();
    traffic();
    const std::uint64_t before = calls();
    EXPECT_NE(before, 0U);
    traffic();
    EXPECT_EQ(calls(), before);
    EXPECT_EQ(pair.port->sent, pair.guest.sent);
    EXPECT_EQ(pair.guest.received, pair.expected_rx);
    const auto tx = pair.back->tx_counters();
    EXPECT_EQ(tx.static_hits + tx.static_misses + tx.static_entries + tx.by_static, 0U) << "the others' names";
    EXPECT_EQ(tx.persistent_hits + tx.persistent_misses, 600U);
    EXPECT_EQ(tx.by_persistent + tx.by_copy, 600U);
    EXPECT_EQ(tx.persistent_pages, pair.kept_pages_of_guest());
    const auto rx = pair.back->rx_counters();
    EXPECT_EQ(rx.persistent_hits + rx.persistent_misses, 600U);
    EXPECT_GE(rx.persistent_hits, 200U);
    pair.back.reset();
    EXPECT_EQ(pair.guest.kept_pages.left(), limits::static_grants_per_vif);
}

/// More than the backend takes in a turn, and the guest sends something just then: what is left in a port that reads
/// ahead is announced by nobody.
TEST(Pair, ABurstBesideASentPacketArrivesWhole) {
    Pair pair({netback::FetchStrategy::copy, LoopKind::epoll, true, true}, 0);
    const auto settle = [&pair] {
        for (bool moved = true; moved;) {
            moved = pair.guest.step();
            moved = pair.step_backend() || moved;
        }
    };
    settle();
    for (int i = 0; i < 100; ++i) {
        pair.offer_packet(60);
    }
    pair.queue_packet(60);
    settle();
    EXPECT_EQ(pair.guest.received.size(), 100U);
    EXPECT_EQ(pair.guest.received, pair.expected_rx);
    EXPECT_EQ(pair.port->sent, pair.guest.sent);
}

/// The packet goes before the event that tells of its slots, and an answer to it shares that event.
TEST(Pair, AQuestionAndItsAnswerCostOneEvent) {
    Pair pair({netback::FetchStrategy::copy, LoopKind::epoll, false, true}, 0);
    while (!pair.worker->asleep()) {
        pair.step_backend();
    }
    pair.queue_packet(60);
    ASSERT_TRUE(pair.guest.send_some());
    ASSERT_TRUE(pair.guest.front->arm(true));
    pair.worker->step(-1);  // woken by the guest's event
    pair.worker->step(0);
    ASSERT_EQ(pair.port->sent, pair.guest.sent);
    EXPECT_FALSE(test::readable(pair.guest.front->fd()));
    pair.offer_packet(60);
    pair.worker->step(0);
    EXPECT_TRUE(test::readable(pair.guest.front->fd()));
    EXPECT_EQ(pair.back->tx_counters().notify_calls + pair.back->rx_counters().notify_calls, 1U);
    pair.guest.step();
    EXPECT_EQ(pair.guest.received, pair.expected_rx);
}

INSTANTIATE_TEST_SUITE_P(Setups, PairProperty,
                         testing::Values(Options{netback::FetchStrategy::copy, LoopKind::epoll, true, false},
                                         Options{netback::FetchStrategy::map, LoopKind::epoll, false, true},
                                         Options{netback::FetchStrategy::copy, LoopKind::automatic, false, true},
                                         Options{netback::FetchStrategy::map, LoopKind::automatic, true, false},
                                         Options{netback::FetchStrategy::copy, LoopKind::epoll, true, false, true},
                                         Options{netback::FetchStrategy::map, LoopKind::epoll, false, true, true},
                                         Options{netback::FetchStrategy::copy, LoopKind::epoll, true, false, true,
                                                 netback::ReceiveStrategy::direct},
                                         Options{netback::FetchStrategy::copy, LoopKind::automatic, false, true, true,
                                                 netback::ReceiveStrategy::automatic}),
                         [](const auto& p) {
                             return std::string(p.param.strategy == netback::FetchStrategy::map ? "map" : "copy") +
                                    (p.param.loop == LoopKind::epoll ? "_epoll" : "_uring") +
                                    (p.param.split ? "_split" : "_shared") + (p.param.reads_ahead ? "_ahead" : "") +
                                    (p.param.persistent ? "_persistent" : "") +
                                    (p.param.receive == netback::ReceiveStrategy::direct      ? "_direct"
                                     : p.param.receive == netback::ReceiveStrategy::automatic ? "_auto"
                                                                                              : "");
                         });

}  // namespace
}  // namespace uvif
