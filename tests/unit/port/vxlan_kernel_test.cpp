// SPDX-License-Identifier: MIT
//
// Theory of operation
//
// The port at one end of a veth pair, a vxlan device of the kernel's at the other, in a network namespace of its own.
// What the kernel thinks of our checksums, its counters say.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sched.h>

#include <functional>
#include <string>

#include "packet/checksum.hpp"
#include "port/vxlan_endpoint.hpp"
#include "support/network_namespace.hpp"
#include "support/process.hpp"
#include "unit/port/network.hpp"
#include "unit/port/packets.hpp"

namespace uvif {
namespace {

using namespace frames;

struct Underlay {
    const char* name;
    const char* near;
    const char* far;
    unsigned prefix;
};

void PrintTo(const Underlay& underlay, std::ostream* out) {
    *out << underlay.name;
}

constexpr Offload blank{.checksum_blank = true, .data_validated = true};

Octets with_blank_checksum(Octets frame) {
    const Headers headers = parse_headers(frame);
    store_be16(frame, headers.checksum_offset(),
               pseudo_header_sum(frame, headers, static_cast<std::uint32_t>(frame.size())));
    return frame;
}

/// frames.hpp leaves the header's checksum blank.
Octets with_ip_checksum(Octets header) {
    store_be16(header, 10, static_cast<std::uint16_t>(~checksum_sum(header)));
    return header;
}

/// What one processor sends through a veth pair arrives in order; what a thread sends that is moved to another
/// processor meanwhile may be overtaken.
void stay_on_this_processor() {
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET(static_cast<unsigned>(::sched_getcpu()), &here);
    ASSERT_EQ(::sched_setaffinity(0, sizeof here, &here), 0);
}

class VxlanKernelTest : public NetworkTest, public testing::WithParamInterface<Underlay> {
protected:
    // Addresses inside of the tunnel are those of frames.hpp: ours end in 1, the kernel's in 2, but its MAC address,
    // to which ethernet() is addressed, in 1.
    void SetUp() override {
        NetworkTest::SetUp();
        if (IsSkipped()) {
            return;
        }
        stay_on_this_processor();
        const Underlay& underlay = GetParam();
        far_.emplace();
        if (!run(fmt::format("ip link add uvif-u type veth peer name uvif-v && ip link set uvif-v netns /proc/{}/fd/{}",
                             ::getpid(), far_->fd()))) {
            GTEST_SKIP() << "iproute2 or veth are missing";
        }
        ASSERT_TRUE(
            run(fmt::format("echo 0 > /proc/sys/net/ipv6/conf/uvif-u/disable_ipv6; ip addr add {}/{} dev uvif-u {} && "
                            "ip link set uvif-u up",
                            underlay.near, underlay.prefix, nodad())));
        ASSERT_TRUE(far_->shell(fmt::format(
            "ip link set lo up; ip addr add {1}/{2} dev uvif-v {3} && ip link set uvif-v up && "
            "ip link add vx0 address 02:00:00:00:00:01 type vxlan id 42 local {1} remote {0} dstport 4789 && "
            "ip addr add 192.0.2.2/24 dev vx0 && ip addr add 2001:db8::2/64 dev vx0 nodad && ip link set vx0 up && "
            "ip neigh add 192.0.2.1 lladdr 02:00:00:00:00:02 dev vx0 && "
            "ip neigh add 2001:db8::1 lladdr 02:00:00:00:00:02 dev vx0",
            underlay.near, underlay.far, underlay.prefix, nodad())));
        const auto config = parse_vxlan_config(fmt::format("vni=42,local={},remote={}", underlay.near, underlay.far));
        ASSERT_TRUE(config) << config.error().message;
        config_ = *config;
        open({});
        far_->run([this] { host_.emplace("vx0"); });
    }

