// SPDX-License-Identifier: MIT
//
// Guest RX against a guest that may do anything, over the emulated hypervisor, single-threaded.
#include "netback/rx_queue.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <optional>

#include "runtime/clock.hpp"
#include "runtime/limits.hpp"
#include "support/fake_port.hpp"
#include "support/mock_guest.hpp"

namespace uvif::netback {
namespace {

using ring::ExtraInfo;
using ring::RxFlags;
using ring::RxRequest;
using ring::RxResponse;
using ring::RxSlot;
using test::FakePort;
using test::Frame;
using test::MockGuest;

/// The time that queues of these tests go by, and how often one asked for it.
std::int64_t now_ns = 0;
std::uint64_t looks_at_clock = 0;
std::int64_t played_clock() noexcept {
    ++looks_at_clock;
    return now_ns;
}

struct Backend {
    explicit Backend(
        MockGuest& guest,
        RxFeatures features = {.scatter_gather = true, .gso_v4 = true, .gso_v6 = true, .announces_buffers = true},
        std::string_view faults = "")
        : hypervisor(guest.host.open(test::backend_domain, *xen::FaultPlan::parse(faults))),
          grants(*hypervisor->open_grant_table()) {
        std::array<std::byte*, 1> page{};
        EXPECT_EQ(grants->map(guest.id, std::array{guest.rx_ring_ref}, xen::Access::read_write, page, ring_mapping), 0);
        auto ring = ring::RxBackRing::attach(page[0]);
        queue = std::move(*RxQueue::create(*ring, guest.id, *grants, port, features, {.clock = played_clock}));
    }
    ~Backend() {
        queue.reset();
        EXPECT_EQ(grants->unmap(std::array{ring_mapping}), 0);
    }
    Backend(const Backend&) = delete;
    Backend& operator=(const Backend&) = delete;

    void run() {
        for (bool worked = true; worked;) {
            copies.clear();
            worked = queue->gather(true, copies).worked;
            copies.flush(*grants);
            (void)queue->publish(copies);
        }
    }

    std::unique_ptr<xen::Hypervisor> hypervisor;
    std::unique_ptr<xen::GrantTable> grants;
    xen::MappingId ring_mapping;
    FakePort port;
    CopyBatch copies;
    std::unique_ptr<RxQueue> queue;
};

Frame frame(std::size_t length, Offload offload = {}) {
    Frame f;
    f.data.resize(length);
    for (std::size_t i = 0; i < length; ++i) {
        f.data[i] = static_cast<std::byte>(i * 7 + length);
    }
    f.offload = offload;
    return f;
}

/// Posts buffers and reads packets back as a driver does: by position and by id.
struct Receiver {
    explicit Receiver(MockGuest& guest_in) : guest(guest_in) {}

    void post(std::size_t count, xen::Access access = xen::Access::read_write) {
        for (; count != 0; --count) {
            const MockGuest::Page page = guest.page(access);
            const std::uint16_t id = next_id++ % 512;  // as Windows: beyond 255
            posted[guest.rx.put(RxRequest{id, 0, std::to_underlying(page.ref)})] = {id, page};
        }
        (void)guest.rx.push_and_check_notify();
    }

    struct Received {
        Frame frame;
        std::size_t slots = 0;
        bool failed = false;
    };

