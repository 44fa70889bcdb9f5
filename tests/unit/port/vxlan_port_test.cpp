// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <map>
#include <set>

#include "packet/checksum.hpp"
#include "port/vxlan_endpoint.hpp"
#include "port/vxlan_header.hpp"
#include "support/process.hpp"
#include "unit/port/network.hpp"
#include "unit/port/packets.hpp"

namespace uvif {
namespace {

using namespace frames;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr std::uint32_t vni = 42;
constexpr Offload blank{.checksum_blank = true, .data_validated = true};
constexpr Offload segments{
    .checksum_blank = true, .data_validated = true, .gso_type = GsoType::tcpv4, .gso_size = 1000};

const Octets datagram = ethernet(type_ipv4) + ipv4(17, 308) + udp(300) + payload(300);
const Octets super_packet = ethernet(type_ipv4) + ipv4(6, 5520) + tcp(5) + payload(5500);

Octets plain(std::size_t length = 100) {
    return ethernet(type_experimental) + payload(length);
}

Octets between(const Mac& to, const Mac& from, std::size_t length = 100) {
    Octets frame = plain(length);
    std::memcpy(frame.data(), to.data(), to.size());
    std::memcpy(frame.data() + to.size(), from.data(), from.size());
    return frame;
}

Octets encapsulated(const Octets& frame, unsigned flags = 0x08, std::uint32_t network = vni) {
    return octets({flags, 0, 0, 0}) + be16(network >> 8) + octets({network & 0xff, 0}) + frame;
}

/// The checksum field says what a receiver expects.
bool checksum_is_right(const Octets& frame) {
    const Headers headers = parse_headers(frame);
    Octets anew = frame;
    store_be16(anew, headers.checksum_offset(),
               pseudo_header_sum(anew, headers, static_cast<std::uint32_t>(anew.size())));
    const Fragment piece{anew.data(), static_cast<std::uint32_t>(anew.size())};
    return load_be16(frame, headers.checksum_offset()) == completed_checksum(std::span(&piece, 1), headers);
}

/// A remote endpoint that looks at what it gets.
class Remote {
public:
    explicit Remote(const char* address, std::uint16_t port = 4789)
        : at_(*parse_underlay_address(address)),
          socket_(::socket(at_.is_ipv4() ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
        int octets = 8 << 20;
        ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &octets, sizeof octets);
        const SocketAddress to(at_, port);
        EXPECT_EQ(::bind(socket_.get(), to.get(), to.length), 0) << std::strerror(errno);
    }

    /// The next datagram, within a time that no healthy machine needs.
    std::optional<Octets> receive(int wait_ms = 10000) {
        pollfd entry{socket_.get(), POLLIN, 0};
        if (::poll(&entry, 1, wait_ms) != 1) {
            return std::nullopt;
        }
        Octets octets(65536);
        sockaddr_in from{};
        socklen_t length = sizeof from;
        const ssize_t got =
            ::recvfrom(socket_.get(), octets.data(), octets.size(), 0, reinterpret_cast<sockaddr*>(&from), &length);
        from_port_ = ntohs(from.sin_port);
        octets.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
        return octets;
    }

    /// The frame of the next one.
    std::optional<Octets> frame() {
        auto octets = receive();
        if (!octets || vxlan_header::read_vni(*octets) != vni) {
            return std::nullopt;
        }
        octets->erase(octets->begin(), octets->begin() + vxlan_header::length);
        return octets;
    }

    bool send(const char* to, const Octets& octets, std::uint16_t port = 4789) {
        const SocketAddress address(*parse_underlay_address(to), port);
        return ::sendto(socket_.get(), octets.data(), octets.size(), 0, address.get(), address.length) ==
               static_cast<ssize_t>(octets.size());
    }

    [[nodiscard]] bool empty() { return !receive(0); }
    [[nodiscard]] std::uint16_t from_port() const { return from_port_; }

private:
    UnderlayAddress at_;
    UniqueFd socket_;
    std::uint16_t from_port_ = 0;
};

class VxlanPortTest : public NetworkTest {
protected:
    void SetUp() override {
        NetworkTest::SetUp();
        if (!IsSkipped()) {
            ASSERT_TRUE(run("ip link set lo up mtu 65536"));
            open("vni=42,local=127.0.0.1,remote=127.0.0.2");
        }
    }

