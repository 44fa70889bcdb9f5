// SPDX-License-Identifier: MIT
//
// Two guests on one switch, in one thread over the emulated hypervisor: any interleaving of their steps and their
// workers'. Each side runs only while it is awake or was woken, so a lost wakeup shows as a packet that never arrives.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <map>

#include "netback/switching.hpp"
#include "property/played_guest.hpp"
#include "xen/emulated/emulated_grant_table.hpp"

namespace uvif {
namespace {

using netback::FetchStrategy;
using netback::PlacedQueue;
using netback::QueuePair;
using netback::Switching;

struct SwitchOptions {
    FetchStrategy strategy;
    bool two_workers;
};

constexpr std::uint32_t everybody = 0xff;

/// A frame from guest `from` to guest `to`.
test::Frame make_frame(std::uint32_t from, std::uint32_t to, std::uint32_t length, std::uint32_t number) {
    test::Frame frame;
    frame.data.resize(length);
    for (std::uint32_t i = 0; i < length; ++i) {
        frame.data[i] = static_cast<std::byte>(number * 31 + i * 7 + (i >> 12));
    }
    const auto address = [&frame](std::size_t at, std::uint32_t guest) {
        const int octet = guest == everybody ? 0xff : 0;
        std::memset(frame.data.data() + at, octet, 6);
        frame.data[at + 5] = static_cast<std::byte>(guest);
    };
    address(0, to);
    address(6, from);
    frame.data[12] = std::byte{0x88};  // an ethertype for experiments: no IP
    frame.data[13] = std::byte{0xb5};
    return frame;
}

/// A guest on the switch.
struct Member {
    Member(xen::LocalHost& host, Switching& switching, Worker& worker, std::uint32_t number, FetchStrategy strategy,
           ring::Index start)
        : guest(host, "guest", true, start),
          seat(switching.seat("bridge", number,
                              {.frame_max = 65535,
                               .scatter_gather = true,
                               .checksum_v4 = true,
                               .checksum_v6 = true,
                               .gso_v4 = true,
                               .gso_v6 = true},
                              queues)) {
        auto queue = *QueuePair::connect(
            worker, guest.config(strategy),
            [this](Loop&, Waker& waker) -> Result<std::unique_ptr<Port>> {
                auto owned = std::make_unique<test::FakePort>();
                port = owned.get();
                port->ready.reset(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
                return seat->wrap(std::move(owned), waker);
            },
            [this](netback::Rogue) { rogue = true; });
        queues.push_back({&worker, std::move(queue)});
        EXPECT_TRUE(seat->join());
    }
    ~Member() { leave(); }
    Member(const Member&) = delete;
    Member& operator=(const Member&) = delete;

    void leave() {
        if (!queues.empty()) {
            seat->leave();
            queues.clear();
        }
    }

    test::PlayedGuest guest;
    std::vector<PlacedQueue> queues;
    std::unique_ptr<Switching::Seat> seat;
    test::FakePort* port = nullptr;  // owned by the queue
    bool rogue = false;
};

class Two {
public:
    explicit Two(const SwitchOptions& setup, ring::Index start = 0)
        : host(*xen::LocalHost::create()), backend(host->open(xen::DomainId{0})) {
        for (int i = 0; i < (setup.two_workers ? 2 : 1); ++i) {
            workers.push_back(*Worker::create(*backend, {.loop = LoopKind::epoll, .spin_ns = 0}));
        }
        for (std::uint32_t i = 0; i < 2; ++i) {
            members.push_back(
                std::make_unique<Member>(*host, switching, *workers[i % workers.size()], i, setup.strategy, start));
        }
    }
    ~Two() { members.clear(); }
    Two(const Two&) = delete;
    Two& operator=(const Two&) = delete;

    void queue(std::uint32_t from, std::uint32_t to, std::uint32_t length) {
        members[from]->guest.queue(make_frame(from, to, length, next++));
    }
    bool step_worker(std::size_t i) {
        Worker& worker = *workers[i % workers.size()];
        const bool slept = worker.asleep();
        worker.step(0);
        return !slept || !worker.asleep();
    }
    /// Until everybody sleeps.
    void settle(bool guests = true) {
        for (bool moved = true; moved;) {
            moved = false;
            for (std::size_t i = 0; i < members.size(); ++i) {
                moved = (guests && members[i]->guest.step()) || moved;
                moved = step_worker(i) || moved;
            }
        }
    }

