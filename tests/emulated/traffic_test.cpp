// SPDX-License-Identifier: MIT
//
// Theory of operation
//
// Two network namespaces are a host with a bridge and a guest; between them are the daemon's TAP, the rings, and
// uvif-tap. The kernels' own ping and TCP say whether every octet arrives, in both directions, with both versions of
// IP and with every offload on and off. That segments of the kernel's (GSO) went through whole, the daemon counts.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>
#include <vector>

#include "emulated/host.hpp"
#include "runtime/unique_fd.hpp"
#include "support/network_namespace.hpp"
#include "uvif/netfront.hpp"

namespace uvif::test {
namespace {

struct Variant {
    const char* name;
    std::vector<std::string> daemon;
    std::string vif;
    std::vector<std::string> guest;
    bool segments = true;
};

void PrintTo(const Variant& variant, std::ostream* out) {
    *out << variant.name;
}

struct Address {
    sockaddr_storage storage{};
    socklen_t length = 0;

    Address(const std::string& text, std::uint16_t port) {
        auto* v4 = reinterpret_cast<sockaddr_in*>(&storage);
        auto* v6 = reinterpret_cast<sockaddr_in6*>(&storage);
        if (::inet_pton(AF_INET, text.c_str(), &v4->sin_addr) == 1) {
            v4->sin_family = AF_INET;
            v4->sin_port = htons(port);
            length = sizeof *v4;
        } else {
            EXPECT_EQ(::inet_pton(AF_INET6, text.c_str(), &v6->sin6_addr), 1);
            v6->sin6_family = AF_INET6;
            v6->sin6_port = htons(port);
            length = sizeof *v6;
        }
    }
    [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
    [[nodiscard]] int family() const { return storage.ss_family; }
};

UniqueFd open_socket(const NetworkNamespace& network, int family, int type, int protocol = 0) {
    UniqueFd fd;
    network.run([&] { fd.reset(::socket(family, type | SOCK_CLOEXEC, protocol)); });
    EXPECT_TRUE(fd) << std::strerror(errno);
    const timeval limit{.tv_sec = patience.count(), .tv_usec = 0};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    return fd;
}

/// Octet `i` of everything that is sent; neighbouring pages differ.
std::byte octet_at(std::size_t i) {
    return static_cast<std::byte>(i * 131 + (i >> 12) * 29);
}

std::vector<std::byte> pattern(std::size_t begin, std::size_t length) {
    std::vector<std::byte> octets(length);
    for (std::size_t i = 0; i < length; ++i) {
        octets[i] = octet_at(begin + i);
    }
    return octets;
}

/// One echo of `size` octets of payload, repeated when the first was lost to a neighbour still being looked for.
testing::AssertionResult ping(const NetworkNamespace& from, const std::string& to, std::size_t size) {
    const Address address(to, 0);
    const bool v4 = address.family() == AF_INET;
    const UniqueFd socket =
        open_socket(from, address.family(), SOCK_DGRAM, v4 ? static_cast<int>(IPPROTO_ICMP) : IPPROTO_ICMPV6);
    const timeval limit{.tv_sec = 2, .tv_usec = 0};
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    std::vector<std::byte> request(sizeof(icmphdr));
    request[0] = static_cast<std::byte>(v4 ? static_cast<int>(ICMP_ECHO) : 128);
    const auto payload = pattern(0, size);
    request.insert(request.end(), payload.begin(), payload.end());
    for (int attempt = 0; attempt < 10; ++attempt) {
        request[7] = static_cast<std::byte>(attempt);
        if (::sendto(socket.get(), request.data(), request.size(), 0, address.get(), address.length) < 0) {
            continue;
        }
        std::vector<std::byte> answer(70000);
        const ssize_t got = ::recv(socket.get(), answer.data(), answer.size(), 0);
        if (got > 0) {
            answer.resize(static_cast<std::size_t>(got));
            const bool same = answer.size() == request.size() &&
                              std::equal(payload.begin(), payload.end(), answer.begin() + sizeof(icmphdr));
            return same ? testing::AssertionSuccess() : testing::AssertionFailure() << "came back changed";
        }
    }
    return testing::AssertionFailure() << "never came back";
}

/// Sends `length` octets over TCP, and compares every one at the other end.
testing::AssertionResult transfer(const NetworkNamespace& from, const NetworkNamespace& to, const std::string& address,
                                  std::size_t length) {
    Address server(address, 0);
    const UniqueFd listener = open_socket(to, server.family(), SOCK_STREAM);
    if (::bind(listener.get(), server.get(), server.length) != 0 || ::listen(listener.get(), 1) != 0) {
        return testing::AssertionFailure() << "cannot listen: " << std::strerror(errno);
    }
    ::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&server.storage), &server.length);
    const UniqueFd out = open_socket(from, server.family(), SOCK_STREAM);
    if (::connect(out.get(), server.get(), server.length) != 0) {
        return testing::AssertionFailure() << "cannot connect: " << std::strerror(errno);
    }
    const UniqueFd in(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    const timeval limit{.tv_sec = patience.count(), .tv_usec = 0};
    ::setsockopt(in.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);

    constexpr std::size_t chunk = 1 << 18;
    std::thread sender([&] {
        for (std::size_t sent = 0; sent < length;) {
            const auto octets = pattern(sent, std::min(chunk, length - sent));
            const ssize_t done = ::send(out.get(), octets.data(), octets.size(), MSG_NOSIGNAL);
            if (done <= 0) {
                break;
            }
            sent += static_cast<std::size_t>(done);
        }
        ::shutdown(out.get(), SHUT_WR);
    });
    std::vector<std::byte> octets(chunk);
    std::size_t received = 0;
    std::optional<std::size_t> wrong;
    for (ssize_t got = 0; (got = ::recv(in.get(), octets.data(), octets.size(), 0)) > 0;) {
        for (std::size_t i = 0; i < static_cast<std::size_t>(got) && !wrong; ++i) {
            wrong = octets[i] == octet_at(received + i) ? wrong : received + i;
        }
        received += static_cast<std::size_t>(got);
    }
    sender.join();
    if (wrong) {
        return testing::AssertionFailure() << "octet " << *wrong << " arrived changed";
    }
    return received == length ? testing::AssertionSuccess()
                              : testing::AssertionFailure() << received << " octets of " << length << " arrived";
}

class TrafficTest : public testing::TestWithParam<Variant> {
protected:
    static constexpr const char* host_v4 = "10.33.0.1";
    static constexpr const char* guest_v4 = "10.33.0.2";
    static constexpr const char* host_v6 = "fd33::1";
    static constexpr const char* guest_v6 = "fd33::2";

