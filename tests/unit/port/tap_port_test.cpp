// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <linux/if_tun.h>
#include <sys/epoll.h>
#include <sys/mman.h>

#include <numeric>
#include <set>

#include "packet/checksum.hpp"
#include "packet/pieces.hpp"
#include "port/tap.hpp"
#include "runtime/limits.hpp"
#include "runtime/loop.hpp"
#include "unit/port/network.hpp"
#include "unit/port/packets.hpp"

namespace uvif {
namespace {

using namespace frames;
using testing::ElementsAre;

constexpr Offload blank{.checksum_blank = true, .data_validated = true};
constexpr Offload segments{
    .checksum_blank = true, .data_validated = true, .gso_type = GsoType::tcpv4, .gso_size = 1000};

const Octets plain = ethernet(type_experimental) + payload(100);
const Octets datagram = ethernet(type_ipv4) + ipv4(17, 308) + udp(300, 0x1234) + payload(300);
const Octets super_packet = ethernet(type_ipv4) + ipv4(6, 5020) + tcp(5, 0x4321) + payload(5000);

class TapPortTest : public NetworkTest, public testing::WithParamInterface<LoopKind> {
protected:
    void SetUp() override {
        NetworkTest::SetUp();
        if (IsSkipped()) {
            return;
        }
        auto loop = Loop::create(GetParam());
        if (!loop) {
            GTEST_SKIP() << loop.error().message;
        }
        loop_ = std::move(*loop);
        auto device = TapDevice::open({.name = "uvif-t"});
        ASSERT_TRUE(device) << device.error().message;
        device_ = std::move(*device);
        ASSERT_TRUE(device_->set_up(true));
        auto port = device_->queue(0, *loop_);
        ASSERT_TRUE(port) << port.error().message;
        port_ = std::move(*port);
        if (port_->reads_ahead() != 0) {
            port_->lend(lent_.rooms(port_->reads_ahead()), told_);
        }
    }
    void TearDown() override {
        port_.reset();  // before the memory that it was lent
        NetworkTest::TearDown();
    }

    struct Told final : ReadyHandler {
        int times = 0;
        void on_ready(std::uint32_t events) noexcept override { times += (events & EPOLLIN) != 0 ? 1 : 0; }
    };

    void submit(const std::vector<Packet*>& packets) { port_->submit(packets); }

    /// Waits until the port has something of the test's own, and takes one packet.
    Packet* receive_one() {
        const std::int64_t deadline = monotonic_ns() + 10 * ns_per_s;
        while (monotonic_ns() < deadline) {
            Packet* packet = packets_.room();
            if (port_->receive(std::span(&packet, 1)) == 1) {
                const unsigned type = load_be16(octets_of(*packet), 12);
                if (type == type_experimental || type == type_ipv4) {
                    return packet;
                }
            }
        }
        return nullptr;
    }