    void open(const std::string& text, const GsoFeatures& gso = {}) {
        port_.reset();
        endpoint_.reset();
        const auto config = parse_vxlan_config(text);
        ASSERT_TRUE(config) << config.error().message;
        config_ = *config;
        auto endpoint = VxlanEndpoint::open(*config, gso);
        ASSERT_TRUE(endpoint) << endpoint.error().message;
        endpoint_ = std::move(*endpoint);
        port_ = queue(0);
    }

    std::unique_ptr<Port> queue(unsigned index) {
        auto port = endpoint_->queue(index);
        EXPECT_TRUE(port) << port.error().message;
        return port ? std::move(*port) : nullptr;
    }

    void submit(const std::vector<Packet*>& packets) { port_->submit(packets); }

    Packet* receive_one() {
        for (const std::int64_t deadline = monotonic_ns() + 10 * ns_per_s; monotonic_ns() < deadline;) {
            Packet* packet = packets_.room();
            if (port_->receive(std::span(&packet, 1)) == 1) {
                return packet;
            }
        }
        return nullptr;
    }

    /// Reads until the port has counted so many strangers' datagrams.
    bool sees_dropped(std::uint64_t count) {
        for (const std::int64_t deadline = monotonic_ns() + 10 * ns_per_s; monotonic_ns() < deadline;) {
            EXPECT_EQ(port_->receive(packets_.rooms(4)), 0U);
            if (port_->counters().receive_dropped >= count) {
                return true;
            }
        }
        return false;
    }

