// SPDX-License-Identifier: MIT
//
// Theory of operation
//
// The underlay is one end of a veth pair. What leaves by it is dropped at the other end before anything looks at it, as
// a network card would have it gone: the kernel then never copies. Or it is looked at, by a packet socket, which has
// the kernel copy at that moment, and shows what stood in the buffer then.
#include <gmock/gmock.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <memory>
#include <set>

#include "packet/checksum.hpp"
#include "packet/headers.hpp"
#include "port/vxlan_endpoint.hpp"
#include "support/process.hpp"
#include "unit/port/network.hpp"
#include "unit/port/packets.hpp"

namespace uvif {
namespace {

using namespace frames;

/// Drops all that comes in by an interface, as long as it lives. TCX: Linux 6.6.
class DropAll {
public:
    explicit DropAll(const char* name) {
        std::array<bpf_insn, 2> program{};
        program[0].code = BPF_ALU64 | BPF_MOV | BPF_K;
        program[0].imm = 2;  // TCX_DROP
        program[1].code = BPF_JMP | BPF_EXIT;
        bpf_attr load{};
        load.prog_type = BPF_PROG_TYPE_SCHED_CLS;
        load.insns = reinterpret_cast<std::uint64_t>(program.data());
        load.insn_cnt = program.size();
        load.license = reinterpret_cast<std::uint64_t>("MIT");
        program_.reset(static_cast<int>(::syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load)));
        bpf_attr link{};
        link.link_create.prog_fd = static_cast<std::uint32_t>(program_.get());
        link.link_create.target_fd = ::if_nametoindex(name);
        link.link_create.attach_type = 46;  // BPF_TCX_INGRESS, which older headers do not have
        link_.reset(static_cast<int>(::syscall(SYS_bpf, BPF_LINK_CREATE, &link, sizeof link)));
    }
    [[nodiscard]] explicit operator bool() const { return program_ && link_; }

private:
    UniqueFd program_, link_;
};

class VxlanZerocopyTest : public NetworkTest {
protected:
    static constexpr Mac near{2, 0, 0, 0, 0, 7};  ///< behind 10.9.0.2, which is there
    static constexpr Mac lost{2, 0, 0, 0, 0, 8};  ///< behind 10.9.0.9, which answers no ARP
    static constexpr Mac here{2, 0, 0, 0, 0, 9};  ///< behind an address of this host
    static constexpr unsigned burst = 40;         ///< frames that make one long message

    void SetUp() override {
        NetworkTest::SetUp();
        if (IsSkipped()) {
            return;
        }
        ASSERT_TRUE(run(
            "ip link set lo up; ip link add uvif-u type veth peer name uvif-v && ip addr add 10.9.0.1/24 dev uvif-u && "
            "ip link set uvif-u up && ip link set uvif-v up && "
            "ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:ff dev uvif-u"));
        // A device that is up drops all until the kernel has seen its carrier and given it a queue.
        ASSERT_TRUE(test::eventually([] { return run("! ip link show uvif-u | grep -q 'qdisc noop '"); }));
        set_neighbour("retrans_time_ms", 20000);  // nothing is given up unless a test wants it
        const auto config = parse_vxlan_config(
            "vni=42,local=10.9.0.1,fdb=02:00:00:00:00:07@10.9.0.2,fdb=02:00:00:00:00:08@10.9.0.9,"
            "fdb=02:00:00:00:00:09@127.0.0.2");
        ASSERT_TRUE(config) << config.error().message;
        auto endpoint = VxlanEndpoint::open(*config, {});
        ASSERT_TRUE(endpoint) << endpoint.error().message;
        endpoint_ = std::move(*endpoint);
        auto port = endpoint_->queue(0);
        ASSERT_TRUE(port) << port.error().message;
        port_ = std::move(*port);
    }

    void TearDown() override {
        port_.reset();
        endpoint_.reset();
        run("ip link del uvif-u");
    }

    static void set_neighbour(const char* name, int value) {
        std::ofstream(std::string("/proc/sys/net/ipv4/neigh/uvif-u/") + name) << value;
    }