    std::unique_ptr<xen::LocalHost> host;
    std::unique_ptr<xen::Hypervisor> backend;
    Switching switching;
    std::vector<std::unique_ptr<Worker>> workers;
    std::vector<std::unique_ptr<Member>> members;
    std::uint32_t next = 0;
};

std::vector<test::Frame> of(const std::vector<test::Frame>& frames, std::uint32_t to) {
    std::vector<test::Frame> found;
    std::ranges::copy_if(frames, std::back_inserter(found),
                         [to](const test::Frame& frame) { return frame.data[5] == static_cast<std::byte>(to); });
    return found;
}

/// Whether `part` is `whole` with frames left out.
bool is_part(const std::vector<test::Frame>& part, const std::vector<test::Frame>& whole) {
    auto at = whole.begin();
    return std::ranges::all_of(part, [&](const test::Frame& frame) {
        at = std::find(at, whole.end(), frame);
        return at != whole.end() && (++at, true);
    });
}

constexpr std::array<std::uint32_t, 8> frame_lengths{60, 128, 129, 1514, 4096, 4097, 20000, 65535};

class SwitchProperty : public testing::TestWithParam<SwitchOptions> {};

TEST_P(SwitchProperty, NothingIsLostReorderedOrLeftAsleep) {
    const SwitchOptions setup = GetParam();
    EXPECT_TRUE(rc::check("two guests", [&setup] {
        const auto before_wrap = *rc::gen::arbitrary<std::uint8_t>();
        const auto steps = *rc::gen::resize(600, rc::gen::arbitrary<std::vector<std::uint8_t>>());
        Two two(setup, ring::Index{0} - before_wrap);
        for (const std::uint8_t step : steps) {
            const std::uint32_t who = step / 8 % 2;
            const std::uint32_t length = frame_lengths[step / 16 % frame_lengths.size()];
            switch (step % 8) {
                case 0:
                case 1:
                    two.queue(who, 1 - who, length);
                    break;
                case 2:
                    two.queue(who, length % 3 == 0 ? everybody : 7, length);  // by the bridge
                    break;
                case 3:
                case 4:
                    two.members[who]->guest.step();
                    break;
                default:
                    two.step_worker(who);
                    break;
            }
        }
        two.settle();
        for (std::uint32_t i = 0; i < 2; ++i) {
            Member& member = *two.members[i];
            const Member& other = *two.members[1 - i];
            RC_ASSERT(!member.rogue);
            RC_ASSERT(member.guest.to_send.empty());
            // What was mapped before anybody knew where it goes, went by the bridge: never with copies.
            const auto sent = of(other.guest.sent, i);
            const auto bridged = of(other.port->sent, i);
            RC_ASSERT(bridged.empty() || setup.strategy == FetchStrategy::map);
            RC_ASSERT(member.guest.received.size() + bridged.size() == sent.size());
            RC_ASSERT(is_part(member.guest.received, sent));
            RC_ASSERT(is_part(bridged, sent));
            RC_ASSERT(of(member.port->sent, 7) == of(member.guest.sent, 7));
            RC_ASSERT(of(member.port->sent, everybody) == of(member.guest.sent, everybody));
            RC_ASSERT(member.guest.has_all());
        }
    }));
}

INSTANTIATE_TEST_SUITE_P(Setups, SwitchProperty,
                         testing::Values(SwitchOptions{FetchStrategy::copy, false},
                                         SwitchOptions{FetchStrategy::copy, true},
                                         SwitchOptions{FetchStrategy::map, true}),
                         [](const auto& p) {
                             return std::string(p.param.strategy == FetchStrategy::map ? "map" : "copy") +
                                    (p.param.two_workers ? "_two_workers" : "_one_worker");
                         });

/// What the switch is for: no octet is copied but by the hypervisor from guest to guest, and the header once more.
TEST(Switching, PayloadIsCopiedOnce) {
    Two two({FetchStrategy::copy, true});
    const auto moved = [&two] {
        std::uint64_t octets = 0;
        for (const auto& worker : two.workers) {
            octets += static_cast<const xen::EmulatedGrantTable&>(worker->grants()).copied_octets();
        }
        return octets;
    };
    two.queue(0, 1, 20000);  // the first of a queue is fetched whole: nobody knows yet where it goes
    two.settle();
    const std::uint64_t before = two.members[0]->queues[0].queue->tx_counters().copied_bytes;
    const std::uint64_t moved_before = moved();
    std::uint64_t sent = 0;
    for (const std::uint32_t length : {20000U, 65535U, 4096U, 1514U, 129U}) {
        two.queue(0, 1, length);
        sent += length;
    }
    two.settle();
    EXPECT_EQ(two.members[0]->queues[0].queue->tx_counters().copied_bytes, before + 5 * std::uint64_t{128});
    EXPECT_EQ(two.members[1]->queues[0].queue->rx_counters().passed, 6U);
    EXPECT_EQ(two.members[1]->guest.received, two.members[0]->guest.sent);
    // By the emulation's own count: each octet once, and 128 of each packet once more.
    EXPECT_EQ(moved() - moved_before, sent + 5 * std::uint64_t{128});
}

/// The receiver posts nothing: the sender gets its pages back in time, and hears of no error.
TEST(Switching, AReceiverThatSleepsHoldsNoPages) {
    Two two({FetchStrategy::copy, true});
    two.settle();
    Member& sender = *two.members[0];
    Member& receiver = *two.members[1];
    for (int i = 0; i < 400; ++i) {
        two.queue(0, 1, 1514);
    }
    // The receiver's guest does nothing from now on: the ring takes what it has posted, the line the next.
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while ((!sender.guest.to_send.empty() || sender.guest.front->tx_in_flight() != 0) &&
           std::chrono::steady_clock::now() < deadline) {
        sender.guest.step();
        std::array<netfront::Fragment, 1> reap;
        sender.guest.front->free(std::span(reap).first(sender.guest.front->allocate(reap, false)));
        two.step_worker(0);
        two.step_worker(1);
    }
    EXPECT_EQ(sender.guest.front->tx_in_flight(), 0U);
    const netback::RxCounters counters = receiver.queues[0].queue->rx_counters();
    EXPECT_GT(counters.lazy_copies, 0U);
    EXPECT_GT(counters.drops[static_cast<std::size_t>(netback::RxDrop::held_too_long)], 0U);
    // It wakes up: what was kept for it comes, in order, and what is sent from now on. In between there was the bridge.
    two.settle();
    const std::size_t kept = receiver.guest.received.size();
    EXPECT_GT(sender.port->sent.size(), 0U);
    EXPECT_EQ(
        kept + sender.port->sent.size() + counters.drops[static_cast<std::size_t>(netback::RxDrop::held_too_long)],
        400U);
    two.queue(0, 1, 1514);
    two.settle();
    ASSERT_EQ(receiver.guest.received.size(), kept + 1);
    EXPECT_EQ(receiver.guest.received.back(), sender.guest.sent.back());
    EXPECT_TRUE(sender.guest.has_all());
}

/// What one receiver takes slowly does not slow what is for another.
TEST(Switching, ASlowReceiverSlowsNobodyElse) {
    Two two({FetchStrategy::copy, false});
    two.members.push_back(
        std::make_unique<Member>(*two.host, two.switching, *two.workers[0], 2, FetchStrategy::copy, 0));
    two.settle();
    Member& sender = *two.members[0];
    Member& slow = *two.members[1];
    Member& fast = *two.members[2];
    constexpr std::size_t each = 1000;
    for (std::size_t i = 0; i < each; ++i) {
        two.queue(0, 1, 60);
        two.queue(0, 2, 60);
    }
    std::size_t taken = 0;
    auto takes_again = std::chrono::steady_clock::now();
    while (!sender.guest.to_send.empty() || sender.guest.front->tx_in_flight() != 0) {
        sender.guest.step();
        std::array<netfront::Fragment, 1> reap;
        sender.guest.front->free(std::span(reap).first(sender.guest.front->allocate(reap, false)));
        fast.guest.step();
        two.step_worker(0);
        if (const auto now = std::chrono::steady_clock::now(); now >= takes_again) {
            takes_again = now + std::chrono::milliseconds(10);
            std::array<netfront::Packet, 1> one;
            const std::size_t count = slow.guest.front->receive(one);
            slow.guest.front->release(std::span(one).first(count));
            taken += count;
        }
        ASSERT_LT(taken, each / 4) << "the sender waits for it";
    }
    two.settle();
    EXPECT_EQ(of(fast.guest.received, 2).size(), each);
    EXPECT_GT(of(sender.port->sent, 1).size(), 0U) << "by the bridge, while it is crowded";
    const std::uint64_t drops =
        slow.queues[0].queue->rx_counters().drops[static_cast<std::size_t>(netback::RxDrop::held_too_long)];
    EXPECT_EQ(taken + slow.guest.received.size() + of(sender.port->sent, 1).size() + drops, each);
    two.queue(0, 1, 60);
    two.settle();
    EXPECT_EQ(slow.guest.received.back(), sender.guest.sent.back()) << "directly again, now that it has caught up";
    EXPECT_TRUE(sender.guest.has_all());
}

/// The same when the line is full of what came by the bridge, and the worker sleeps in the end.
TEST(Switching, AFullLineHoldsNobody) {
    Two two({FetchStrategy::copy, true});
    two.settle();
    Member& sender = *two.members[0];
    Member& receiver = *two.members[1];
    for (std::uint32_t i = 0; i < 200; ++i) {
        receiver.port->offer(make_frame(everybody, 1, 1514, i));
    }
    for (int i = 0; i < 20; ++i) {
        two.step_worker(1);  // its guest takes nothing
    }
    for (int i = 0; i < 300; ++i) {
        two.queue(0, 1, 1514);
    }
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while ((!sender.guest.to_send.empty() || sender.guest.front->tx_in_flight() != 0 || !two.workers[1]->asleep()) &&
           std::chrono::steady_clock::now() < deadline) {
        sender.guest.step();
        std::array<netfront::Fragment, 1> reap;
        sender.guest.front->free(std::span(reap).first(sender.guest.front->allocate(reap, false)));
        two.step_worker(0);
        two.step_worker(1);
    }
    EXPECT_EQ(sender.guest.front->tx_in_flight(), 0U);
    EXPECT_TRUE(two.workers[1]->asleep()) << "a worker goes on for a guest that takes nothing";
    EXPECT_TRUE(sender.guest.has_all());
}

/// A neighbour that sends without end leaves the bridge its part of a guest that takes little.
TEST(Switching, TheBridgeHasItsPart) {
    Two two({FetchStrategy::copy, false});
    two.settle();
    Member& receiver = *two.members[1];
    for (std::uint32_t round = 0; round < 200; ++round) {
        two.queue(0, 1, 60);
        two.queue(0, 1, 60);
        receiver.port->offer(make_frame(everybody, 1, 60, round));
        two.members[0]->guest.step();
        two.step_worker(0);
        if (round % 4 == 3) {
            receiver.guest.step();
        }
    }
    EXPECT_GE(of(receiver.guest.received, 1).size(), receiver.guest.received.size() / 8);
    const auto bridged = std::ranges::count_if(
        receiver.guest.received, [](const test::Frame& frame) { return frame.data[11] == std::byte{everybody}; });
    EXPECT_GT(bridged, 0);
}

/// Either side goes while packets are between them.
TEST(Switching, WhoLeavesTakesHisPacketsAndGivesBackTheOthers) {
    for (const std::uint32_t leaver : {0U, 1U}) {
        Two two({FetchStrategy::copy, true});
        two.settle();
        for (int i = 0; i < 100; ++i) {
            two.queue(0, 1, 9000);
        }
        two.members[0]->guest.step();
        for (int i = 0; i < 4; ++i) {
            two.step_worker(0);  // the receiver's worker never runs
        }
        two.members[leaver]->leave();
        EXPECT_EQ(two.host->machine().usage(two.members[leaver]->guest.id)->grants_in_use, 0U);
        Member& other = *two.members[1 - leaver];
        other.guest.to_send.clear();
        two.workers[1 - leaver]->step(0);
        for (bool moved = true; moved;) {
            moved = other.guest.step();
            moved = two.step_worker(1 - leaver) || moved;
        }
        EXPECT_TRUE(other.guest.has_all());
        EXPECT_FALSE(other.rogue);
    }
}

TEST(Switching, QueuesThatSpeakShareAWorkerWhileItHasRoom) {
    Two two({FetchStrategy::copy, true});
    two.members[1]->leave();
    const std::vector<PlacedQueue> none;
    const auto newcomer = two.switching.seat("bridge", 7, {}, none);
    two.workers[0]->load = 1;
    EXPECT_EQ(newcomer->companion(0, two.workers), two.workers[0].get());
    EXPECT_EQ(newcomer->companion(1, two.workers), nullptr) << "nobody has a second queue";
    two.workers[0]->load = 9;
    EXPECT_EQ(newcomer->companion(0, two.workers), nullptr) << "the other worker has nothing to do";
    two.workers[1]->load = 9;
    EXPECT_EQ(newcomer->companion(0, two.workers), two.workers[0].get());
    const auto stranger = two.switching.seat("another bridge", 7, {}, none);
    EXPECT_EQ(stranger->companion(0, two.workers), nullptr);
}

/// A guest that broke the protocol takes nothing any more, and holds nothing of others.
TEST(Switching, ADisabledReceiverGivesBack) {
    Two two({FetchStrategy::copy, true});
    two.settle();
    two.members[1]->queues[0].queue->disable();
    for (int i = 0; i < 100; ++i) {
        two.queue(0, 1, 9000);
    }
    two.settle();
    EXPECT_TRUE(two.members[0]->guest.to_send.empty());
    EXPECT_TRUE(two.members[0]->guest.has_all());
}

}  // namespace
}  // namespace uvif