    void SetUp() override {
        UVIF_NEEDS_PRIVILEGE();
        if (std::string_view(GetParam().name) == "IoUring" &&
            run({{program("uvif-netback"), "--version"}}).output.find("io_uring") == std::string::npos) {
            GTEST_SKIP() << "this kernel grants no io_uring";
        }
        host_network_.emplace();
        host_network_->shell(
            fmt::format("ip link set lo up; ip link add br0 type bridge; ip link set br0 up; "
                        "ip addr add {}/24 dev br0; ip addr add {}/64 dev br0 nodad; "
                        "echo 0 0 > /proc/sys/net/ipv4/ping_group_range",
                        host_v4, host_v6));
        host_.emplace(HostOptions{.port = "tap", .arguments = GetParam().daemon, .network = host_network_->fd()});
        start_guest(guest_, guest_v4, guest_v6, GetParam().guest);
    }

    void TearDown() override {
        if (guest_.program) {
            stop_guest(guest_);
            EXPECT_TRUE(host_->at_rest());
        }
    }

    struct Guest {
        std::optional<NetworkNamespace> network;
        std::optional<Process> program;
        unsigned domain = 0;
    };

    /// As Xen's vif-bridge does.
    std::string write_script() {
        const std::string path = host_->directory() + "/vif-bridge";
        std::ofstream(path) << "#!/bin/sh -e\n"
                               "[ \"$1\" = online ] || exit 0\n"
                               "folder=/local/domain/0/$XENBUS_PATH\n"
                               "ip link set \"$vif\" master \"$(xenstore-read \"$folder/bridge\")\" up\n"
                               "xenstore-write \"$folder/hotplug-status\" connected\n";
        std::filesystem::permissions(path, std::filesystem::perms::owner_all);
        return path;
    }