    void open(const GsoFeatures& gso) {
        port_.reset();
        endpoint_.reset();
        auto endpoint = VxlanEndpoint::open(*config_, gso);
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

    static const char* nodad() { return std::string_view(GetParam().name) == "Ipv6" ? "nodad" : ""; }

    void submit(const std::vector<Packet*>& packets) { port_->submit(packets); }

    /// The next packet that `is_wanted`: the kernel sends some of its own.
    Packet* receive(const std::function<bool(const Octets&)>& is_wanted) {
        for (const std::int64_t deadline = monotonic_ns() + 10 * ns_per_s; monotonic_ns() < deadline;) {
            Packet* packet = packets_.room();
            if (port_->receive(std::span(&packet, 1)) == 1 && is_wanted(octets_of(*packet))) {
                return packet;
            }
        }
        return nullptr;
    }

    /// A counter of the far kernel's.
    [[nodiscard]] long counter(const char* group, const char* name) const { return far_->counter(group, name); }

    Packets packets_;
    std::optional<test::NetworkNamespace> far_;
    std::optional<VxlanConfig> config_;
    std::unique_ptr<VxlanEndpoint> endpoint_;
    std::unique_ptr<Port> port_;
    std::optional<HostSide> host_;
};

TEST_P(VxlanKernelTest, CarriesFramesBothWays) {
    std::vector<Packet*> batch;
    for (unsigned i = 0; i < 70; ++i) {
        batch.push_back(packets_.make(ethernet(type_experimental) + be16(i) + payload(i < 60 ? 200 : 100 + i)));
    }
    submit(batch);
    for (const Packet* packet : batch) {
        const auto frame = host_->receive();
        ASSERT_TRUE(frame);
        EXPECT_EQ(frame->second, octets_of(*packet));
    }
    for (unsigned i = 0; i < 20; ++i) {
        const Octets frame =
            octets({2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}) + be16(type_experimental) + be16(i) + payload(80);
        ASSERT_TRUE(host_->send(frame));
        EXPECT_NE(receive([&](const Octets& got) { return got == frame; }), nullptr) << i;
    }
    EXPECT_EQ(port_->counters().submit_dropped, 0U);
    EXPECT_EQ(port_->counters().receive_dropped, 0U);
}

TEST_P(VxlanKernelTest, TheKernelLearnsWhereTheGuestIs) {
    submit({packets_.make(ethernet(type_experimental) + payload(60))});
    ASSERT_TRUE(host_->receive());
    EXPECT_TRUE(
        far_->shell(fmt::format("bridge fdb show dev vx0 | grep -qi '02:00:00:00:00:02 dst {}'", GetParam().near)));
}

TEST_P(VxlanKernelTest, CompletedChecksumsAreRight) {
    UniqueFd socket;
    far_->run([&] {
        socket.reset(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        const SocketAddress at(*parse_underlay_address("192.0.2.2"), 53);
        EXPECT_EQ(::bind(socket.get(), at.get(), at.length), 0);
    });
    for (const std::size_t size : {1U, 2U, 300U, 1399U}) {
        const auto whole = static_cast<unsigned>(size);
        submit({packets_.make(with_blank_checksum(ethernet(type_ipv4) + with_ip_checksum(ipv4(17, 8 + whole)) +
                                                  udp(whole) + payload(size)),
                              blank)});
        pollfd entry{socket.get(), POLLIN, 0};
        ASSERT_EQ(::poll(&entry, 1, 10000), 1) << size << ", bad checksums: " << counter("Udp", "InCsumErrors");
        Octets got(2000);
        got.resize(static_cast<std::size_t>(::recv(socket.get(), got.data(), got.size(), 0)));
        EXPECT_EQ(got, payload(size));
    }
    EXPECT_EQ(counter("Udp", "InCsumErrors"), 0);
}

TEST_P(VxlanKernelTest, SegmentsAreRight) {
    // Nobody listens: the kernel looks at the checksum, and answers with a reset.
    const struct {
        GsoType type;
        Octets packet;
        std::size_t headers;
    } cases[] = {{GsoType::tcpv4, ethernet(type_ipv4) + ipv4(6, 60020) + tcp(5) + payload(60000), 54},
                 {GsoType::tcpv6, ethernet(type_ipv6) + ipv6(6, 60020) + tcp(5) + payload(60000), 74}};
    for (const auto& [type, packet, headers] : cases) {
        const long resets = counter("Tcp", "OutRsts");
        const long errors = counter("Tcp", "InErrs");
        const std::uint64_t calls = port_->counters().system_calls;
        submit(
            {packets_.make(packet, {.checksum_blank = true, .data_validated = true, .gso_type = type, .gso_size = 1300},
                           {128, 20000})});
        EXPECT_TRUE(test::eventually([&] { return counter("Tcp", "OutRsts") > resets; }));
        if (type == GsoType::tcpv4) {
            Octets all;
            while (all.size() < 60000) {
                const auto frame = host_->receive();
                ASSERT_TRUE(frame) << all.size();
                all.insert(all.end(), frame->second.begin() + static_cast<std::ptrdiff_t>(headers),
                           frame->second.end());
            }
            EXPECT_EQ(all, payload(60000));
        }
        EXPECT_EQ(counter("Tcp", "InCsumErrors"), 0);
        EXPECT_EQ(counter("Tcp", "InErrs"), errors);
        EXPECT_EQ(port_->counters().system_calls, calls + 1);
    }
    EXPECT_EQ(port_->counters().submit_dropped, 0U);
}

/// A device between the kernels that computes no checksums would have them complete; a veth leaves them blank.
TEST_P(VxlanKernelTest, ReceivedChecksumsAreRightOrSaidToBeBlank) {
    UniqueFd socket;
    far_->run([&] { socket.reset(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)); });
    for (const char* offload : {"on", "off"}) {
        ASSERT_TRUE(far_->shell(fmt::format("ethtool -K uvif-v tx {} >/dev/null", offload)));
        const SocketAddress to(*parse_underlay_address("192.0.2.1"), 53);
        const Octets sent = payload(500);
        ASSERT_EQ(::sendto(socket.get(), sent.data(), sent.size(), 0, to.get(), to.length),
                  static_cast<ssize_t>(sent.size()));
        const Packet* packet = receive([](const Octets& frame) {
            return load_be16(frame, 12) == type_ipv4 && frame[23] == std::byte{protocol_udp};
        });
        ASSERT_NE(packet, nullptr);
        Octets frame = octets_of(*packet);
        const std::uint16_t there = load_be16(frame, 40);
        frame = with_blank_checksum(frame);
        EXPECT_EQ(packet->offload.checksum_blank, there == load_be16(frame, 40)) << offload;
        const Fragment piece{frame.data(), static_cast<std::uint32_t>(frame.size())};
        EXPECT_TRUE(packet->offload.checksum_blank ||
                    there == completed_checksum(std::span(&piece, 1), parse_headers(frame)))
            << offload;
    }
}

/// A veth pair passes on whole what a network card would have cut.
TEST_P(VxlanKernelTest, CutsWhatNoUnderlayCarries) {
    open({.tcpv6 = true});
    const VnetHeader header = segments_header();
    const Octets to_us = octets({2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}) + be16(type_ipv4);
    ASSERT_TRUE(
        host_->send(with_blank_checksum(to_us + with_ip_checksum(ipv4(6, 30020)) + tcp(5) + payload(30000)), header));
    Octets all;
    while (all.size() < 30000) {
        const Packet* packet = receive([](const Octets& frame) {
            return load_be16(frame, 12) == type_ipv4 && frame[23] == std::byte{protocol_tcp};
        });
        ASSERT_NE(packet, nullptr) << all.size();
        const Octets frame = octets_of(*packet);
        EXPECT_LE(frame.size(), 14 + *vxlan_guest_mtu(*config_));
        const Octets blanked = with_blank_checksum(frame);
        const Fragment piece{const_cast<std::byte*>(blanked.data()), packet->length};
        EXPECT_EQ(load_be16(frame, 50), completed_checksum(std::span(&piece, 1), parse_headers(frame)));
        EXPECT_EQ(packet->offload, Offload{});
        all.insert(all.end(), frame.begin() + 54, frame.end());
    }
    EXPECT_EQ(all, payload(30000));
}

TEST_P(VxlanKernelTest, HandsOnWholeWhatTheGuestTakesWhole) {
    open({.tcpv4 = true});
    const VnetHeader header = segments_header();
    const Octets to_us = octets({2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}) + be16(type_ipv4);
    const Octets sent = with_blank_checksum(to_us + with_ip_checksum(ipv4(6, 30020)) + tcp(5) + payload(30000));
    ASSERT_TRUE(host_->send(sent, header));
    const Packet* packet = receive(
        [](const Octets& frame) { return load_be16(frame, 12) == type_ipv4 && frame[23] == std::byte{protocol_tcp}; });
    ASSERT_NE(packet, nullptr);
    EXPECT_EQ(octets_of(*packet), sent);
    EXPECT_TRUE(packet->offload.checksum_blank);
    EXPECT_EQ(packet->offload.gso_type, GsoType::tcpv4);
    EXPECT_EQ(packet->offload.gso_size, *vxlan_guest_mtu(*config_) - 40) << "what the underlay carries";
}

INSTANTIATE_TEST_SUITE_P(Underlays, VxlanKernelTest,
                         testing::Values(Underlay{"Ipv4", "10.9.0.1", "10.9.0.2", 24},
                                         Underlay{"Ipv6", "fd09::1", "fd09::2", 64}),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace uvif
