// SPDX-License-Identifier: MIT
//
// The library's queue against the backend's, over the emulated hypervisor in one thread: any interleaving of their
// steps, from ring indices near their wrap. Each side runs only while it is awake or was woken by an event, so a lost
// wakeup shows as packets that never arrive.
#include <gtest/gtest.h>
#include <poll.h>
#include <rapidcheck.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cstring>
#include <deque>

#include "netback/queue_pair.hpp"
#include "netfront/queue.hpp"
#include "support/fake_port.hpp"
#include "xen/emulated/local_hypervisor.hpp"

namespace uvif {
namespace {

bool readable(int fd) {
    pollfd p{fd, POLLIN, 0};
    return ::poll(&p, 1, 0) == 1;
}

struct Options {
    netback::FetchStrategy strategy;
    LoopKind loop;
    bool split;
    bool reads_ahead;  ///< the backend's port
};

class Pair {
public:
    Pair(const Options& setup, ring::Index start)
        : host(*xen::LocalHost::create()),
          guest_id(*host->create_domain("guest")),
          guest_hypervisor(host->open(guest_id)),
          backend_hypervisor(host->open(xen::DomainId{0})),
          alarm(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
          grants(*guest_hypervisor->open_grant_allocator()),
          worker(*Worker::create(*backend_hypervisor, {.loop = setup.loop, .spin_ns = 0})) {
        netfront::QueueSetup front_setup{};
        front_setup.backend = xen::DomainId{0};
        front_setup.tx_buffers = 64;
        front_setup.rx_buffers = 64;
        front_setup.split_event_channels = setup.split;
        front_setup.tx = {true, true, true, true, true};
        front_setup.rx = {true, true};
        front_setup.first_index = start;
        front_setup.alarm = alarm.get();
        front = *netfront::Queue::Impl::create(*guest_hypervisor, *grants, front_setup);
        netback::QueueConfig config;
        config.domain = guest_id;
        config.keys = {front->tx_ring_ref(), front->rx_ring_ref(), front->tx_port(), front->rx_port()};
        config.rx = {.scatter_gather = true,
                     .checksum_v4 = true,
                     .checksum_v6 = true,
                     .gso_v4 = true,
                     .gso_v6 = true,
                     .announces_buffers = true};
        config.strategy = setup.strategy;
        config.credit = &credit;
        auto owned = std::make_unique<test::FakePort>();
        port = owned.get();
        port->ready.reset(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
        back = *netback::QueuePair::connect(
            *worker, config,
            [&](Loop& loop) -> Result<std::unique_ptr<Port>> {
                if (setup.reads_ahead) {
                    port->read_ahead(loop);
                }
                return std::move(owned);
            },
            [this](netback::Rogue) { rogue = true; });
    }
    ~Pair() {
        back.reset();
        front->disconnect();
    }
    Pair(const Pair&) = delete;
    Pair& operator=(const Pair&) = delete;

    /// The backend runs only when it is awake, or something woke it. False: it sleeps on.
    bool step_backend() {
        const bool slept = worker->asleep();
        worker->step(0);
        return !slept || !worker->asleep();
    }
    /// The guest's program: sends what is queued, takes what has come, and sleeps when there is nothing.
    bool step_guest() {
        if (guest_asleep && !readable(front->fd())) {
            return false;
        }
        guest_asleep = false;
        bool moved = send_some();
        moved |= receive_some();
        if (!moved) {
            guest_asleep = front->arm(!to_send.empty());
        }
        return true;
    }

    void queue_packet(std::uint32_t length) {
        to_send.push_back(make_frame(length, next_tx++));
        guest_asleep = false;  // the program itself decided to send
    }
    void offer_packet(std::uint32_t length) {
        test::Frame frame = make_frame(length, next_rx++);
        expected_rx.push_back(frame);
        port->offer(std::move(frame));
    }

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

    bool send_some() {
        bool moved = false;
        while (!to_send.empty()) {
            const test::Frame& frame = to_send.front();
            std::array<netfront::Fragment, 18> buffers;
            const std::size_t pages = (frame.data.size() + 4095) / 4096;
            const std::size_t got = front->allocate(std::span(buffers).first(pages), true);
            if (got < pages) {
                front->free(std::span(buffers).first(got));
                break;
            }
            netfront::Packet packet;
            packet.fragment_count = static_cast<std::uint16_t>(pages);
            packet.offload = frame.offload;
            for (std::size_t i = 0; i < pages; ++i) {
                buffers[i].length =
                    static_cast<std::uint32_t>(std::min<std::size_t>(4096, frame.data.size() - i * 4096));
                std::memcpy(buffers[i].data, frame.data.data() + i * 4096, buffers[i].length);
                packet.fragments[i] = buffers[i];
            }
            int error = 0;
            if (front->send(std::span(&packet, 1), error) == 0) {
                front->free(std::span(buffers).first(pages));
                RC_ASSERT(error == 0);
                break;
            }
            expected_tx.push_back(frame);
            to_send.pop_front();
            moved = true;
        }
        return moved;
    }

    bool receive_some() {
        std::array<netfront::Packet, 8> packets;
        const std::size_t count = front->receive(packets);
        for (std::size_t i = 0; i < count; ++i) {
            test::Frame frame;
            for (std::size_t f = 0; f < packets[i].fragment_count; ++f) {
                const netfront::Fragment& piece = packets[i].fragments[f];
                frame.data.insert(frame.data.end(), piece.data, piece.data + piece.length);
            }
            frame.offload = packets[i].offload;
            received.push_back(std::move(frame));
        }
        front->release(std::span(packets).first(count));
        return count != 0;
    }

    std::unique_ptr<xen::LocalHost> host;
    xen::DomainId guest_id;
    std::unique_ptr<xen::Hypervisor> guest_hypervisor, backend_hypervisor;
    UniqueFd alarm;
    std::unique_ptr<xen::GrantAllocator> grants;
    test::FakePort* port = nullptr;  // owned by the backend's queue
    std::unique_ptr<netfront::Queue::Impl> front;
    netback::TxCredit credit;
    std::unique_ptr<Worker> worker;
    std::unique_ptr<netback::QueuePair> back;
    bool rogue = false;
    bool guest_asleep = false;
    std::uint32_t next_tx = 0, next_rx = 0;
    std::deque<test::Frame> to_send;
    std::vector<test::Frame> expected_tx, expected_rx, received;
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
                    pair.step_guest();
                    break;
                case 5:
                case 6:
                    pair.step_backend();
                    break;
                default:
                    pair.port->defer = !pair.port->defer;
                    break;
            }
        }
        // From here on everybody does what he would: run while awake, sleep, be woken.
        pair.port->defer = false;
        for (bool moved = true; moved;) {
            if (pair.port->held() != 0) {
                pair.port->finish(pair.port->held());
                pair.worker->activate(*pair.back);  // as a port's own completion event would
            }
            moved = pair.step_guest();
            moved = pair.step_backend() || moved;
        }
        RC_ASSERT(!pair.rogue);
        RC_ASSERT(pair.front->breach() == nullptr);
        RC_ASSERT(pair.to_send.empty());
        RC_ASSERT(pair.port->sent == pair.expected_tx);
        RC_ASSERT(pair.received == pair.expected_rx);
        std::array<netfront::Fragment, 64> all;
        RC_ASSERT(pair.front->allocate(all, false) == all.size());
        RC_ASSERT(pair.front->tx_in_flight() == 0U);
        RC_ASSERT(pair.host->machine().usage(pair.guest_id)->grants_in_use == 2U);
    }));
}