    std::unique_ptr<Loop> loop_;
    std::unique_ptr<TapDevice> device_;
    Packets packets_;
    Packets lent_;
    Told told_;
    std::unique_ptr<Port> port_;
};

TEST_P(TapPortTest, CarriesPacketsToTheHostInOrder) {
    HostSide host("uvif-t");
    std::vector<Packet*> batch;
    for (unsigned i = 0; i < 150; ++i) {
        batch.push_back(packets_.make(ethernet(type_experimental) + be16(i) + payload(60)));
    }
    submit(batch);
    std::vector<std::uint32_t> ids(batch.size());
    std::iota(ids.begin(), ids.end(), 0U);
    EXPECT_EQ(packets_.completed(), ids);
    EXPECT_TRUE(batch[0]->copied);
    for (unsigned i = 0; i < batch.size(); ++i) {
        const auto frame = host.receive();
        ASSERT_TRUE(frame) << i;
        EXPECT_EQ(frame->second, octets_of(*batch[i]));
    }
    const PortCounters& counters = port_->counters();
    EXPECT_EQ(counters.submitted, batch.size());
    EXPECT_EQ(counters.submit_dropped, 0U);
    EXPECT_EQ(counters.reordered, 0U);
    EXPECT_EQ(counters.system_calls, GetParam() == LoopKind::epoll ? 150U : 3U);
}

TEST_P(TapPortTest, CarriesScatteredPackets) {
    HostSide host("uvif-t");
    const Octets frame = ethernet(type_experimental) + payload(1400);
    std::vector<std::size_t> cuts{128};
    for (std::size_t at = 200; cuts.size() < Packet::max_fragments - 1; at += 61) {
        cuts.push_back(at);
    }
    Packet* packet = packets_.make(frame, {}, cuts);
    ASSERT_EQ(packet->fragment_count, Packet::max_fragments);
    submit({packet, packets_.make(plain, {}, {14, 14, 20})});
    EXPECT_EQ(host.receive()->second, frame);
    EXPECT_EQ(host.receive()->second, plain);
}

TEST_P(TapPortTest, CarriesBlankChecksums) {
    HostSide host("uvif-t");
    submit({packets_.make(datagram, blank), packets_.make(datagram)});
    const auto frame = host.receive();
    ASSERT_TRUE(frame);
    EXPECT_EQ(frame->first.flags & VnetHeader::needs_csum, VnetHeader::needs_csum);
    EXPECT_EQ(frame->first.csum_start, 34);
    EXPECT_EQ(frame->first.csum_offset, 6);
    EXPECT_EQ(frame->second, datagram);
    EXPECT_EQ(host.receive()->first.flags & VnetHeader::needs_csum, 0);
}

TEST_P(TapPortTest, CarriesSegmentsWhole) {
    HostSide host("uvif-t");
    submit({packets_.make(super_packet, segments, {128, 4000})});
    const auto frame = host.receive();
    ASSERT_TRUE(frame);
    EXPECT_EQ(frame->first.gso_type, VnetHeader::gso_tcpv4);
    EXPECT_EQ(frame->first.gso_size, 1000);
    EXPECT_EQ(frame->second, super_packet);
    EXPECT_EQ(port_->counters().gso_fixups, 0U);
}

TEST_P(TapPortTest, FixesSegmentsWithoutABlankChecksumInACopy) {
    HostSide host("uvif-t");
    // A mapped page of a guest is read-only: writing to it would end this process.
    auto* page =
        static_cast<std::byte*>(::mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    std::copy(super_packet.begin(), super_packet.end(), page);
    ASSERT_EQ(::mprotect(page, 8192, PROT_READ), 0);
    Octets expected = super_packet;
    store_be16(expected, 50,
               pseudo_header_sum(expected, parse_headers(expected), static_cast<std::uint32_t>(expected.size())));
    Offload offload = segments;
    offload.checksum_blank = false;
    for (const std::uint32_t first : {66U, 128U, 1000U, 5054U}) {
        Packet* packet = packets_.make(super_packet, offload);
        packet->fragments[0] = {page, first};
        packet->fragments[1] = {page + first, static_cast<std::uint32_t>(super_packet.size()) - first};
        packet->fragment_count = first < super_packet.size() ? 2 : 1;
        submit({packet});
        const auto frame = host.receive();
        ASSERT_TRUE(frame) << first;
        EXPECT_EQ(frame->first.flags & VnetHeader::needs_csum, VnetHeader::needs_csum);
        EXPECT_EQ(frame->first.gso_size, 1000);
        EXPECT_EQ(frame->second, expected);
    }
    EXPECT_EQ(port_->counters().gso_fixups, 4U);
    ::munmap(page, 8192);
}

TEST_P(TapPortTest, DropsWhatDoesNotFitItsMetadata) {
    HostSide host("uvif-t");
    submit({packets_.make(plain, blank), packets_.make(datagram, segments), packets_.make(plain)});
    EXPECT_EQ(packets_.completed().size(), 3U);
    EXPECT_EQ(port_->counters().submit_dropped, 2U);
    EXPECT_EQ(port_->counters().dropped_metadata, 2U);
    EXPECT_EQ(host.receive()->second, plain) << "the good one of the batch passes";
    EXPECT_TRUE(port_->writable());
}

TEST_P(TapPortTest, DropsWhileTheInterfaceIsDown) {
    ASSERT_TRUE(device_->set_up(false));
    submit({packets_.make(plain), packets_.make(plain)});
    EXPECT_THAT(packets_.completed(), ElementsAre(0, 1));
    EXPECT_EQ(port_->counters().dropped_link_down, 2U);
    EXPECT_TRUE(port_->writable());
    EXPECT_FALSE(port_->failed());
}

TEST_P(TapPortTest, CountsWhatTheKernelRefuses) {
    submit({packets_.make(octets({1, 2, 3})), packets_.make(plain)});
    EXPECT_EQ(packets_.completed().size(), 2U);
    EXPECT_EQ(port_->counters().submit_dropped, 1U);
    EXPECT_EQ(port_->counters().dropped_refused, 1U);
}

TEST_P(TapPortTest, ReceivesFromTheHost) {
    const HostSide host("uvif-t");
    for (unsigned i = 0; i < 5; ++i) {
        ASSERT_TRUE(host.send(ethernet(type_experimental) + be16(i) + payload(60)));
    }
    for (unsigned i = 0; i < 5; ++i) {
        const Packet* packet = receive_one();
        ASSERT_NE(packet, nullptr);
        EXPECT_EQ(octets_of(*packet), ethernet(type_experimental) + be16(i) + payload(60));
        EXPECT_EQ(packet->length, 76U);
        EXPECT_EQ(packet->offload, Offload{});
    }
    EXPECT_GE(port_->counters().received, 5U);
}

TEST_P(TapPortTest, ReceivesAsMuchAsThereIs) {
    const HostSide host("uvif-t");
    for (unsigned i = 0; i < 12; ++i) {
        ASSERT_TRUE(host.send(plain));
    }
    std::size_t total = 0;
    std::size_t last = 0;
    do {
        last = port_->receive(packets_.rooms(8));
        total += last;
    } while (last == 8);
    EXPECT_EQ(total, 12U);
    EXPECT_EQ(port_->receive(packets_.rooms(8)), 0U);
}

/// More frames than are read ahead, most of them there before they are asked for.
TEST_P(TapPortTest, ReceivesManyInOrder) {
    const HostSide host("uvif-t");
    EXPECT_EQ(port_->receive(packets_.rooms(1)), 0U);
    for (unsigned i = 0; i < 100; ++i) {
        ASSERT_TRUE(host.send(ethernet(type_experimental) + be16(i) + payload(60)));
    }
    std::vector<Packet*> all;
    const std::uint64_t calls = port_->counters().system_calls;
    for (std::size_t got = 30; got == 30;) {
        const std::span<Packet*> rooms = packets_.rooms(30);
        got = port_->receive(rooms);
        all.insert(all.end(), rooms.begin(), rooms.begin() + static_cast<std::ptrdiff_t>(got));
    }
    ASSERT_EQ(all.size(), 100U);
    for (unsigned i = 0; i < 100; ++i) {
        EXPECT_EQ(octets_of(*all[i]), ethernet(type_experimental) + be16(i) + payload(60));
    }
    if (port_->reads_ahead() != 0) {
        EXPECT_LT(port_->counters().system_calls - calls, 20U) << "no system call for each";
    }
    EXPECT_EQ(port_->receive(packets_.rooms(1)), 0U);
}

TEST_P(TapPortTest, TellsWhenItHasReadAhead) {
    if (port_->reads_ahead() == 0) {
        GTEST_SKIP() << "this loop does not read ahead";
    }
    const HostSide host("uvif-t");
    EXPECT_EQ(port_->receive(packets_.rooms(1)), 0U);
    ASSERT_TRUE(host.send(plain));
    for (const std::int64_t deadline = monotonic_ns() + 10 * ns_per_s; told_.times == 0 && monotonic_ns() < deadline;) {
        loop_->wait(ns_per_s);
    }
    EXPECT_EQ(told_.times, 1);
    EXPECT_EQ(port_->receive(packets_.rooms(1)), 1U);
    const int before = told_.times;
    ASSERT_TRUE(run("ip link del uvif-t"));
    for (const std::int64_t deadline = monotonic_ns() + 10 * ns_per_s;
         told_.times == before && monotonic_ns() < deadline;) {
        loop_->wait(ns_per_s);
    }
    EXPECT_EQ(port_->receive(packets_.rooms(1)), 0U);
    EXPECT_TRUE(port_->failed()) << "an interface that goes ends the reads";
}

/// What it has read ahead by then comes first, and what comes later by reads of its own; nothing is lost in between.
TEST_P(TapPortTest, CeasesToReadAheadAndBeginsAgain) {
    const HostSide host("uvif-t");
    EXPECT_EQ(port_->receive(packets_.rooms(1)), 0U);
    unsigned sent = 0;
    unsigned got = 0;
    const auto send = [&](unsigned count) {
        for (; count != 0; --count) {
            ASSERT_TRUE(host.send(ethernet(type_experimental) + be16(sent++) + payload(60)));
        }
    };
    const auto take = [&](unsigned count) {
        for (; count != 0; --count) {
            const Packet* packet = receive_one();
            ASSERT_NE(packet, nullptr);
            EXPECT_EQ(octets_of(*packet), ethernet(type_experimental) + be16(got++) + payload(60));
        }
    };
    for (unsigned round = 0; round < 3; ++round) {
        EXPECT_EQ(port_->reading_ahead(), port_->reads_ahead() != 0);
        send(25);
        take(3);
        port_->read_ahead(false);
        send(10);
        take(sent - got);
        EXPECT_FALSE(port_->reading_ahead());
        EXPECT_EQ(port_->receive(packets_.rooms(1)), 0U);
        send(5);
        take(5);
        port_->read_ahead(true);
        send(30);
        take(30);
    }
    EXPECT_EQ(port_->receive(packets_.rooms(1)), 0U);
}

TEST_P(TapPortTest, ReadsAPacketIntoPiecesThatLieApart) {
    const HostSide host("uvif-t");
    EXPECT_EQ(port_->receive(packets_.rooms(1)), 0U);
    port_->read_ahead(false);
    EXPECT_EQ(port_->receive(packets_.rooms(1)), 0U);
    EXPECT_FALSE(port_->reading_ahead()) << "the read that waited was taken back";
    ASSERT_TRUE(device_->set_offload(true, true, false));
    const VnetHeader header = segments_header();
    Octets apart(2000, std::byte{0xee});
    for (const bool gso : {true, false}) {
        const Octets frame = gso ? super_packet : ethernet(type_experimental) + payload(1200);
        ASSERT_TRUE(host.send(frame, gso ? header : VnetHeader{}));
        Packet* packet = nullptr;
        for (const std::int64_t deadline = monotonic_ns() + 10 * ns_per_s; monotonic_ns() < deadline;) {
            packet = packets_.room();
            std::byte* const own = packet->fragments[0].data;
            packet->fragments[0].length = 128;
            packet->fragments[1] = {apart.data() + 1000, 872};
            packet->fragments[2] = {apart.data(), 1000};
            packet->fragments[3] = {own + 2000, 63536};
            packet->fragment_count = 4;
            if (port_->receive(std::span(&packet, 1)) == 1 && octets_of(*packet) == frame) {
                break;
            }
            packet = nullptr;
        }
        ASSERT_NE(packet, nullptr);
        EXPECT_EQ(packet->length, frame.size());
        EXPECT_EQ(packet->fragment_count, gso ? 4U : 3U);
        EXPECT_EQ(packet->offload.gso_type, gso ? GsoType::tcpv4 : GsoType::none);
        const Octets whole = octets_of(*packet);
        bring_together(*packet);
        EXPECT_EQ(packet->fragment_count, 1U);
        EXPECT_EQ(octets_of(*packet), whole);
    }
}

/// A checksum behind a tunnel's headers covers what lies in all pieces, and has to be completed here.
TEST_P(TapPortTest, BringsTogetherWhatItHasToLookAt) {
    const HostSide host("uvif-t");
    port_->read_ahead(false);
    EXPECT_EQ(port_->receive(packets_.rooms(1)), 0U);
    EXPECT_FALSE(port_->reading_ahead());
    ASSERT_TRUE(device_->set_offload(true, false, false));
    const Octets frame = ethernet(type_experimental) + Octets(1400, std::byte{0});
    VnetHeader header;
    header.flags = VnetHeader::needs_csum;
    header.csum_start = 500;
    header.csum_offset = 16;
    ASSERT_TRUE(host.send(frame, header));
    Octets apart(2000, std::byte{0xee});
    for (const std::int64_t deadline = monotonic_ns() + 10 * ns_per_s; monotonic_ns() < deadline;) {
        Packet* packet = packets_.room();
        std::byte* const own = packet->fragments[0].data;
        packet->fragments[0].length = 128;
        packet->fragments[1] = {apart.data(), 1872};
        packet->fragments[2] = {own + 2000, 63536};
        packet->fragment_count = 3;
        if (port_->receive(std::span(&packet, 1)) == 1 && packet->length == frame.size()) {
            EXPECT_EQ(packet->fragment_count, 1U);
            EXPECT_FALSE(packet->offload.checksum_blank);
            Octets completed = frame;
            completed[516] = completed[517] = std::byte{0xff};
            EXPECT_EQ(octets_of(*packet), completed);
            return;
        }
    }
    FAIL() << "it did not come";
}

/// A read that is pending when the port goes would write into memory that is another's by then.
TEST_P(TapPortTest, TakesBackItsReads) {
    const HostSide host("uvif-t");
    const std::span<Packet*> rooms = packets_.rooms(1);
    EXPECT_EQ(port_->receive(rooms), 0U);
    port_.reset();
    (void)host.send(plain);
    loop_->wait(0);
    EXPECT_EQ(told_.times, 0);
}

TEST_P(TapPortTest, ReceivesOffloadsThatWereAskedFor) {
    const HostSide host("uvif-t");
    const VnetHeader header = segments_header();

    ASSERT_TRUE(device_->set_offload(true, true, false));
    ASSERT_TRUE(host.send(super_packet, header));
    const Packet* whole = receive_one();
    ASSERT_NE(whole, nullptr);
    EXPECT_EQ(whole->length, super_packet.size());
    EXPECT_EQ(whole->offload, segments);

    // A guest without segmentation offload gets segments, and one without checksum offload gets them complete.
    for (const bool csum : {true, false}) {
        ASSERT_TRUE(device_->set_offload(csum, false, false));
        ASSERT_TRUE(host.send(super_packet, header));
        for (unsigned i = 0; i < 5; ++i) {
            const Packet* segment = receive_one();
            ASSERT_NE(segment, nullptr);
            EXPECT_EQ(segment->length, 1054U);
            EXPECT_EQ(segment->offload.gso_type, GsoType::none);
            EXPECT_EQ(segment->offload.checksum_blank, csum);
        }
    }
    EXPECT_EQ(port_->counters().receive_dropped, 0U);
}

TEST_P(TapPortTest, TellsWhenTheInterfaceIsGone) {
    EXPECT_FALSE(port_->failed());
    ASSERT_TRUE(run("ip link del uvif-t"));
    EXPECT_EQ(port_->receive(packets_.rooms(1)), 0U);
    EXPECT_TRUE(port_->failed());
    submit({packets_.make(plain), packets_.make(plain)});
    EXPECT_EQ(packets_.completed().size(), 2U);
    EXPECT_EQ(port_->counters().submit_dropped, 2U);
}

INSTANTIATE_TEST_SUITE_P(Loops, TapPortTest, testing::Values(LoopKind::epoll, LoopKind::io_uring),
                         [](const auto& kind) { return kind.param == LoopKind::epoll ? "epoll" : "io_uring"; });

/// The TAP on a bridge whose other port is too slow: frames sit in its queue, charged to the TAP's send buffer.
class TapBackPressureTest : public TapPortTest {
protected:
    void SetUp() override {
        TapPortTest::SetUp();
        if (IsSkipped() || HasFatalFailure()) {
            return;
        }
        if (!run("ip link add uvif-br type bridge && ip link add uvif-v type veth peer name uvif-w && "
                 "ip link set uvif-t master uvif-br && ip link set uvif-v master uvif-br && ip link set uvif-br up && "
                 "ip link set uvif-v up && ip link set uvif-w up && "
                 "bridge fdb add 02:00:00:00:00:01 dev uvif-v master static && "
                 "tc qdisc add dev uvif-v root tbf rate 8kbit burst 2000 limit 10000000")) {
            GTEST_SKIP() << "iproute2, bridge, veth or tbf are missing";
        }
        int send_buffer = 64 * 1024;
        ASSERT_EQ(::ioctl(port_->fd(), TUNSETSNDBUF, &send_buffer), 0);
        // A bridge port forwards only after a moment (or at once, without the spanning tree protocol).
        std::uint64_t before = port_->counters().submitted;
        const std::int64_t deadline = monotonic_ns() + 20 * ns_per_s;
        while (port_->writable()) {
            ASSERT_LT(monotonic_ns(), deadline) << "never blocked";
            submit_burst();
        }
        EXPECT_GT(port_->counters().submitted, before);
    }

    void TearDown() override {
        port_.reset();
        run("ip link del uvif-v");
        run("ip link del uvif-br");
    }

    /// 64 packets, each with its id in it.
    void submit_burst() {
        std::vector<Packet*> batch;
        for (int i = 0; i < 64; ++i) {
            batch.push_back(packets_.make(ethernet(type_experimental) + be16(made_++) + payload(1000)));
        }
        submit(batch);
    }

    /// Ids of what was submitted and has not come home.
    std::multiset<unsigned> held() {
        for (const std::uint32_t id : packets_.completed()) {
            done_.insert(id);
        }
        std::multiset<unsigned> result;
        for (unsigned id = 0; id < made_; ++id) {
            if (!done_.contains(id)) {
                result.insert(id);
            }
        }
        return result;
    }

    unsigned made_ = 0;
    std::multiset<unsigned> done_;
};

TEST_P(TapBackPressureTest, HoldsWhatHasNoRoomUntilThereIsSome) {
    class Waker final : public ReadyHandler {
    public:
        void on_ready(std::uint32_t events) noexcept override { woken |= events; }
        std::uint32_t woken = 0;
    } waker;

    EXPECT_FALSE(held().empty());
    EXPECT_EQ(port_->counters().submit_dropped, 0U);
    port_->flush(false);
    EXPECT_FALSE(port_->writable()) << "still no room";
    const std::multiset<unsigned> waiting = held();

    ASSERT_TRUE(loop_->add(port_->fd(), EPOLLOUT, waker));
    loop_->wait(20 * ns_per_ms);
    EXPECT_EQ(waker.woken, 0U);
    HostSide far("uvif-w");
    ASSERT_TRUE(run("tc qdisc del dev uvif-v root"));
    const std::int64_t deadline = monotonic_ns() + 20 * ns_per_s;
    while (!port_->writable()) {
        ASSERT_LT(monotonic_ns(), deadline);
        loop_->wait(100 * ns_per_ms);
        port_->flush(false);
    }
    EXPECT_NE(waker.woken & EPOLLOUT, 0U);
    loop_->remove(port_->fd());
    EXPECT_TRUE(held().empty());
    EXPECT_EQ(done_.size(), made_) << "each came home exactly once";

    // What had left before may still arrive among them.
    std::multiset<unsigned> arrived;
    for (auto frame = far.receive(); frame; frame = far.receive(50 * ns_per_ms)) {
        const unsigned id = load_be16(frame->second, 14);
        if (waiting.contains(id)) {
            arrived.insert(id);
        }
    }
    EXPECT_EQ(arrived, waiting) << "each went out exactly once";
    EXPECT_EQ(port_->counters().submit_dropped, 0U);
}

TEST_P(TapBackPressureTest, AbandonsWhatIsHeld) {
    const std::size_t waiting = held().size();
    port_->flush(true);
    EXPECT_TRUE(port_->writable());
    EXPECT_TRUE(held().empty());
    EXPECT_EQ(done_.size(), made_);
    // The slow queue may have made room for one or two meanwhile.
    EXPECT_GT(port_->counters().dropped_held_up, waiting / 2);
    EXPECT_LE(port_->counters().dropped_held_up, waiting);
    EXPECT_EQ(port_->counters().submit_dropped, port_->counters().dropped_held_up);
}

TEST_P(TapBackPressureTest, HoldsNoMoreThanItsLimit) {
    const std::uint64_t calls = port_->counters().system_calls;
    for (int i = 0; i < 6; ++i) {
        submit_burst();  // against the contract: not writable
    }
    EXPECT_EQ(port_->counters().system_calls, calls) << "nothing overtakes what is held";
    EXPECT_EQ(held().size(), limits::port_held_packets);
    EXPECT_GT(port_->counters().dropped_held_up, 0U);
    port_.reset();
    EXPECT_TRUE(held().empty()) << "a port that goes leaves nothing behind";
    EXPECT_EQ(done_.size(), made_);
}

INSTANTIATE_TEST_SUITE_P(Loops, TapBackPressureTest, testing::Values(LoopKind::epoll, LoopKind::io_uring),
                         [](const auto& kind) { return kind.param == LoopKind::epoll ? "epoll" : "io_uring"; });

}  // namespace
}  // namespace uvif