    /// Everything that has arrived, each answer checked as netfront does.
    std::vector<Received> take() {
        std::vector<Received> packets;
        const std::vector<RxSlot> answers = guest.rx_answers();
        ring::Index index = guest.rx.consumed() - static_cast<ring::Index>(answers.size());
        for (std::size_t i = 0; i < answers.size();) {
            Received packet;
            bool first = true;
            for (bool more = true; more;) {
                if (i == answers.size()) {
                    ADD_FAILURE() << "a packet was published in part";
                    return packets;
                }
                const RxResponse response = answers[i++].response();
                const auto [id, page] = posted.at(index);
                EXPECT_EQ(response.id, id) << "right position, wrong id";
                const auto memory = guest.memory.page(page.frame);
                if (response.status < 0) {
                    packet.failed = true;
                } else {
                    const auto length = static_cast<std::size_t>(response.status);
                    EXPECT_LE(response.offset + length, xen::page_size);
                    packet.frame.data.insert(packet.frame.data.end(), memory.begin() + response.offset,
                                             memory.begin() + response.offset + static_cast<std::ptrdiff_t>(length));
                }
                EXPECT_TRUE(guest.take_back(page)) << "answered while its page was still in use";
                posted.erase(index++);
                ++packet.slots;
                if (first) {
                    packet.frame.offload.checksum_blank = response.flags.has(RxFlags::checksum_blank);
                    packet.frame.offload.data_validated = response.flags.has(RxFlags::data_validated);
                } else {
                    EXPECT_FALSE(response.flags.has(RxFlags::extra_info | RxFlags::checksum_blank));
                }
                if (response.flags.has(RxFlags::extra_info)) {
                    const ExtraInfo extra = answers.at(i++).extra();
                    EXPECT_EQ(extra.type, 1);
                    EXPECT_EQ(extra.flags, 0);
                    packet.frame.offload.gso_type = GsoType{extra.gso_type()};
                    packet.frame.offload.gso_size = extra.gso_size();
                    EXPECT_TRUE(guest.take_back(posted.at(index).second));
                    posted.erase(index++);
                    ++packet.slots;
                }
                first = false;
                more = response.flags.has(RxFlags::more_data);
            }
            packets.push_back(std::move(packet));
        }
        return packets;
    }

    MockGuest& guest;
    std::map<ring::Index, std::pair<std::uint16_t, MockGuest::Page>> posted;  // by ring index
    std::uint16_t next_id = 300;
};

class RxQueueTest : public testing::Test {
protected:
    void SetUp() override {
        now_ns = 1'000 * ns_per_s;
        looks_at_clock = 0;
    }
    static std::uint64_t drops(const Backend& backend, RxDrop reason) {
        return backend.queue->counters().drops[static_cast<std::size_t>(reason)];
    }