    static Octets frame(const Mac& to, unsigned mark, std::size_t length) {
        Octets octets = ethernet(type_experimental) + Octets(length, static_cast<std::byte>(mark));
        std::memcpy(octets.data(), to.data(), to.size());
        return octets;
    }

    /// Frames that are one message; all of them filled with `mark`.
    void submit(const Mac& to, unsigned mark = 0, std::size_t length = 1400) {
        std::vector<Packet*> batch;
        for (unsigned i = 0; i < burst; ++i) {
            batch.push_back(packets_.make(frame(to, mark, length)));
        }
        port_->submit(batch);
        EXPECT_EQ(packets_.completed().size(), burst) << "nobody waits for the kernel";
        EXPECT_TRUE(port_->writable());
    }

    /// Hears all that the kernel says until it has been silent for so long.
    void settle(int silence_ms = 0) {
        pollfd entry{port_->fd(), 0, 0};
        while (::poll(&entry, 1, silence_ms) == 1 && (entry.revents & POLLERR) != 0) {
            ASSERT_TRUE(port_->survives_error());
        }
    }

    /// Waits until the kernel has been done with so many messages without having copied them.
    bool sees_sent(std::uint64_t count) {
        for (const std::int64_t deadline = monotonic_ns() + 20 * ns_per_s; counters().zerocopy_sent < count;) {
            if (monotonic_ns() > deadline) {
                return false;
            }
            settle(20);
        }
        return true;
    }

    static std::uint64_t sent_by_device() {
        std::ifstream file("/proc/thread-self/net/dev");
        for (std::string word; file >> word;) {
            if (word == "uvif-u:") {
                std::uint64_t octets = 0;
                for (int column = 0; column < 9; ++column) {
                    file >> octets;
                }
                return octets;
            }
        }
        return 0;
    }

    [[nodiscard]] const PortCounters& counters() const { return port_->counters(); }