    void start_guest(Guest& guest, const char* v4, const char* v6, const std::vector<std::string>& options) {
        guest.network.emplace();
        guest.domain = host_->create();
        host_->attach(guest.domain, "bridge=br0,script=" + write_script() + GetParam().vif);
        Launch launch{{program("uvif-tap"), "--hypervisor", host_->hypervisor(guest.domain)}, {}, guest.network->fd()};
        launch.words.insert(launch.words.end(), options.begin(), options.end());
        guest.program.emplace(launch, fmt::format("{}/tap{}.log", host_->directory(), guest.domain));
        ASSERT_TRUE(eventually([&guest] {
            return !guest.program->running() || guest.program->output().find("connected:") != std::string::npos;
        }));
        ASSERT_TRUE(guest.program->running()) << guest.program->output();
        guest.network->shell(
            fmt::format("ip link set lo up; ip addr add {}/24 dev xen0; ip addr add {}/64 dev xen0 nodad; "
                        "echo 0 0 > /proc/sys/net/ipv4/ping_group_range",
                        v4, v6));
    }

    void stop_guest(Guest& guest) {
        guest.program->send(SIGTERM);
        EXPECT_EQ(guest.program->wait(), 0) << guest.program->output();
        host_->destroy(guest.domain);
    }

    std::optional<NetworkNamespace> host_network_;
    std::optional<Host> host_;
    Guest guest_;
};

TEST_P(TrafficTest, EveryOctetArrives) {
    for (const std::size_t size : {56U, 1472U, 8000U, 65507U}) {
        EXPECT_TRUE(ping(*guest_.network, host_v4, size)) << size;
        EXPECT_TRUE(ping(*host_network_, guest_v4, size)) << size;
    }
    EXPECT_TRUE(ping(*guest_.network, host_v6, 1452));
    EXPECT_TRUE(ping(*host_network_, guest_v6, 60000));

    constexpr std::size_t length = 20 << 20;
    EXPECT_TRUE(transfer(*guest_.network, *host_network_, host_v4, length)) << "guest to host";
    EXPECT_TRUE(transfer(*host_network_, *guest_.network, guest_v4, length)) << "host to guest";
    EXPECT_TRUE(transfer(*guest_.network, *host_network_, host_v6, length / 4)) << "guest to host, IPv6";
    EXPECT_TRUE(transfer(*host_network_, *guest_.network, guest_v6, length / 4)) << "host to guest, IPv6";

    for (const char* counter : {"tx_gso_packets", "rx_gso_packets"}) {
        EXPECT_EQ(host_->counter(guest_.domain, 0, counter) != 0, GetParam().segments) << counter;
    }
    const auto vif = host_->ask({"show", fmt::format("vif{}.0", guest_.domain)});
    EXPECT_EQ(vif.at("error"), "");
    if (std::string_view(GetParam().name).starts_with("Direct")) {
        EXPECT_GT(host_->counter(guest_.domain, 0, "rx_direct"), host_->counter(guest_.domain, 0, "rx_packets") / 2);
    }
}

/// Datagrams without end, until destroyed.
class Flood {
public:
    Flood(const NetworkNamespace& from, const char* to)
        : socket_(open_socket(from, AF_INET, SOCK_DGRAM)), thread_([this, to](const std::stop_token& stop) {
              const Address address(to, 9);
              const auto octets = pattern(0, 8000);
              while (!stop.stop_requested()) {
                  (void)::sendto(socket_.get(), octets.data(), octets.size(), MSG_DONTWAIT, address.get(),
                                 address.length);
              }
          }) {}

private:
    UniqueFd socket_;
    std::jthread thread_;
};

/// A guest to whose pages the kernel writes.
class DirectTest : public TrafficTest {};

TEST_P(DirectTest, ADaemonThatIsKilledMeanwhileLosesNoMoreThanPackets) {
    const auto direct = [this] { return host_->counter(guest_.domain, 0, "rx_direct"); };
    testing::AssertionResult whole = testing::AssertionFailure();
    std::thread stream([&] { whole = transfer(*host_network_, *guest_.network, guest_v4, 200 << 20); });
    EXPECT_TRUE(eventually([&] { return direct() > 200; }));
    host_->daemon().send(SIGKILL);
    host_->daemon().wait();
    host_->start_daemon();
    stream.join();
    EXPECT_TRUE(whole);
    EXPECT_GT(host_->counter(guest_.domain, 0, "rx_bytes"), 1U << 20) << "it was still under way";
    EXPECT_TRUE(ping(*host_network_, guest_v4, 1472));
}

/// Twice: by itself, and without a word. TearDown() has nothing left mapped.
TEST_P(DirectTest, TheGuestGoesInTheMiddleOfAll) {
    ASSERT_TRUE(ping(*host_network_, guest_v4, 56));
    const Flood flood(*host_network_, guest_v4);
    for (const int how : {SIGTERM, SIGKILL}) {
        EXPECT_TRUE(eventually([this] { return host_->counter(guest_.domain, 0, "rx_direct") > 1000; }));
        guest_.program->send(how);
        guest_.program->wait();
        host_->destroy(guest_.domain);
        EXPECT_TRUE(eventually([this] { return host_->holds_nothing(); }));
        guest_ = {};
        start_guest(guest_, guest_v4, guest_v6, {});
    }
}

INSTANTIATE_TEST_SUITE_P(Variants, DirectTest,
                         testing::Values(Variant{"IoUring", {"--receive", "direct"}, ",mtu=9000", {}},
                                         Variant{"Epoll", {"--receive", "auto", "--loop", "epoll"}, ",mtu=9000", {}}),
                         [](const auto& test) { return test.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Variants, TrafficTest,
    testing::Values(Variant{"Epoll", {"--loop", "epoll"}, "", {"--loop", "epoll"}},
                    Variant{"IoUring", {"--loop", "io_uring"}, "", {"--loop", "io_uring"}},
                    Variant{"Direct", {"--receive", "direct"}, "", {}},
                    Variant{"DirectEpoll", {"--receive", "direct", "--loop", "epoll"}, ",mtu=9000", {"--queues", "2"}},
                    Variant{"Map", {"--strategy", "map"}, "", {}}, Variant{"Jumbo", {}, ",mtu=9000", {}},
                    Variant{"JumboMap", {"--strategy", "map"}, ",mtu=9000", {"--no-gso"}, false},
                    Variant{"NoGso", {}, "", {"--no-gso"}, false}, Variant{"NoChecksum", {}, "", {"--no-csum"}, false},
                    Variant{"NoScatterGather", {}, "", {"--no-sg"}, false},
                    Variant{"TwoQueues", {}, "", {"--queues", "2"}}, Variant{"OneChannel", {}, "", {"--no-split"}}),
    [](const auto& test) { return test.param.name; });

/// Two guests of one bridge, whose frames for each other do not pass it.
class SwitchTest : public TrafficTest {
protected:
    static constexpr const char* other_v4 = "10.33.0.3";
    static constexpr const char* other_v6 = "fd33::3";

    void SetUp() override {
        TrafficTest::SetUp();
        if (guest_.program) {
            start_guest(other_, other_v4, other_v6, {});
        }
    }
    void TearDown() override {
        if (other_.program) {
            stop_guest(other_);
        }
        TrafficTest::TearDown();
    }
    /// Without a word.
    void destroy_other() {
        other_.program->send(SIGKILL);
        other_.program->wait();
        host_->destroy(other_.domain);
        other_ = {};
    }
    [[nodiscard]] std::uint64_t bridged() const {
        return host_->counter(other_.domain, 0, "rx_packets") - host_->counter(other_.domain, 0, "rx_passed");
    }

    Guest other_;
};

TEST_P(SwitchTest, EveryOctetArrives) {
    for (const std::size_t size : {56U, 1472U, 65507U}) {
        EXPECT_TRUE(ping(*guest_.network, other_v4, size)) << size;
        EXPECT_TRUE(ping(*other_.network, guest_v6, std::min<std::size_t>(size, 60000))) << size;
    }
    const std::uint64_t before = bridged();
    constexpr std::size_t length = 20 << 20;
    EXPECT_TRUE(transfer(*guest_.network, *other_.network, other_v4, length));
    EXPECT_TRUE(transfer(*other_.network, *guest_.network, guest_v4, length));
    EXPECT_TRUE(transfer(*guest_.network, *other_.network, other_v6, length / 4));
    // What does not go by the bridge: nearly all, from sum to sum of what the switch passed on. The rest looks for
    // neighbours.
    EXPECT_LT(bridged() - before, 100U);
    EXPECT_GT(host_->counter(other_.domain, 0, "rx_passed"), length / 65535);
    EXPECT_GT(host_->counter(guest_.domain, 0, "port_passed"), length / 65535);
    EXPECT_EQ(host_->counter(other_.domain, 0, "rx_gso_packets") != 0, GetParam().segments);
    EXPECT_TRUE(transfer(*guest_.network, *host_network_, host_v4, length)) << "to the host, as ever";
}

/// What the bridge keeps apart the switch does not join.
TEST_P(SwitchTest, IsolatedPortsOfTheBridgeStaySo) {
    ASSERT_TRUE(ping(*guest_.network, other_v4, 56));
    host_network_->shell(fmt::format("bridge link set dev vif{}.0 isolated on; bridge link set dev vif{}.0 isolated on",
                                     guest_.domain, other_.domain));
    const Address to(other_v4, 9);
    const UniqueFd socket = open_socket(*guest_.network, AF_INET, SOCK_DGRAM);
    std::uint64_t before = 0;
    EXPECT_TRUE(eventually([&] {
        const std::uint64_t passed = host_->counter(guest_.domain, 0, "port_passed");
        const bool stopped = before != 0 && passed == before;
        before = passed;
        for (int i = 0; i < 10; ++i) {
            (void)::sendto(socket.get(), "x", 1, 0, to.get(), to.length);
        }
        return stopped;
    }));
    EXPECT_TRUE(ping(*guest_.network, host_v4, 56)) << "the host is not isolated";
}

/// Frames to groups come by the bridge also from a neighbour on the switch, and are filtered.
TEST_P(SwitchTest, AGuestThatAsksForItGetsTheGroupsThatItJoined) {
    host_network_->shell("ip link set br0 type bridge mcast_snooping 0");
    const unsigned domain = host_->create();
    host_->attach(domain, "bridge=br0,script=" + write_script());
    {
        netfront::Config config;
        config.hypervisor = host_->hypervisor(domain);
        config.filter_multicast = true;
        auto device = netfront::Device::connect(config);
        ASSERT_TRUE(device) << device.error().message;
        netfront::Queue& queue = (*device)->queue(0);
        ASSERT_EQ(queue.join({0x01, 0x00, 0x5e, 1, 1, 1}), 0);  // of 239.1.1.1
        const UniqueFd socket = open_socket(*guest_.network, AF_INET, SOCK_DGRAM);
        in_addr interface{};
        ASSERT_EQ(::inet_pton(AF_INET, guest_v4, &interface), 1);
        ASSERT_EQ(::setsockopt(socket.get(), IPPROTO_IP, IP_MULTICAST_IF, &interface, sizeof interface), 0);
        unsigned joined = 0;
        EXPECT_TRUE(eventually([&] {
            for (const char* group : {"239.1.1.2", "239.1.1.1"}) {
                const Address to(group, 9);
                (void)::sendto(socket.get(), group, 9, 0, to.get(), to.length);
            }
            std::array<netfront::Packet, 32> packets;
            const auto got = std::span(packets).first(queue.receive(packets));
            for (const netfront::Packet& packet : got) {
                std::array<std::uint8_t, 6> address;
                std::memcpy(address.data(), packet.fragments[0].data, address.size());
                const bool group = (address[0] & 1) != 0 && address[0] != 0xff;
                EXPECT_TRUE(!group || address[5] == 1) << "not joined";
                joined += group ? 1 : 0;
            }
            queue.release(got);
            (void)queue.arm(true);
            return joined >= 20;
        }));
        EXPECT_GT(host_->counter(domain, 0, "rx_drop_unwanted_group"), 0U);
    }
    host_->destroy(domain);
}

TEST_P(SwitchTest, AGuestSendsFromItsOwnAddressOnly) {
    const std::string key = Host::backend(guest_.domain) + "/no-mac-spoofing";
    host_->write(key, "1");
    EXPECT_TRUE(ping(*guest_.network, other_v4, 56));
    EXPECT_TRUE(ping(*guest_.network, host_v4, 56));
    guest_.network->shell("ip link set xen0 address 00:16:3e:77:77:77");
    const Address to(host_v4, 9);
    const UniqueFd socket = open_socket(*guest_.network, AF_INET, SOCK_DGRAM);
    EXPECT_TRUE(eventually([&] {
        (void)::sendto(socket.get(), "x", 1, 0, to.get(), to.length);
        return host_->counter(guest_.domain, 0, "port_dropped_spoofed") > 10;
    }));
    host_->write(key, "0");
    EXPECT_TRUE(ping(*guest_.network, host_v4, 56));
}

TEST_P(SwitchTest, TheReceiverGoesInTheMiddleOfAll) {
    ASSERT_TRUE(ping(*guest_.network, other_v4, 56));
    {
        const Flood flood(*guest_.network, other_v4);
        EXPECT_TRUE(eventually([this] { return host_->counter(other_.domain, 0, "rx_passed") > 1000; }));
        destroy_other();
    }
    EXPECT_TRUE(transfer(*guest_.network, *host_network_, host_v4, 1 << 20)) << "the other guest is disturbed";
}

/// Whose pages are in the receiver's queue then.
TEST_P(SwitchTest, TheSenderGoesInTheMiddleOfAll) {
    ASSERT_TRUE(ping(*other_.network, guest_v4, 56));
    {
        const Flood flood(*other_.network, guest_v4);
        EXPECT_TRUE(eventually([this] { return host_->counter(guest_.domain, 0, "rx_passed") > 1000; }));
        destroy_other();
    }
    EXPECT_TRUE(transfer(*guest_.network, *host_network_, host_v4, 1 << 20)) << "the other guest is disturbed";
    EXPECT_TRUE(transfer(*host_network_, *guest_.network, guest_v4, 1 << 20)) << "the other guest is disturbed";
}

INSTANTIATE_TEST_SUITE_P(Variants, SwitchTest,
                         // The queues of two, and the one queue of the other, are on both workers.
                         testing::Values(Variant{"OneWorker", {"--switch", "--workers", "1"}, "", {}},
                                         Variant{"Map", {"--switch", "--strategy", "map"}, "", {}},
                                         Variant{"TwoQueues", {"--switch", "--workers", "2"}, "", {"--queues", "2"}}),
                         [](const auto& test) { return test.param.name; });

struct Tunnel {
    const char* name;
    const char* near;  ///< addresses of the underlay, with the length of their prefix
    const char* far;
    unsigned prefix;
    unsigned mtu;             ///< of the guest
    const char* far_offload;  ///< ethtool's words for the underlay's far end
    std::vector<std::string> guest = {};
    bool segments = true;
};

void PrintTo(const Tunnel& tunnel, std::ostream* out) {
    *out << tunnel.name;
}

/// The same traffic, with a vxlan device of the kernel's on another host at the other end.
class TunnelTest : public testing::TestWithParam<Tunnel> {
protected:
    static constexpr const char* far_v4 = "10.33.0.1";
    static constexpr const char* guest_v4 = "10.33.0.2";
    static constexpr const char* far_v6 = "fd33::1";
    static constexpr const char* guest_v6 = "fd33::2";

    void SetUp() override {
        UVIF_NEEDS_PRIVILEGE();
        const Tunnel& tunnel = GetParam();
        near_network_.emplace();
        far_network_.emplace();
        guest_network_.emplace();
        const char* nodad = std::string_view(tunnel.near).find(':') == std::string_view::npos ? "" : "nodad";
        ASSERT_TRUE(near_network_->shell(
            fmt::format("ip link set lo up; ip link add near type veth peer name far netns /proc/{}/fd/{} && "
                        "ip addr add {}/{} dev near {} && ip link set near up",
                        ::getpid(), far_network_->fd(), tunnel.near, tunnel.prefix, nodad)));
        ASSERT_TRUE(far_network_->shell(fmt::format(
            "ip link set lo up; ip addr add {1}/{2} dev far {3} && ip link set far up && ethtool -K far {4} && "
            "ip link add vx0 type vxlan id 42 local {1} remote {0} dstport 4789 && ip link set vx0 mtu {5} up && "
            "ip addr add {6}/24 dev vx0 && ip addr add {7}/64 dev vx0 nodad && "
            "echo 0 0 > /proc/sys/net/ipv4/ping_group_range",
            tunnel.near, tunnel.far, tunnel.prefix, nodad, tunnel.far_offload, tunnel.mtu, far_v4, far_v6)));
        host_.emplace(HostOptions{.port = fmt::format("vxlan:vni=42,local={},remote={}", tunnel.near, tunnel.far),
                                  .network = near_network_->fd()});
        domain_ = host_->create();
        host_->attach(domain_);
        Launch launch{{program("uvif-tap"), "--hypervisor", host_->hypervisor(domain_)}, {}, guest_network_->fd()};
        launch.words.insert(launch.words.end(), tunnel.guest.begin(), tunnel.guest.end());
        guest_.emplace(launch, host_->directory() + "/tap.log");
        ASSERT_TRUE(eventually(
            [this] { return !guest_->running() || guest_->output().find("connected:") != std::string::npos; }));
        ASSERT_TRUE(guest_->running()) << guest_->output();
        guest_network_->shell(
            fmt::format("ip link set lo up; ip addr add {}/24 dev xen0; ip addr add {}/64 dev xen0 nodad; "
                        "echo 0 0 > /proc/sys/net/ipv4/ping_group_range",
                        guest_v4, guest_v6));
        EXPECT_EQ(host_->read(Host::frontend(domain_) + "/mtu"), std::to_string(tunnel.mtu)) << "told to the guest";
    }

    void TearDown() override {
        if (guest_) {
            guest_->send(SIGTERM);
            EXPECT_EQ(guest_->wait(), 0) << guest_->output();
            host_->destroy(domain_);
            EXPECT_TRUE(host_->at_rest());
        }
    }

    /// TCP and UDP packets with a wrong checksum that a kernel has seen.
    static long wrong_checksums(const NetworkNamespace& network) {
        return network.counter("Tcp", "InCsumErrors") + network.counter("Udp", "InCsumErrors");
    }

    std::optional<NetworkNamespace> near_network_, far_network_, guest_network_;
    std::optional<Host> host_;
    std::optional<Process> guest_;
    unsigned domain_ = 0;
};

TEST_P(TunnelTest, EveryOctetArrives) {
    for (const std::size_t size : {56U, 1300U, 8000U, 60000U}) {
        EXPECT_TRUE(ping(*guest_network_, far_v4, size)) << size;
        EXPECT_TRUE(ping(*far_network_, guest_v4, size)) << size;
    }
    EXPECT_TRUE(ping(*guest_network_, far_v6, 1300));
    EXPECT_TRUE(ping(*far_network_, guest_v6, 8000));

    constexpr std::size_t length = 20 << 20;
    EXPECT_TRUE(transfer(*guest_network_, *far_network_, far_v4, length)) << "guest to far host";
    EXPECT_TRUE(transfer(*far_network_, *guest_network_, guest_v4, length)) << "far host to guest";
    EXPECT_TRUE(transfer(*guest_network_, *far_network_, far_v6, length / 4)) << "guest to far host, IPv6";
    EXPECT_TRUE(transfer(*far_network_, *guest_network_, guest_v6, length / 4)) << "far host to guest, IPv6";

    EXPECT_EQ(wrong_checksums(*far_network_), 0);
    EXPECT_EQ(wrong_checksums(*guest_network_), 0);
    EXPECT_EQ(host_->counter(domain_, 0, "tx_gso_packets") != 0, GetParam().segments);
    EXPECT_EQ(host_->counter(domain_, 0, "port_dropped"), 0U);
    EXPECT_EQ(host_->counter(domain_, 0, "port_receive_dropped"), 0U);
    EXPECT_NE(host_->log().find(fmt::format("MTU of up to {}", GetParam().mtu)), std::string::npos) << host_->log();
}

TEST_P(TunnelTest, ASecondVifIsRefused) {
    const unsigned second = host_->create();
    host_->attach(second);
    const NetworkNamespace network;
    Process guest({{program("uvif-tap"), "--hypervisor", host_->hypervisor(second)}, {}, network.fd()},
                  host_->directory() + "/second.log");
    EXPECT_TRUE(eventually([&] {
        return host_->read(Host::error_key(second)).value_or("").find("serves one vif, and vif") != std::string::npos;
    }));
    EXPECT_TRUE(ping(*guest_network_, far_v4, 56)) << "the first is not disturbed";
    guest.send(SIGTERM);
    guest.wait();
    host_->destroy(second);
}

INSTANTIATE_TEST_SUITE_P(
    Tunnels, TunnelTest,
    testing::Values(Tunnel{"Ipv4", "10.9.0.1", "10.9.0.2", 24, 1450, "tx on"},
                    Tunnel{"Ipv6", "fd09::1", "fd09::2", 64, 1430, "tx on"},
                    Tunnel{"WholeChecksums", "10.9.0.1", "10.9.0.2", 24, 1450, "tx off"},
                    Tunnel{"TwoQueues", "10.9.0.1", "10.9.0.2", 24, 1450, "tx off", {"--queues", "2"}},
                    Tunnel{"NoScatterGather", "10.9.0.1", "10.9.0.2", 24, 1450, "tx on", {"--no-sg"}, false},
                    Tunnel{"NoChecksum", "10.9.0.1", "10.9.0.2", 24, 1450, "tx on", {"--no-csum"}, false}),
    [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace uvif::test