    std::unique_ptr<xen::LocalHost> host = *xen::LocalHost::create();
    MockGuest guest{*host, 0xffffff80U};
    Receiver receiver{guest};
};

TEST_F(RxQueueTest, DeliversOctetsOffloadsAndSlots) {
    Backend backend(guest);
    struct Case {
        Frame frame;
        std::size_t slots;
    };
    const Offload blank{.checksum_blank = true, .data_validated = true, .gso_type = GsoType::none, .gso_size = 0};
    const Offload gso{.checksum_blank = true, .data_validated = true, .gso_type = GsoType::tcpv4, .gso_size = 1448};
    const std::vector<Case> cases{
        {frame(60), 1},        {frame(1514, blank), 1}, {frame(4096), 1},   {frame(4097), 2},        {frame(9014), 3},
        {frame(5000, gso), 3}, {frame(65535, gso), 17}, {frame(65535), 16}, {frame(61440, gso), 16}, {frame(14), 1},
    };
    for (int round = 0; round < 3; ++round) {
        receiver.post(100);
        for (const Case& c : cases) {
            backend.port.to_receive.push_back(c.frame);
        }
        backend.run();
        const auto packets = receiver.take();
        ASSERT_EQ(packets.size(), cases.size());
        for (std::size_t i = 0; i < cases.size(); ++i) {
            EXPECT_EQ(packets[i].frame, cases[i].frame) << i;
            EXPECT_EQ(packets[i].slots, cases[i].slots) << i;
            EXPECT_EQ(backend.queue->slots_needed([&] {
                Packet p;
                p.length = static_cast<std::uint32_t>(cases[i].frame.data.size());
                p.offload = cases[i].frame.offload;
                return p;
            }()),
                      cases[i].slots);
        }
    }
}

TEST_F(RxQueueTest, WaitsForExactlyTheSlotsItNeeds) {
    Backend backend(guest);
    backend.port.to_receive = {frame(9000), frame(60)};
    backend.run();
    EXPECT_TRUE(backend.queue->arm());
    receiver.post(2);
    backend.run();
    EXPECT_TRUE(receiver.take().empty()) << "needs three, and nothing overtakes it";
    ASSERT_TRUE(backend.queue->arm());
    const MockGuest::Page page = guest.page(xen::Access::read_write);
    receiver.posted[guest.rx.put(RxRequest{1, 0, std::to_underlying(page.ref)})] = {1, page};
    EXPECT_TRUE(guest.rx.push_and_check_notify()) << "the third is asked for";
    backend.run();
    EXPECT_EQ(receiver.take().size(), 1U);
    receiver.post(1);
    backend.run();
    EXPECT_EQ(receiver.take().size(), 1U);
}

Frame frame_to(const std::array<std::uint8_t, 6>& destination, std::size_t length = 60) {
    Frame f = frame(length);
    std::ranges::copy(std::as_bytes(std::span(destination)), f.data.begin());
    return f;
}

TEST_F(RxQueueTest, OfMulticastAGuestThatAsksForItGetsItsGroupsAlone) {
    const std::array<std::uint8_t, 6> joined{0x01, 0, 0x5e, 0, 0, 1};
    const std::array<std::uint8_t, 6> other{0x01, 0, 0x5e, 0, 0, 2};
    const std::vector<Frame> all{
        frame_to({0x00, 0x16, 0x3e, 0, 0, 1}),          frame_to(joined),       frame_to(other),
        frame_to({0xff, 0xff, 0xff, 0xff, 0xff, 0xff}), frame_to(joined, 9000), frame_to({0x33, 0x33, 0, 0, 0, 1})};
    Backend backend(guest);
    MulticastGroups groups;
    backend.queue->filter_by(groups);
    receiver.post(100);
    const auto arrived = [&] {
        backend.port.to_receive.assign(all.begin(), all.end());
        backend.run();
        std::vector<Frame> frames;
        for (auto& packet : receiver.take()) {
            frames.push_back(std::move(packet.frame));
        }
        return frames;
    };
    ASSERT_TRUE(groups.add(mac_number(std::as_bytes(std::span(joined)))));
    EXPECT_EQ(arrived(), all) << "nobody asked";
    EXPECT_EQ(drops(backend, RxDrop::unwanted_group), 0U);
    groups.request(true);
    EXPECT_EQ(arrived(), (std::vector{all[0], all[1], all[3], all[4]}));
    EXPECT_EQ(drops(backend, RxDrop::unwanted_group), 2U);
    groups.request(false);
    EXPECT_EQ(arrived(), all);
    groups.request(true);
    EXPECT_EQ(arrived().size(), 4U) << "the groups are still there";
    groups.lose();
    EXPECT_EQ(arrived(), all);
    groups.request(true);
    EXPECT_EQ(arrived(), all) << "whatever it asks: nobody knows its groups";
    groups.forget();
    groups.request(true);
    EXPECT_EQ(arrived(), (std::vector{all[0], all[3]})) << "another connection";
}

/// Nobody tells of what a port that reads ahead has, before it was asked once more.
TEST_F(RxQueueTest, ATurnOfNothingButUnwantedPacketsIsFollowedByAnother) {
    Backend backend(guest);
    MulticastGroups groups;
    groups.request(true);
    backend.queue->filter_by(groups);
    receiver.post(10);
    backend.port.to_receive.assign(3 * RxQueue::packets_per_turn, frame_to({1, 2, 3, 4, 5, 6}));
    backend.port.to_receive.push_back(frame_to({2, 2, 3, 4, 5, 6}));
    backend.run();
    EXPECT_EQ(receiver.take().size(), 1U);
    EXPECT_EQ(drops(backend, RxDrop::unwanted_group), 3 * RxQueue::packets_per_turn);
    EXPECT_TRUE(backend.queue->wants_packets());
}

TEST_F(RxQueueTest, SilentGuestBoundsWhatIsTakenFromThePort) {
    Backend backend(guest);
    for (int i = 0; i < 1000; ++i) {
        backend.port.to_receive.push_back(frame(60));
    }
    backend.run();
    EXPECT_EQ(backend.port.to_receive.size(), 1000 - RxQueue::packets_per_turn);
    EXPECT_FALSE(backend.queue->wants_packets());
    receiver.post(200);
    backend.run();
    EXPECT_EQ(receiver.take().size(), 200U);
}

TEST_F(RxQueueTest, PacketsExpire) {
    Backend backend(guest);
    backend.port.to_receive = {frame(60), frame(61)};
    backend.run();
    EXPECT_EQ(backend.queue->due_ns(), now_ns + limits::rx_expiry_ns);
    now_ns += ns_per_s;
    backend.port.to_receive = {frame(62)};
    backend.run();
    now_ns += limits::rx_expiry_ns - ns_per_s - 1;
    backend.run();
    EXPECT_EQ(drops(backend, RxDrop::expired), 0U);
    ++now_ns;
    backend.run();
    EXPECT_EQ(drops(backend, RxDrop::expired), 2U) << "the third came later";
    EXPECT_EQ(backend.queue->due_ns(), now_ns + ns_per_s);
    receiver.post(3);
    backend.run();
    const auto packets = receiver.take();
    ASSERT_EQ(packets.size(), 1U);
    EXPECT_EQ(packets[0].frame, frame(62));
    EXPECT_EQ(backend.queue->due_ns(), 0) << "nothing waits";
}

// XSA-392: a slot is free all the time, and it is of no use.
TEST_F(RxQueueTest, GuestThatPostsLessThanIsNeededIsStalled) {
    Backend backend(guest);
    receiver.post(2);
    const std::int64_t begin = now_ns;
    for (; now_ns < begin + limits::rx_stall_ns; now_ns += limits::rx_expiry_ns) {
        backend.port.to_receive = {frame(9000)};
        backend.run();
        EXPECT_FALSE(backend.queue->stalled());
    }
    EXPECT_EQ(drops(backend, RxDrop::expired), 5U);
    EXPECT_EQ(backend.queue->due_ns(), begin + limits::rx_stall_ns);
    now_ns = begin + limits::rx_stall_ns;
    backend.port.to_receive = {frame(9000)};
    backend.run();
    EXPECT_TRUE(backend.queue->stalled());
    EXPECT_EQ(backend.queue->counters().stalls, 1U);
    now_ns += limits::rx_expiry_ns;
    backend.run();
    EXPECT_EQ(drops(backend, RxDrop::expired), 7U);
    EXPECT_TRUE(backend.queue->stalled()) << "also when nothing waits any more";
    EXPECT_EQ(backend.queue->due_ns(), 0);

    ASSERT_TRUE(backend.queue->arm());
    const MockGuest::Page page = guest.page(xen::Access::read_write);
    receiver.posted[guest.rx.put(RxRequest{1, 0, std::to_underlying(page.ref)})] = {1, page};
    EXPECT_TRUE(guest.rx.push_and_check_notify()) << "the third is asked for";
    backend.run();
    EXPECT_FALSE(backend.queue->stalled());
    backend.port.to_receive = {frame(9000)};
    backend.run();
    EXPECT_EQ(receiver.take().size(), 1U);
}

TEST_F(RxQueueTest, SlowGuestIsNotStalled) {
    Backend backend(guest);
    for (int i = 0; i < 5; ++i) {
        backend.port.to_receive = {frame(60), frame(60)};
        backend.run();
        now_ns += limits::rx_stall_ns - 1;
        receiver.post(1);
        backend.port.to_receive = {frame(60)};
        backend.run();
        EXPECT_FALSE(backend.queue->stalled());
    }
    EXPECT_EQ(backend.queue->counters().stalls, 0U);
}

TEST_F(RxQueueTest, GuestThatPostedWhileNothingCameIsNotStalled) {
    Backend backend(guest);
    backend.port.to_receive = {frame(60)};
    backend.run();
    now_ns += limits::rx_expiry_ns;
    backend.run();
    receiver.post(1);
    now_ns += limits::rx_stall_ns;
    backend.port.to_receive = {frame(60), frame(60)};
    backend.run();
    EXPECT_FALSE(backend.queue->stalled());
    EXPECT_EQ(receiver.take().size(), 1U);
}

TEST_F(RxQueueTest, GuestThatDoesNotAnnounceBuffersIsLookedAtOnceMore) {
    Backend backend(guest, {.scatter_gather = true, .announces_buffers = false});
    receiver.post(1);
    backend.port.to_receive = {frame(60), frame(61), frame(62)};
    backend.run();
    EXPECT_EQ(receiver.take().size(), 1U);
    EXPECT_EQ(backend.queue->due_ns(), now_ns + limits::rx_unannounced_ns);
    receiver.post(1);  // and tells nobody
    now_ns += limits::rx_unannounced_ns;
    backend.run();
    const auto packets = receiver.take();
    ASSERT_EQ(packets.size(), 1U);
    EXPECT_EQ(packets[0].frame, frame(61));
    EXPECT_EQ(drops(backend, RxDrop::no_buffers), 1U);
    now_ns += 2 * limits::rx_stall_ns;
    backend.port.to_receive = {frame(60)};
    backend.run();
    EXPECT_FALSE(backend.queue->stalled());
}

TEST_F(RxQueueTest, LooksAtTheClockOnlyWhilePacketsWait) {
    Backend backend(guest);
    for (int turn = 0; turn < 10; ++turn) {
        receiver.post(20);
        for (int i = 0; i < 20; ++i) {
            backend.port.to_receive.push_back(frame(1514));
        }
        backend.run();
        EXPECT_EQ(receiver.take().size(), 20U);
    }
    EXPECT_EQ(looks_at_clock, 0U);
    backend.port.to_receive = {frame(60), frame(60), frame(60)};
    backend.run();
    EXPECT_EQ(looks_at_clock, 1U);
}

TEST_F(RxQueueTest, WithoutScatterGatherNothingAboveAPage) {
    Backend backend(guest, {.scatter_gather = false, .announces_buffers = true});
    receiver.post(10);
    backend.port.to_receive = {frame(4097), frame(4096)};
    backend.run();
    const auto packets = receiver.take();
    ASSERT_EQ(packets.size(), 1U);
    EXPECT_EQ(packets[0].frame.data.size(), 4096U);
    EXPECT_EQ(backend.queue->counters().drops[static_cast<std::size_t>(RxDrop::no_scatter_gather)], 1U);
}

TEST_F(RxQueueTest, BlankChecksumsAreCompletedForGuestsThatDoNotTakeThem) {
    // UDP over IPv4, its checksum field holding the pseudo header's sum.
    Frame udp = frame(60);
    constexpr std::array<std::uint8_t, 42> header{
        2,  0,   0,  0,  0, 1,  2,    0,   0,  0,  0, 2, 8,  0,                     // Ethernet
        69, 0,   0,  46, 0, 0,  0,    0,   64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,  // IPv4, 46 octets
        4,  210, 22, 46, 0, 26, 0x14, 0x2e};  // UDP, 26 octets; sum of 10.0.0.1, .2, 17, 26
    for (std::size_t i = 0; i < header.size(); ++i) {
        udp.data[i] = static_cast<std::byte>(header[i]);
    }
    udp.offload = {.checksum_blank = true, .data_validated = true, .gso_type = GsoType::none, .gso_size = 0};
    for (const bool takes_v4 : {true, false}) {
        Backend backend(
            guest, {.scatter_gather = true, .checksum_v4 = takes_v4, .checksum_v6 = true, .announces_buffers = true});
        receiver.post(1);
        backend.port.to_receive = {udp};
        backend.run();
        const auto packets = receiver.take();
        ASSERT_EQ(packets.size(), 1U);
        EXPECT_EQ(packets[0].frame.offload.checksum_blank, takes_v4);
        // One's complement sum over pseudo header and datagram of a right checksum is all ones.
        std::uint32_t sum = 0x0a00 + 0x0001 + 0x0a00 + 0x0002 + 17 + 26;
        for (std::size_t i = 34; i < 60; i += 2) {
            sum += (std::to_integer<std::uint32_t>(packets[0].frame.data[i]) << 8) +
                   std::to_integer<std::uint32_t>(packets[0].frame.data[i + 1]);
        }
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        EXPECT_EQ(sum == 0xffff, !takes_v4);
    }
}

TEST_F(RxQueueTest, SegmentsGoOnlyToGuestsThatTakeThem) {
    Backend backend(guest, {.scatter_gather = true, .gso_v6 = true, .announces_buffers = true});
    receiver.post(8);
    for (const GsoType type : {GsoType::tcpv4, GsoType::tcpv6}) {
        backend.port.to_receive.push_back(
            frame(3000, {.checksum_blank = true, .data_validated = true, .gso_type = type, .gso_size = 1448}));
    }
    backend.run();
    EXPECT_EQ(backend.queue->counters().packets, 1U);
    EXPECT_EQ(backend.queue->counters().gso_packets, 1U);
    EXPECT_EQ(backend.queue->counters().drops[static_cast<std::size_t>(RxDrop::no_segments)], 1U);
}

TEST_F(RxQueueTest, BadGrantFailsOnlyItsOwnSlot) {
    Backend backend(guest);
    for (const std::size_t bad : {0U, 1U, 2U}) {
        receiver.post(5);
        auto at = receiver.posted.begin();
        std::advance(at, 1 + bad);
        guest.memory.write_entry(at->second.second.ref, {xen::grant_permit_access | xen::grant_read_only, 0, 1});
        backend.port.to_receive = {frame(60), frame(9000), frame(61)};
        backend.run();
        const auto packets = receiver.take();
        ASSERT_EQ(packets.size(), 3U);
        EXPECT_EQ(packets[0].frame, frame(60));
        EXPECT_TRUE(packets[1].failed);
        EXPECT_EQ(packets[1].slots, 3U) << "the chain keeps its length";
        EXPECT_EQ(packets[2].frame, frame(61));
    }
    EXPECT_EQ(backend.queue->counters().drops[static_cast<std::size_t>(RxDrop::rx_grant_failed)], 3U);
    EXPECT_EQ(backend.queue->counters().packets, 6U);
}

TEST_F(RxQueueTest, FailingHypervisorCallFailsTheTurnsSlots) {
    Backend backend(guest, {.scatter_gather = true, .announces_buffers = true}, "copy@1");
    receiver.post(10);
    backend.port.to_receive = {frame(60), frame(5000)};
    backend.run();
    auto packets = receiver.take();
    ASSERT_EQ(packets.size(), 2U);
    EXPECT_TRUE(packets[0].failed);
    EXPECT_TRUE(packets[1].failed);
    backend.port.to_receive = {frame(60)};
    backend.run();
    packets = receiver.take();
    ASSERT_EQ(packets.size(), 1U);
    EXPECT_EQ(packets[0].frame, frame(60));
}

TEST_F(RxQueueTest, ImpossibleProducerIsRogue) {
    Backend backend(guest);
    receiver.post(4);
    std::atomic_ref(reinterpret_cast<std::uint32_t&>(guest.memory.page(guest.rx_frame)[0])).store(0xffffff80U + 300);
    backend.port.to_receive = {frame(60)};
    backend.run();
    // An impossible index reads as "nothing posted" until it is looked at with intent to take.
    for (int i = 0; i < 3 && backend.queue->rogue() == Rogue::none; ++i) {
        (void)backend.queue->arm();
        backend.run();
    }
    EXPECT_EQ(backend.queue->rogue(), Rogue::impossible_producer);
    EXPECT_TRUE(guest.rx_answers().empty());
}

TEST_F(RxQueueTest, EndlessPortGivesNoMoreThanTheGuestHasRoomFor) {
    Backend backend(guest);
    backend.port.endless = true;
    for (int i = 0; i < 500; ++i) {
        backend.port.to_receive.push_back(frame(60));
    }
    receiver.post(10);
    backend.run();
    EXPECT_EQ(backend.port.to_receive.size(), 490U);
    EXPECT_TRUE(backend.queue->arm()) << "asleep until the guest posts more";
    const MockGuest::Page page = guest.page(xen::Access::read_write);
    receiver.posted[guest.rx.put(RxRequest{1, 0, std::to_underlying(page.ref)})] = {1, page};
    EXPECT_TRUE(guest.rx.push_and_check_notify());
}

/// Ethernet, IPv4 and TCP, of a flow of its own for each `port`.
Frame tcp_frame(std::uint8_t port, std::size_t length = 60, Offload offload = {}) {
    Frame f;
    f.data.resize(length);
    f.offload = offload;
    const auto put = [&f](std::size_t at, unsigned value) { f.data[at] = static_cast<std::byte>(value); };
    put(12, 8);
    put(14, 0x45);
    put(16, static_cast<unsigned>(length - 14) >> 8);
    put(17, static_cast<unsigned>(length - 14) & 0xff);
    put(23, 6);
    put(29, 1);
    put(33, 2);
    put(35, port);
    put(46, 0x50);
    return f;
}

std::shared_ptr<const RxSteering> steering(std::vector<std::uint16_t> mapping, std::uint32_t queues) {
    std::vector<std::uint8_t> key(40);
    for (std::size_t i = 0; i < key.size(); ++i) {
        key[i] = static_cast<std::uint8_t>(i * 37 + 11);
    }
    return std::make_shared<RxSteering>(HashTypes::all, key, mapping, queues);
}

TEST_F(RxQueueTest, TellsTheHashInAnExtraBehindTheOther) {
    Backend backend(guest);
    const auto by = steering({}, 1);
    backend.queue->steer_by(by);
    const Frame plain = tcp_frame(1);
    const Frame gso = tcp_frame(2, 5000, {.checksum_blank = true, .gso_type = GsoType::tcpv4, .gso_size = 1000});
    const Frame unhashed = frame(60);
    backend.port.to_receive = {plain, gso, unhashed};
    receiver.post(20);
    backend.run();
    const auto answers = guest.rx_answers();
    ASSERT_EQ(answers.size(), 2U + 4U + 1U);
    const auto hash_of = [&by](const Frame& f) { return by->hash(std::span(f.data)); };
    EXPECT_TRUE(answers[0].response().flags.has(RxFlags::extra_info));
    EXPECT_EQ(answers[1].extra().type, 4);
    EXPECT_EQ(answers[1].extra().flags, 0);
    EXPECT_EQ(answers[1].extra().hash_type(), 1) << "a bit's number, not the bit";
    EXPECT_EQ(answers[1].extra().data[1], 1) << "Toeplitz";
    EXPECT_EQ(answers[1].extra().hash_value(), hash_of(plain).value);
    EXPECT_EQ(answers[3].extra().type, 1);
    EXPECT_EQ(answers[3].extra().flags, ExtraInfo::more);
    EXPECT_EQ(answers[3].extra().gso_size(), 1000);
    EXPECT_EQ(answers[4].extra().type, 4);
    EXPECT_EQ(answers[4].extra().flags, 0);
    EXPECT_EQ(answers[4].extra().hash_value(), hash_of(gso).value);
    EXPECT_EQ(answers[5].response().status, 5000 - 4096);
    EXPECT_FALSE(answers[6].response().flags.has(RxFlags::extra_info));
    // And no more when it is not wanted any more.
    backend.queue->steer_by(nullptr);
    backend.port.to_receive = {plain};
    backend.run();
    ASSERT_EQ(guest.rx_answers().size(), 1U);
}

struct NoWaker final : Waker {
    void wake() noexcept override {}
};

/// Two queues of one vif; that their rings are two guests' is nothing to them.
class SteeringTest : public RxQueueTest {
protected:
    SteeringTest() {
        first.queue->join(exchange, 0, waker);
        second.queue->join(exchange, 1, waker);
    }
    ~SteeringTest() override { stop(); }
    void steer(std::vector<std::uint16_t> mapping) {
        const auto by = steering(std::move(mapping), 2);
        first.queue->steer_by(by);
        second.queue->steer_by(by);
    }
    void stop() {
        first.queue->steer_by(nullptr);
        second.queue->steer_by(nullptr);
        first.queue->give_back([](const Packet&) { return true; });
        second.queue->give_back([](const Packet&) { return true; });
    }
    void run() {
        first.run();
        second.run();
        first.run();
    }