    Packets packets_;
    std::unique_ptr<VxlanEndpoint> endpoint_;
    std::unique_ptr<Port> port_;
};

TEST_F(VxlanZerocopyTest, CountsWhatLeavesByADevice) {
    const DropAll drop("uvif-v");
    if (!drop) {
        GTEST_SKIP() << "this kernel cannot drop what a device receives before it is looked at (TCX)";
    }
    for (int i = 0; i < 100; ++i) {
        submit(near);
    }
    settle();
    EXPECT_EQ(counters().zerocopy_sent, 100U);
    EXPECT_EQ(counters().zerocopy_copied, 0U);
    EXPECT_EQ(counters().submit_dropped, 0U);
    EXPECT_GT(sent_by_device(), 100U * burst * 1400U);
}

TEST_F(VxlanZerocopyTest, CopiesWhatIsShort) {
    const DropAll drop("uvif-v");
    for (const std::size_t length : {60U, 1000U}) {
        submit(near, 0, length);
    }
    settle();
    EXPECT_EQ(counters().zerocopy_sent + counters().zerocopy_copied, 0U);
}

/// Nobody but this host is there: the kernel copies, says so, and is not asked again so soon.
TEST_F(VxlanZerocopyTest, PausesWhereTheKernelCopies) {
    for (int i = 0; i < 20; ++i) {
        submit(here);
        settle();
    }
    EXPECT_EQ(counters().zerocopy_copied, 1U);
    EXPECT_EQ(counters().zerocopy_sent, 0U);
    EXPECT_EQ(counters().submit_dropped, 0U);
}

TEST_F(VxlanZerocopyTest, FallsBackWithoutOffloads) {
    if (!run("ethtool -K uvif-u tx off")) {
        GTEST_SKIP() << "ethtool is missing";
    }
    const std::uint64_t before = sent_by_device();
    for (int i = 0; i < 5; ++i) {
        submit(near);
    }
    settle();
    EXPECT_EQ(counters().zerocopy_sent, 0U);
    EXPECT_EQ(counters().submit_dropped, 0U);
    EXPECT_GT(sent_by_device() - before, 5U * burst * 1400U) << "one by one";
}

TEST_F(VxlanZerocopyTest, SaysWhatIsTooLong) {
    submit(near, 0, 1450);
    EXPECT_EQ(counters().submit_dropped, 0U);
    submit(near, 0, 1451);
    settle();
    EXPECT_EQ(counters().dropped_too_long, burst);
    submit(near);
    EXPECT_EQ(counters().submit_dropped, burst);
}

/// What is parked in the kernel is not written over, though much else is sent meanwhile.
TEST_F(VxlanZerocopyTest, KeepsWhatTheKernelStillReads) {
    submit(lost, 1);
    for (unsigned i = 0; i < 50; ++i) {
        submit(near, 2);
        submit(here, 3);
    }
    HostSide far("uvif-v");
    ASSERT_TRUE(run("ip neigh replace 10.9.0.9 lladdr 02:00:00:00:00:fe dev uvif-u nud permanent"));
    constexpr std::size_t front = 14 + 20 + 8;
    for (unsigned found = 0; found < burst;) {
        const auto got = far.receive();
        ASSERT_TRUE(got) << found;
        const Octets& octets = got->second;
        const Octets expected = octets_of(*packets_.make(frame(lost, 1, 1400)));
        for (std::size_t at = front; at + 8 + expected.size() <= octets.size(); at += 8 + expected.size(), ++found) {
            ASSERT_TRUE(
                std::equal(expected.begin(), expected.end(), octets.begin() + static_cast<std::ptrdiff_t>(at) + 8))
                << found;
        }
    }
}

/// Nothing calls back what waits for an answer to ARP: it holds some buffers, others get along with the rest.
TEST_F(VxlanZerocopyTest, HoldsLittleForWhoDoesNotAnswer) {
    const DropAll drop("uvif-v");
    if (!drop) {
        GTEST_SKIP() << "this kernel cannot drop what a device receives before it is looked at (TCX)";
    }
    set_neighbour("retrans_time_ms", 100);
    set_neighbour("unres_qlen_bytes", 10 << 20);  // or it would soon drop the oldest
    for (int i = 0; i < 10; ++i) {
        submit(lost);
    }
    settle();
    EXPECT_EQ(counters().zerocopy_sent, 0U);
    submit(near);
    settle();
    EXPECT_EQ(counters().zerocopy_sent, 1U) << "there is room for others";
    EXPECT_TRUE(sees_sent(1U + limits::vxlan_lent_messages)) << "it is given up, and they with it";
    settle(100);
    EXPECT_EQ(counters().zerocopy_sent, 1U + limits::vxlan_lent_messages) << "the others of the ten were copied";
    for (int i = 0; i < 20; ++i) {
        submit(near);
    }
    settle();
    EXPECT_EQ(counters().zerocopy_sent, 21U + limits::vxlan_lent_messages) << "all buffers are back";
}

/// Seconds are the caller's, so that nobody has to wait for them.
TEST_F(VxlanZerocopyTest, TriesAgainAfterAPause) {
    const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const UnderlayAddress at = *parse_underlay_address("127.0.0.2");
    const SocketAddress to(at, 4789);
    constexpr std::size_t octets = 60000;
    constexpr std::uint32_t now_s = 1000;
    auto buffers = VxlanBuffers::create();
    ASSERT_TRUE(buffers) << buffers.error().message;
    buffers->attach(socket.get());
    PortCounters counted;
    ASSERT_TRUE(buffers->lends(at, now_s, counted));
    std::byte* const first = buffers->current();
    ASSERT_EQ(::sendto(socket.get(), first, octets, MSG_ZEROCOPY, to.get(), to.length), static_cast<ssize_t>(octets));
    buffers->lent(at, {});
    buffers->advance();
    EXPECT_NE(buffers->current(), first);
    pollfd entry{socket.get(), 0, 0};
    ASSERT_EQ(::poll(&entry, 1, 10000), 1);
    buffers->settle(now_s, false, counted);
    EXPECT_EQ(buffers->outstanding(), 0U);
    EXPECT_EQ(counted.zerocopy_copied, 1U);
    EXPECT_FALSE(buffers->lends(at, now_s, counted));
    EXPECT_FALSE(buffers->lends(at, now_s + limits::vxlan_lent_pause_s - 1, counted));
    EXPECT_TRUE(buffers->lends(at, now_s + limits::vxlan_lent_pause_s, counted));
    EXPECT_TRUE(buffers->lends(*parse_underlay_address("127.0.0.3"), now_s, counted)) << "others are not concerned";
}

/// The kernel numbers messages, also some of those that it refuses.
TEST_F(VxlanZerocopyTest, NumbersAsTheKernelDoes) {
    const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const UnderlayAddress at = *parse_underlay_address("10.9.0.2");
    const SocketAddress to(at, 4789);
    const auto send = [&](std::byte* data, int each) {
        EXPECT_EQ(::setsockopt(socket.get(), SOL_UDP, UDP_SEGMENT, &each, sizeof each), 0);
        return ::sendto(socket.get(), data, 60000, MSG_ZEROCOPY, to.get(), to.length);
    };
    auto buffers = VxlanBuffers::create();
    ASSERT_TRUE(buffers) << buffers.error().message;
    buffers->attach(socket.get());
    PortCounters counted;
    std::uint32_t now_s = 100;
    for (int i = 0; i < 3; ++i, now_s += limits::vxlan_lent_pause_s) {
        ASSERT_TRUE(buffers->lends(at, now_s, counted));
        ASSERT_EQ(send(buffers->current(), 1400), 60000);
        buffers->lent(at, {});
        buffers->advance();
        ASSERT_TRUE(buffers->lends(at, now_s, counted));
        ASSERT_EQ(send(buffers->current(), 1480), -1) << "longer than the MTU";
        buffers->refused(at, now_s, counted);
        EXPECT_FALSE(buffers->lends(at, now_s, counted));
    }
    for (pollfd entry{socket.get(), 0, 0}; buffers->outstanding() != 0 && ::poll(&entry, 1, 10000) == 1;) {
        buffers->settle(now_s, false, counted);
    }
    EXPECT_EQ(buffers->outstanding(), 0U);
    EXPECT_EQ(counted.zerocopy_sent + counted.zerocopy_copied, 3U);
}

/// Pages of a process without privileges count against RLIMIT_MEMLOCK.
TEST_F(VxlanZerocopyTest, FallsBackWhenNothingMayBePinned) {
    __user_cap_header_struct self{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    std::array<__user_cap_data_struct, 2> all{};
    rlimit before{};
    ASSERT_EQ(::syscall(SYS_capget, &self, all.data()), 0);
    ASSERT_EQ(::getrlimit(RLIMIT_MEMLOCK, &before), 0);
    auto fewer = all;
    fewer[0].effective &= ~(1U << CAP_IPC_LOCK);
    const rlimit little{.rlim_cur = 0, .rlim_max = before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_MEMLOCK, &little), 0);
    ASSERT_EQ(::syscall(SYS_capset, &self, fewer.data()), 0);
    for (int i = 0; i < 5; ++i) {
        submit(near);
    }
    settle();
    ASSERT_EQ(::syscall(SYS_capset, &self, all.data()), 0);
    ASSERT_EQ(::setrlimit(RLIMIT_MEMLOCK, &before), 0);
    EXPECT_EQ(counters().zerocopy_sent + counters().zerocopy_copied, 0U);
    EXPECT_EQ(counters().submit_dropped, 0U);
    EXPECT_GT(sent_by_device(), 5U * burst * 1400U);
}

/// A port that goes leaves nothing behind that it would have to wait for.
TEST_F(VxlanZerocopyTest, GoesWhileTheKernelReads) {
    submit(lost);
    const std::int64_t begun = monotonic_ns();
    port_.reset();
    EXPECT_LT(monotonic_ns() - begun, ns_per_s / 10);
}

/// Of long datagrams the kernel sends the payload from where it is.
class VxlanPagesTest : public VxlanZerocopyTest {
protected:
    static constexpr std::size_t page = 4096;
    static constexpr std::size_t head = limits::header_octets;
    static constexpr std::size_t frame_octets = 9000;