    Packets packets_;
    std::optional<VxlanConfig> config_;
    std::unique_ptr<VxlanEndpoint> endpoint_;
    std::unique_ptr<Port> port_;
};

TEST_F(VxlanPortTest, SendsFramesBehindAHeader) {
    Remote remote("127.0.0.2");
    Packet* packet = packets_.make(plain());
    submit({packet});
    EXPECT_THAT(packets_.completed(), ElementsAre(0));
    EXPECT_TRUE(packet->copied);
    EXPECT_EQ(remote.receive(), octets({8, 0, 0, 0, 0, 0, 42, 0}) + plain());
    EXPECT_TRUE(port_->writable());
    EXPECT_EQ(port_->counters().submitted, 1U);
    EXPECT_EQ(port_->counters().submit_dropped, 0U);
}

TEST_F(VxlanPortTest, SendsEqualFramesTogether) {
    Remote remote("127.0.0.2");
    std::vector<Packet*> batch;
    std::vector<Octets> expected;
    // Runs of 64, 36 and one shorter, then one that is longer than these, and one of another length again.
    for (unsigned i = 0; i < 103; ++i) {
        expected.push_back(ethernet(type_experimental) + be16(i) + payload(i == 100 ? 60 : i > 100 ? 100 + i : 80));
        batch.push_back(packets_.make(expected.back(), {}, {14, 20, 33}));
    }
    submit(batch);
    EXPECT_EQ(packets_.completed().size(), batch.size());
    for (const Octets& frame : expected) {
        ASSERT_EQ(remote.frame(), frame);
    }
    EXPECT_EQ(port_->counters().system_calls, 1U);
}

TEST_F(VxlanPortTest, SendsMoreThanItHasRoomForAtOnce) {
    Remote remote("127.0.0.2");
    std::vector<Packet*> batch;
    for (unsigned i = 0; i < 40; ++i) {
        batch.push_back(packets_.make(ethernet(type_experimental) + be16(i) + payload(30000)));
    }
    submit(batch);
    EXPECT_EQ(packets_.completed().size(), batch.size());
    for (unsigned i = 0; i < batch.size(); ++i) {
        const auto frame = remote.frame();
        ASSERT_TRUE(frame) << i;
        ASSERT_EQ(*frame, octets_of(*batch[i])) << i;
    }
    EXPECT_EQ(port_->counters().submit_dropped, 0U);
}

TEST_F(VxlanPortTest, CompletesBlankChecksumsInACopy) {
    Remote remote("127.0.0.2");
    // A mapped page of a guest is read-only: writing to it would end this process.
    auto* page =
        static_cast<std::byte*>(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    Octets frame = datagram;
    store_be16(frame, 40, pseudo_header_sum(frame, parse_headers(frame), static_cast<std::uint32_t>(frame.size())));
    std::copy(frame.begin(), frame.end(), page);
    ASSERT_EQ(::mprotect(page, 4096, PROT_READ), 0);
    for (const std::uint32_t first : {20U, 50U, 129U, 342U}) {
        Packet* packet = packets_.make(frame, blank);
        packet->fragments[0] = {page, first};
        packet->fragments[1] = {page + first, static_cast<std::uint32_t>(frame.size()) - first};
        packet->fragment_count = 2;
        submit({packet});
        const auto got = remote.frame();
        ASSERT_TRUE(got);
        EXPECT_TRUE(checksum_is_right(*got));
        Octets rest = *got;
        std::copy(frame.begin() + 40, frame.begin() + 42, rest.begin() + 40);
        EXPECT_EQ(rest, frame) << "nothing else changed";
    }
    ::munmap(page, 4096);
    submit({packets_.make(datagram)});
    EXPECT_EQ(remote.frame(), datagram) << "what is no blank checksum is not touched";
}

TEST_F(VxlanPortTest, CutsSegments) {
    Remote remote("127.0.0.2");
    for (const bool has_blank : {true, false}) {
        Offload offload = segments;
        offload.checksum_blank = has_blank;
        const std::uint64_t calls = port_->counters().system_calls;
        submit({packets_.make(super_packet, offload, {128, 4000})});
        Octets all;
        for (unsigned i = 0; i < 6; ++i) {
            const auto segment = remote.frame();
            ASSERT_TRUE(segment);
            EXPECT_EQ(segment->size(), i < 5 ? 1054U : 554U);
            EXPECT_TRUE(checksum_is_right(*segment)) << i;
            all.insert(all.end(), segment->begin() + 54, segment->end());
        }
        EXPECT_EQ(all, payload(5500));
        EXPECT_EQ(port_->counters().system_calls, calls + 1) << "as one run";
    }
    EXPECT_EQ(packets_.completed().size(), 2U);
    EXPECT_EQ(port_->counters().gso_fixups, 1U);
}

TEST_F(VxlanPortTest, CutsTheLargestIntoTheSmallest) {
    Remote remote("127.0.0.2");
    Offload offload = segments;
    offload.gso_size = 64;
    submit({packets_.make(plain()),
            packets_.make(ethernet(type_ipv4) + ipv4(6, 65501) + tcp(5) + payload(65481), offload),
            packets_.make(plain())});
    EXPECT_EQ(remote.frame(), plain());
    Octets all;
    for (unsigned i = 0; i < 1024; ++i) {
        const auto segment = remote.frame();
        ASSERT_TRUE(segment);
        all.insert(all.end(), segment->begin() + 54, segment->end());
    }
    EXPECT_EQ(all, payload(65481));
    EXPECT_EQ(remote.frame(), plain());
    EXPECT_EQ(port_->counters().submit_dropped, 0U);
}

TEST_F(VxlanPortTest, DropsWhatDoesNotFitItsMetadata) {
    Remote remote("127.0.0.2");
    submit({packets_.make(plain(), blank), packets_.make(datagram, segments), packets_.make(octets({1, 2, 3})),
            packets_.make(plain())});
    EXPECT_THAT(packets_.completed(), ElementsAre(0, 1, 2, 3));
    EXPECT_EQ(port_->counters().submit_dropped, 3U);
    EXPECT_EQ(port_->counters().dropped_metadata, 2U);
    EXPECT_EQ(port_->counters().dropped_refused, 1U);
    EXPECT_EQ(remote.frame(), plain()) << "the good one of the batch passes";
}

TEST_F(VxlanPortTest, SendsWhatIsForManyToAll) {
    open("vni=42,local=127.0.0.1,remote=127.0.0.2,remote=127.0.0.3,fdb=02:00:00:00:00:07@127.0.0.4");
    Remote second("127.0.0.2");
    Remote third("127.0.0.3");
    Remote fourth("127.0.0.4");
    const Mac guest{2, 0, 0, 0, 0, 9};
    const Mac known{2, 0, 0, 0, 0, 7};
    const Octets frames[] = {between({0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, guest),
                             between({1, 0, 0x5e, 0, 0, 1}, guest), between({2, 0, 0, 0, 0, 3}, guest, 300)};
    for (const Octets& frame : frames) {
        submit({packets_.make(frame), packets_.make(between(known, guest))});
        EXPECT_EQ(second.frame(), frame);
        EXPECT_EQ(third.frame(), frame);
        EXPECT_EQ(fourth.frame(), between(known, guest));
    }
    EXPECT_TRUE(second.empty());
    EXPECT_TRUE(third.empty());
    EXPECT_TRUE(fourth.empty());
}

TEST_F(VxlanPortTest, LearnsWhereAddressesAre) {
    open("vni=42,local=127.0.0.1,remote=127.0.0.2,remote=127.0.0.3");
    const auto second_queue = queue(1);
    Remote second("127.0.0.2");
    Remote third("127.0.0.3");
    const Mac guest{2, 0, 0, 0, 0, 9};
    const Mac far{2, 0, 0, 0, 0, 7};
    ASSERT_TRUE(third.send("127.0.0.1", encapsulated(between(guest, far))));
    const Packet* packet = receive_one();
    ASSERT_NE(packet, nullptr);
    EXPECT_EQ(octets_of(*packet), between(guest, far));

    submit({packets_.make(between(far, guest))});
    EXPECT_EQ(third.frame(), between(far, guest));
    Packet* by_another = packets_.make(between(far, guest, 200));
    second_queue->submit(std::span(&by_another, 1));
    EXPECT_EQ(third.frame(), between(far, guest, 200));
    EXPECT_TRUE(second.empty()) << "only to where it is";

    ASSERT_TRUE(second.send("127.0.0.1", encapsulated(between(guest, far))));
    ASSERT_NE(receive_one(), nullptr);
    submit({packets_.make(between(far, guest))});
    EXPECT_EQ(second.frame(), between(far, guest)) << "it has moved";
    EXPECT_TRUE(third.empty());
}

TEST_F(VxlanPortTest, DropsWhatHasNowhereToGo) {
    open("vni=42,local=127.0.0.1,fdb=02:00:00:00:00:07@127.0.0.2");
    Remote remote("127.0.0.2");
    submit({packets_.make(plain()), packets_.make(super_packet, segments),
            packets_.make(between({2, 0, 0, 0, 0, 7}, {2, 0, 0, 0, 0, 9}))});
    EXPECT_EQ(packets_.completed().size(), 3U);
    EXPECT_EQ(port_->counters().dropped_refused, 2U);
    EXPECT_EQ(remote.frame(), between({2, 0, 0, 0, 0, 7}, {2, 0, 0, 0, 0, 9}));
}

/// One packet of the guest's, which becomes a thousand datagrams to each of eight endpoints.
TEST_F(VxlanPortTest, SendsNoMoreInATurnThanOthersCanWaitFor) {
    std::string text = "vni=42,local=127.0.0.1";
    std::vector<std::unique_ptr<Remote>> remotes;
    for (int i = 2; i < 10; ++i) {
        const std::string address = "127.0.0." + std::to_string(i);
        remotes.push_back(std::make_unique<Remote>(address.c_str()));
        text += ",remote=" + address;
    }
    open(text);
    Offload offload = segments;
    offload.gso_size = 10;
    submit({packets_.make(ethernet(type_ipv4) + ipv4(6, 10020) + tcp(5) + payload(10000), offload)});
    EXPECT_FALSE(port_->writable());
    const auto count = [&remotes] {
        unsigned datagrams = 0;
        for (const auto& remote : remotes) {
            while (remote->receive(0)) {
                ++datagrams;
            }
        }
        return datagrams;
    };
    unsigned sent = count();
    EXPECT_GT(sent, limits::vxlan_datagrams_per_turn / 2);
    EXPECT_LT(sent, limits::vxlan_datagrams_per_turn + 64);
    pollfd entry{port_->fd(), POLLOUT, 0};
    EXPECT_EQ(::poll(&entry, 1, 0), 1) << "who waits is called at once";
    for (int turns = 0; turns < 3 && !port_->writable(); ++turns) {
        port_->flush(false);
    }
    EXPECT_TRUE(port_->writable());
    EXPECT_EQ(sent + count(), 8000U);
    EXPECT_EQ(port_->counters().submit_dropped, 0U);
}

TEST_F(VxlanPortTest, HasASourcePortForEachQueue) {
    Remote remote("127.0.0.2");
    std::set<std::uint16_t> ports;
    for (unsigned index = 1; index < 4; ++index) {
        const auto other = queue(index);
        Packet* packet = packets_.make(plain());
        other->submit(std::span(&packet, 1));
        EXPECT_EQ(remote.frame(), plain());
        ports.insert(remote.from_port());

        // And nobody can make it readable: nothing would ever be read from it.
        EXPECT_TRUE(remote.send("127.0.0.1", encapsulated(plain()), remote.from_port()));
        pollfd entry{other->fd(), POLLIN, 0};
        EXPECT_EQ(::poll(&entry, 1, 20), 0);
        EXPECT_EQ(other->receive(packets_.rooms(2)), 0U);
    }
    EXPECT_FALSE(ports.contains(4789));
}

TEST_F(VxlanPortTest, ReceivesInOrderWhatWasSentTogether) {
    Remote remote("127.0.0.2");
    auto sender = VxlanEndpoint::open(*parse_vxlan_config("vni=42,local=127.0.0.3,remote=127.0.0.1"), {});
    ASSERT_TRUE(sender) << sender.error().message;
    auto sends = (*sender)->queue(0);
    ASSERT_TRUE(sends);
    std::vector<Packet*> batch;
    for (unsigned i = 0; i < 200; ++i) {
        batch.push_back(packets_.make(ethernet(type_experimental) + be16(i) + payload(500 + i / 100)));
    }
    (*sends)->submit(batch);
    // Few rooms a call, so that messages are cut across calls.
    std::vector<Packet*> got;
    for (const std::int64_t deadline = monotonic_ns() + 10 * ns_per_s;
         got.size() < batch.size() && monotonic_ns() < deadline;) {
        const auto rooms = packets_.rooms(7);
        const std::size_t count = port_->receive(rooms);
        got.insert(got.end(), rooms.begin(), rooms.begin() + static_cast<std::ptrdiff_t>(count));
    }
    ASSERT_EQ(got.size(), batch.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
        ASSERT_EQ(octets_of(*got[i]), octets_of(*batch[i])) << i;
        EXPECT_EQ(got[i]->length, got[i]->fragments[0].length);
        EXPECT_EQ(got[i]->offload, Offload{});
    }
    EXPECT_EQ(port_->counters().received, 200U);
    EXPECT_LT(port_->counters().system_calls, 60U) << "no system call for each";
    EXPECT_EQ(port_->receive(packets_.rooms(7)), 0U);
}

/// From another endpoint of ours, over the loopback device: datagrams come as they were gathered, and cut again.
/// One room is enough for what belongs together.
TEST_F(VxlanPortTest, JoinsTcpForAGuestThatTakesIt) {
    auto sender = VxlanEndpoint::open(*parse_vxlan_config("vni=42,local=127.0.0.3,remote=127.0.0.1"), {});
    ASSERT_TRUE(sender) << sender.error().message;
    auto sends = (*sender)->queue(0);
    ASSERT_TRUE(sends);
    Offload segments_v6 = segments;
    segments_v6.gso_type = GsoType::tcpv6;
    const Octets super_v6 = ethernet(type_ipv6) + ipv6(6, 5520) + tcp(5) + payload(5500);
    constexpr GsoFeatures both{.tcpv4 = true, .tcpv6 = true};
    const std::pair<GsoFeatures, std::size_t> cases[] = {
        {{}, 7}, {{.tcpv4 = true}, 7}, {{.tcpv6 = true}, 7}, {both, 7}, {both, 1}};
    for (const auto& [taken, rooms_a_call] : cases) {
        open("vni=42,local=127.0.0.1,remote=127.0.0.2", taken);
        (*sends)->submit(std::array{packets_.make(plain()), packets_.make(super_packet, segments),
                                    packets_.make(super_v6, segments_v6), packets_.make(plain())});
        std::vector<Packet*> got;
        for (const std::int64_t deadline = monotonic_ns() + 10 * ns_per_s;
             (got.size() < 4 || octets_of(*got.back()) != plain()) && monotonic_ns() < deadline;) {
            const auto rooms = packets_.rooms(rooms_a_call);
            const std::size_t count = port_->receive(rooms);
            got.insert(got.end(), rooms.begin(), rooms.begin() + static_cast<std::ptrdiff_t>(count));
        }
        ASSERT_EQ(got.size(), 2U + (taken.tcpv4 ? 1 : 6) + (taken.tcpv6 ? 1 : 6));
        EXPECT_EQ(octets_of(*got[0]), plain());
        EXPECT_EQ(port_->counters().received, got.size());
        const auto expect_joined = [](const Packet& packet, const Offload& offload, std::size_t headers) {
            ASSERT_EQ(packet.length, headers + 5500);
            EXPECT_EQ(Octets(packet.fragments[0].data + headers, packet.fragments[0].data + packet.length),
                      payload(5500));
            EXPECT_EQ(packet.offload, offload);
        };
        if (taken.tcpv4) {
            expect_joined(*got[1], segments, 54);
        }
        if (taken.tcpv6) {
            expect_joined(*got[got.size() - 2], segments_v6, 74);
        }
    }
}

/// The rest is for the next turn; the descriptor stays readable.
TEST_F(VxlanPortTest, ReceivesNoMoreInATurnThanOthersCanWaitFor) {
    constexpr std::size_t count = 200;
    constexpr std::size_t at_most = limits::vxlan_received_octets_per_turn + 8 * std::size_t{65536};
    auto sender = VxlanEndpoint::open(*parse_vxlan_config("vni=42,local=127.0.0.3,remote=127.0.0.1"), {});
    ASSERT_TRUE(sender) << sender.error().message;
    auto sends = (*sender)->queue(0);
    ASSERT_TRUE(sends);
    std::vector<Packet*> batch(count);
    std::ranges::generate(batch, [this] { return packets_.make(plain(9000)); });
    (*sends)->submit(batch);
    std::size_t received = 0;
    for (pollfd entry{port_->fd(), POLLIN, 0}; received < count && ::poll(&entry, 1, 10000) == 1;) {
        const std::size_t got = port_->receive(packets_.rooms(count));
        EXPECT_LE(got * 9000, at_most);
        received += got;
    }
    EXPECT_EQ(received, count);
}

TEST_F(VxlanPortTest, DropsWhatIsNoFrameOfItsNetwork) {
    Remote remote("127.0.0.2");
    const Octets hostile[] = {
        {},
        octets({8}),
        octets({8, 0, 0, 0, 0, 0, 42}),
        encapsulated(plain(), 0x00),
        encapsulated(plain(), 0xf7),
        encapsulated(plain(), 0x08, 43),
        encapsulated(plain(), 0x08, 42U << 8),
        encapsulated(plain(), 0x08, 42U << 16),
    };
    for (const Octets& octets : hostile) {
        ASSERT_TRUE(remote.send("127.0.0.1", octets));
    }
    EXPECT_TRUE(sees_dropped(std::size(hostile)));
    EXPECT_EQ(port_->counters().receive_foreign, std::size(hostile));
    // Of its network, and no frame.
    ASSERT_TRUE(remote.send("127.0.0.1", encapsulated({})));
    ASSERT_TRUE(remote.send("127.0.0.1", encapsulated(payload(13))));
    EXPECT_TRUE(sees_dropped(std::size(hostile) + 2));
    EXPECT_EQ(port_->counters().receive_foreign, std::size(hostile));
    // What is reserved is ignored; and the shortest and longest there are.
    for (const auto& [frame, flags] : std::map<std::size_t, unsigned>{{14, 0xff}, {65499, 0x08}}) {
        ASSERT_TRUE(remote.send("127.0.0.1", encapsulated(payload(frame), flags)));
        const Packet* packet = receive_one();
        ASSERT_NE(packet, nullptr);
        EXPECT_EQ(octets_of(*packet), payload(frame));
    }
}

TEST_F(VxlanPortTest, CountsWhatTheUnderlayDoesNotCarry) {
    ASSERT_TRUE(run("ip link set lo mtu 1500"));
    EXPECT_EQ(vxlan_guest_mtu(*config_), 1450U);
    Remote remote("127.0.0.2");
    Offload offload = segments;
    offload.gso_size = 1411;
    submit({packets_.make(plain(1450)), packets_.make(plain(1451)), packets_.make(plain(1451)),
            packets_.make(plain(1000)), packets_.make(super_packet, offload)});
    EXPECT_EQ(packets_.completed().size(), 5U);
    EXPECT_EQ(remote.frame(), plain(1450));
    EXPECT_EQ(remote.frame(), plain(1000));
    EXPECT_EQ(port_->counters().dropped_too_long, 3U);
    EXPECT_EQ(port_->counters().submit_dropped, 3U);
    const auto rest = remote.frame();  // of the super packet, what fits
    ASSERT_TRUE(rest);
    EXPECT_EQ(rest->size(), 54U + 5500 - 3 * 1411);
    EXPECT_TRUE(remote.empty());
    offload.gso_size = 1410;
    submit({packets_.make(super_packet, offload)});
    EXPECT_EQ(remote.frame()->size(), 1464U);
}

/// Nobody listens there: the host says so (ICMP), which must not take the port out of its loop.
TEST_F(VxlanPortTest, GoesOnWhenARemoteIsNotThere) {
    for (int i = 0; i < 3; ++i) {
        submit({packets_.make(plain())});
        pollfd entry{port_->fd(), POLLIN | POLLOUT, 0};
        EXPECT_EQ(::poll(&entry, 1, 20), 1);
        EXPECT_EQ(entry.revents, POLLOUT);
    }
    Remote remote("127.0.0.2");
    submit({packets_.make(plain())});
    EXPECT_EQ(remote.frame(), plain());
    EXPECT_EQ(port_->counters().submit_dropped, 0U);
}

TEST_F(VxlanPortTest, CountsWhatHasNoRoute) {
    open("vni=42,local=127.0.0.1,remote=192.0.2.2");
    EXPECT_EQ(vxlan_guest_mtu(*config_), std::nullopt);
    submit({packets_.make(plain()), packets_.make(plain())});
    EXPECT_EQ(port_->counters().dropped_link_down, 2U);
    EXPECT_EQ(packets_.completed().size(), 2U);
    EXPECT_TRUE(port_->writable());
    EXPECT_FALSE(port_->failed());
}

TEST_F(VxlanPortTest, RefusesAPortThatIsTaken) {
    const auto config = *parse_vxlan_config("vni=43,local=127.0.0.1,remote=127.0.0.2");
    const auto second = VxlanEndpoint::open(config, {});
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code, EADDRINUSE);
    EXPECT_THAT(second.error().message, HasSubstr("another port="));
    port_.reset();
    endpoint_.reset();
    EXPECT_TRUE(VxlanEndpoint::open(config, {})) << "free again";
    const auto elsewhere = VxlanEndpoint::open(*parse_vxlan_config("vni=43,local=192.0.2.1,remote=127.0.0.2"), {});
    ASSERT_FALSE(elsewhere);
    EXPECT_THAT(elsewhere.error().message, HasSubstr("choose one of this host's"));
}

TEST_F(VxlanPortTest, CarriesOverIpv6) {
    ASSERT_TRUE(
        run("echo 0 > /proc/sys/net/ipv6/conf/all/disable_ipv6; echo 0 > /proc/sys/net/ipv6/conf/lo/disable_ipv6;"
            "ip addr add 2001:db8::1/128 dev lo nodad; ip addr add 2001:db8::2/128 dev lo nodad"));
    // The kernel makes an IPv6 address's route in a thread of its own, after the command has ended.
    ASSERT_TRUE(test::eventually([] {
        return run(
            "ip -6 route show table local | grep -q 2001:db8::1 && "
            "ip -6 route show table local | grep -q 2001:db8::2");
    }));
    ASSERT_TRUE(run("ip link set lo mtu 1500"));
    open("vni=42,local=2001:db8::1,remote=2001:db8::2");
    EXPECT_EQ(vxlan_guest_mtu(*config_), 1430U);
    Remote remote("2001:db8::2");
    submit({packets_.make(plain()), packets_.make(super_packet, segments), packets_.make(plain(1430)),
            packets_.make(plain(1431))});
    EXPECT_EQ(remote.frame(), plain());
    for (unsigned i = 0; i < 6; ++i) {
        EXPECT_TRUE(remote.frame());
    }
    EXPECT_EQ(remote.frame(), plain(1430));
    EXPECT_EQ(port_->counters().dropped_too_long, 1U);
    ASSERT_TRUE(remote.send("2001:db8::1", encapsulated(between({2, 0, 0, 0, 0, 9}, {2, 0, 0, 0, 0, 7}))));
    EXPECT_NE(receive_one(), nullptr);
}

/// The underlay is too slow: datagrams sit in its queue, charged to the port's send buffer.
class VxlanBackPressureTest : public VxlanPortTest {
protected:
    void SetUp() override {
        VxlanPortTest::SetUp();
        if (IsSkipped() || HasFatalFailure()) {
            return;
        }
        if (!run("tc qdisc add dev lo root tbf rate 8kbit burst 70000 limit 100000000")) {
            GTEST_SKIP() << "tbf is missing";
        }
        for (const std::int64_t deadline = monotonic_ns() + 20 * ns_per_s; port_->writable();) {
            ASSERT_LT(monotonic_ns(), deadline) << "never blocked";
            submit_burst();
        }
    }

    void TearDown() override {
        port_.reset();
        run("tc qdisc del dev lo root");
    }

    void submit_burst() {
        std::vector<Packet*> batch;
        for (int i = 0; i < 64; ++i) {
            batch.push_back(packets_.make(ethernet(type_experimental) + be16(made_++) + payload(2000)));
        }
        submit(batch);
        completed_ += packets_.completed().size();
    }

    unsigned made_ = 0;
    std::size_t completed_ = 0;
};

TEST_F(VxlanBackPressureTest, HoldsWhatHasNoRoomUntilThereIsSome) {
    Remote remote("127.0.0.2");
    EXPECT_EQ(port_->counters().submit_dropped, 0U);
    port_->flush(false);
    EXPECT_FALSE(port_->writable()) << "still no room";
    submit_burst();  // against the contract
    EXPECT_LT(completed_, made_);
    pollfd entry{port_->fd(), POLLOUT, 0};
    EXPECT_EQ(::poll(&entry, 1, 20), 0);
    ASSERT_TRUE(run("tc qdisc del dev lo root"));
    for (const std::int64_t deadline = monotonic_ns() + 20 * ns_per_s; !port_->writable();) {
        ASSERT_LT(monotonic_ns(), deadline);
        ::poll(&entry, 1, 100);
        port_->flush(false);
    }
    completed_ += packets_.completed().size();
    EXPECT_EQ(completed_, made_) << "each came home exactly once";
    EXPECT_EQ(port_->counters().submit_dropped, 0U);
    // What stood in the queue went with it; what was held comes, in order, to the last.
    unsigned last = 0;
    while (last + 1 != made_) {
        const auto frame = remote.frame();
        ASSERT_TRUE(frame);
        const unsigned id = load_be16(*frame, 14);
        EXPECT_GE(id, last);
        last = id;
    }
}

TEST_F(VxlanBackPressureTest, AbandonsWhatIsHeld) {
    submit_burst();
    port_->flush(true);
    EXPECT_TRUE(port_->writable());
    completed_ += packets_.completed().size();
    EXPECT_EQ(completed_, made_);
    EXPECT_GT(port_->counters().dropped_held_up, 0U);
    EXPECT_EQ(port_->counters().submit_dropped, port_->counters().dropped_held_up);
}

TEST_F(VxlanBackPressureTest, HoldsNoMoreThanItsLimit) {
    for (int i = 0; i < 6; ++i) {
        submit_burst();
    }
    EXPECT_LE(made_ - completed_, limits::port_held_packets);
    EXPECT_GT(port_->counters().dropped_held_up, 0U);
    port_.reset();
    completed_ += packets_.completed().size();
    EXPECT_EQ(completed_, made_) << "a port that goes leaves nothing behind";
}

}  // namespace
}  // namespace uvif