    MockGuest other{*host};
    Receiver other_receiver{other};
    NoWaker waker;
    RxExchange exchange{2};
    Backend first{guest};
    Backend second{other};
};

TEST_F(SteeringTest, PacketsGoWhereTheMappingSaysInOrder) {
    steer({1, 0, 1});
    const auto by = steering({1, 0, 1}, 2);
    std::array<std::vector<std::uint32_t>, 2> expected;
    receiver.post(200);
    other_receiver.post(200);
    for (int round = 0; round < 3; ++round) {
        for (std::uint8_t port = 0; port < 30; ++port) {
            const Frame f = tcp_frame(port);
            const FlowHash hash = by->hash(std::span(f.data));
            expected[by->queue_of(hash)].push_back(hash.value);
            first.port.to_receive.push_back(f);
        }
        run();
    }
    ASSERT_FALSE(expected[0].empty());
    ASSERT_FALSE(expected[1].empty());
    const auto hashes = [](MockGuest& of) {
        const auto answers = of.rx_answers();
        std::vector<std::uint32_t> all;
        for (std::size_t i = 1; i < answers.size(); i += 2) {
            all.push_back(answers[i].extra().hash_value());
        }
        return all;
    };
    EXPECT_EQ(hashes(guest), expected[0]);
    EXPECT_EQ(hashes(other), expected[1]);
    EXPECT_EQ(first.queue->counters().steered, expected[1].size());
}

TEST_F(SteeringTest, AQueueWithoutRoomHoldsItsPacketsForTenMillisecondsAndTheOthersGoOn) {
    steer({1});
    receiver.post(100);
    for (int i = 0; i < 200; ++i) {
        first.port.to_receive.push_back(tcp_frame(1));
    }
    run();
    EXPECT_FALSE(first.queue->wants_packets()) << "all that it has are with the other";
    ASSERT_NE(second.queue->hold_ends_ns(), 0);
    second.queue->release_held(*second.grants, second.copies);
    for (int i = 0; i < 10; ++i) {
        run();
    }
    EXPECT_TRUE(first.queue->wants_packets());
    EXPECT_TRUE(first.port.to_receive.empty()) << "what comes now is dropped";
    EXPECT_GT(second.queue->counters().drops[static_cast<std::size_t>(RxDrop::held_too_long)], 0U);
    other_receiver.post(100);
    run();
    EXPECT_EQ(other.rx_answers().size(), 2 * second.queue->counters().lazy_copies);
    first.port.to_receive.push_back(tcp_frame(3));
    run();
    EXPECT_EQ(other.rx_answers().size(), 2U);
}

TEST_F(SteeringTest, NothingIsAbroadWhenSteeringHasStopped) {
    steer({1});
    for (int i = 0; i < 64; ++i) {
        first.port.to_receive.push_back(tcp_frame(1));
    }
    first.run();
    second.run();  // some in its line, the others in its inbox
    EXPECT_FALSE(first.queue->wants_packets());
    stop();
    first.run();
    EXPECT_TRUE(first.queue->wants_packets());
    receiver.post(64);
    for (int i = 0; i < 64; ++i) {
        first.port.to_receive.push_back(tcp_frame(1));
    }
    run();
    EXPECT_EQ(guest.rx_answers().size(), 64U) << "all of its packets are home again";
}

}  // namespace
}  // namespace uvif::netback