    void SetUp() override {
        VxlanZerocopyTest::SetUp();
        if (IsSkipped()) {
            return;
        }
        ASSERT_TRUE(run("ip link set uvif-u mtu 9100 && ip link set uvif-v mtu 9100"));
        set_neighbour("unres_qlen_bytes", 10 << 20);
        port_.reset();
        auto port = endpoint_->queue(0, true);
        ASSERT_TRUE(port) << port.error().message;
        port_ = std::move(*port);
        ASSERT_EQ(port_->pins_from(), page);
    }

    /// As netback hands it over: a header that was copied apart, and pieces in pages of their own.
    Packet* mapped(const Octets& octets, const Offload& offload = {}, std::size_t piece = page) {
        std::vector<std::size_t> cuts{head};
        for (std::size_t at = head + piece; at < octets.size(); at += piece) {
            cuts.push_back(at);
        }
        Packet* packet = packets_.make(octets, offload, cuts);
        for (Fragment& part : std::span(packet->fragments).subspan(1, packet->fragment_count - 1U)) {
            std::byte* const own = pages_.emplace_back(std::make_unique<Page>())->data();
            part.data = std::copy_n(part.data, part.length, own) - part.length;
        }
        return packet;
    }

    std::vector<Packet*> send(const Mac& to, unsigned count, std::size_t octets = frame_octets,
                              std::size_t piece = page) {
        std::vector<Packet*> batch;
        for (unsigned i = 0; i < count; ++i) {
            batch.push_back(mapped(frame(to, i, octets - 14), {}, piece));
        }
        port_->submit(batch);
        return batch;
    }