/// More than the backend takes in a turn, and the guest sends something just then: what is left in a port that reads
/// ahead is announced by nobody.
TEST(Pair, ABurstBesideASentPacketArrivesWhole) {
    Pair pair({netback::FetchStrategy::copy, LoopKind::epoll, true, true}, 0);
    const auto settle = [&pair] {
        for (bool moved = true; moved;) {
            moved = pair.step_guest();
            moved = pair.step_backend() || moved;
        }
    };
    settle();
    for (int i = 0; i < 100; ++i) {
        pair.offer_packet(60);
    }
    pair.queue_packet(60);
    settle();
    EXPECT_EQ(pair.received.size(), 100U);
    EXPECT_EQ(pair.received, pair.expected_rx);
    EXPECT_EQ(pair.port->sent, pair.expected_tx);
}

/// The packet goes before the event that tells of its slots, and an answer to it shares that event.
TEST(Pair, AQuestionAndItsAnswerCostOneEvent) {
    Pair pair({netback::FetchStrategy::copy, LoopKind::epoll, false, true}, 0);
    while (!pair.worker->asleep()) {
        pair.step_backend();
    }
    pair.queue_packet(60);
    ASSERT_TRUE(pair.send_some());
    ASSERT_TRUE(pair.front->arm(true));
    pair.worker->step(-1);  // woken by the guest's event
    pair.worker->step(0);
    ASSERT_EQ(pair.port->sent, pair.expected_tx);
    EXPECT_FALSE(readable(pair.front->fd()));
    pair.offer_packet(60);
    pair.worker->step(0);
    EXPECT_TRUE(readable(pair.front->fd()));
    EXPECT_EQ(pair.back->tx_counters().notify_calls + pair.back->rx_counters().notify_calls, 1U);
    pair.step_guest();
    EXPECT_EQ(pair.received, pair.expected_rx);
}

INSTANTIATE_TEST_SUITE_P(Setups, PairProperty,
                         testing::Values(Options{netback::FetchStrategy::copy, LoopKind::epoll, true, false},
                                         Options{netback::FetchStrategy::map, LoopKind::epoll, false, true},
                                         Options{netback::FetchStrategy::copy, LoopKind::automatic, false, true},
                                         Options{netback::FetchStrategy::map, LoopKind::automatic, true, false}),
                         [](const auto& p) {
                             return std::string(p.param.strategy == netback::FetchStrategy::map ? "map" : "copy") +
                                    (p.param.loop == LoopKind::epoll ? "_epoll" : "_uring") +
                                    (p.param.split ? "_split" : "_shared") + (p.param.reads_ahead ? "_ahead" : "");
                         });

}  // namespace
}  // namespace uvif