    /// So many packets are home in the end, each once.
    void expect_home(std::size_t count) {
        for (const std::int64_t deadline = monotonic_ns() + 20 * ns_per_s;;) {
            const auto ids = packets_.completed();
            home_ += ids.size();
            EXPECT_EQ(std::set(ids.begin(), ids.end()).size(), ids.size());
            if (home_ >= count || monotonic_ns() > deadline) {
                break;
            }
            settle(20);
        }
        EXPECT_EQ(home_, count);
    }

    struct alignas(page) Page : std::array<std::byte, page> {};
    std::deque<std::unique_ptr<Page>> pages_;
    std::size_t home_ = 0;
};

TEST_F(VxlanPagesTest, LeavesFromWhereTheyAre) {
    const DropAll drop("uvif-v");
    if (!drop) {
        GTEST_SKIP() << "this kernel cannot drop what a device receives before it is looked at (TCX)";
    }
    for (unsigned sent = 8; sent <= 40; sent += 8) {
        const auto batch = send(near, 8);
        expect_home(sent);
        EXPECT_TRUE(std::ranges::none_of(batch, &Packet::copied));
    }
    EXPECT_EQ(counters().zerocopy_sent, 10U) << "four of them, of four pieces each, share a message";
    EXPECT_EQ(counters().zerocopy_copied + counters().submit_dropped, 0U);
    EXPECT_GT(sent_by_device(), 40 * frame_octets);
}

TEST_F(VxlanPagesTest, CopiesWhatIsShortOrForManyOrInManyPieces) {
    const DropAll drop("uvif-v");
    for (const Packet* packet : send(near, 8, page - 1)) {
        EXPECT_TRUE(packet->copied);
    }
    for (const Packet* packet : send(near, 4, frame_octets, 500)) {
        EXPECT_TRUE(packet->copied);
    }
    expect_home(12);
    const auto whole = packets_.make(frame(near, 1, frame_octets));
    port_->submit(std::span(&whole, 1));
    EXPECT_TRUE(whole->copied) << "it is no guest's page";
    expect_home(13);
    const auto unknown = send({2, 0, 0, 0, 0, 99}, 1);
    expect_home(14);
    EXPECT_EQ(counters().dropped_refused, 1U) << "there is no remote";
    EXPECT_EQ(counters().zerocopy_sent, 0U);
}

/// What arrives is what was in the pages, behind headers that are right; a run of copies goes before it.
TEST_F(VxlanPagesTest, ArriveWholeAndInOrder) {
    HostSide far("uvif-v");
    ASSERT_TRUE(run("ethtool -K uvif-u tx-udp-segmentation off"));
    constexpr unsigned octets = 60000;  // seven segments, two messages
    Octets segments = ethernet(type_ipv4) + ipv4(protocol_tcp, 20 + octets) + tcp() + payload(octets);
    std::memcpy(segments.data(), near.data(), near.size());
    std::vector<Packet*> batch{packets_.make(frame(near, 1, 1000)), mapped(frame(near, 2, 8000)),
                               mapped(segments, {.checksum_blank = true, .gso_type = GsoType::tcpv4, .gso_size = 8900}),
                               packets_.make(frame(near, 3, 1000)), mapped(frame(near, 4, 8000))};
    port_->submit(batch);
    std::vector<Octets> arrived;
    while (arrived.size() < 11) {
        auto got = far.receive();
        ASSERT_TRUE(got) << arrived.size();
        arrived.emplace_back(got->second.begin() + 14 + 20 + 8 + 8, got->second.end());
    }
    EXPECT_EQ(arrived[0], octets_of(*batch[0]));
    EXPECT_EQ(arrived[1], octets_of(*batch[1]));
    EXPECT_EQ(arrived[9], octets_of(*batch[3]));
    EXPECT_EQ(arrived[10], octets_of(*batch[4]));
    Octets joined;
    for (std::size_t i = 2; i < 9; ++i) {
        const Headers headers = parse_headers(arrived[i]);
        ASSERT_TRUE(headers.is_tcp());
        const Fragment piece{arrived[i].data(), static_cast<std::uint32_t>(arrived[i].size())};
        const auto pseudo = pseudo_header_sum(arrived[i], headers, piece.length);
        const auto whole = checksum_sum(std::span(arrived[i]).subspan(headers.l4_offset));
        EXPECT_EQ(checksum_add(pseudo, whole), 0xffff) << "segment " << i - 2;
        joined.insert(joined.end(), arrived[i].begin() + 54, arrived[i].end());
    }
    EXPECT_EQ(joined, Octets(segments.begin() + 54, segments.end()));
    settle();
    expect_home(5);
}

/// Nothing calls them back: a few messages for who does not answer ARP, and the rest is copied, for others too only
/// when there is no room.
TEST_F(VxlanPagesTest, HoldLittleForWhoDoesNotAnswer) {
    const DropAll drop("uvif-v");
    if (!drop) {
        GTEST_SKIP() << "this kernel cannot drop what a device receives before it is looked at (TCX)";
    }
    set_neighbour("retrans_time_ms", 100);
    const auto parked = send(lost, 40);
    settle();
    constexpr std::size_t held = 4 * std::size_t{limits::vxlan_lent_messages};
    expect_home(40 - held);
    EXPECT_TRUE(std::all_of(parked.begin() + held, parked.end(), [](const Packet* packet) { return packet->copied; }));
    EXPECT_TRUE(port_->writable());
    const auto others = send(near, 8);
    expect_home(40 - held + 8);
    EXPECT_TRUE(std::ranges::none_of(others, &Packet::copied));
    port_->flush(true);
    expect_home(48 - held);
    EXPECT_TRUE(sees_sent(2 + limits::vxlan_lent_messages));
    expect_home(48);
    EXPECT_FALSE(parked.front()->copied);
}

/// The kernel copies for who is on this host, and says so.
TEST_F(VxlanPagesTest, PauseWhereTheKernelCopies) {
    ASSERT_TRUE(run("ip link set lo mtu 65535"));
    for (unsigned i = 0; i < 20; ++i) {
        const auto batch = send(here, 4);
        expect_home(4 * (i + 1));
        EXPECT_TRUE(std::ranges::all_of(batch, &Packet::copied));
    }
    EXPECT_EQ(counters().zerocopy_copied, 1U);
    EXPECT_EQ(counters().submit_dropped, 0U);
}

TEST_F(VxlanPagesTest, FallBackWhereAMessageIsRefused) {
    const std::uint64_t before = sent_by_device();
    (void)send(near, 8, 9070);
    expect_home(8);
    EXPECT_EQ(counters().dropped_too_long, 8U);
    ASSERT_TRUE(run("ethtool -K uvif-u tx off"));
    (void)send(near, 8);
    expect_home(16);
    EXPECT_EQ(counters().submit_dropped, 8U);
    EXPECT_GT(sent_by_device() - before, 8 * frame_octets) << "one by one";
}

/// What waits for room is its owner's, what the kernel has is not, and nobody hears of it when the port is gone.
TEST_F(VxlanPagesTest, GoWithThePort) {
    (void)send(lost, 8);
    expect_home(0);
    port_.reset();
    expect_home(0);
}

}  // namespace
}  // namespace uvif
