// SPDX-License-Identifier: MIT
//
// Theory of operation
//
// A daemon that was told to map has a guest behind its VXLAN port, on an underlay of jumbo frames: the kernel sends
// what is long from the guest's pages. On the other host nobody looks at it (a bridge with nothing else in it drops it,
// as a card would have it gone: nothing is copied), or a vxlan device of the kernel's does, or there is nobody: then
// the kernel keeps the pages for as long as it asks for the address, 3 s, and all that ends meanwhile has to wait.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <optional>
#include <string>

#include "emulated/host.hpp"
#include "runtime/limits.hpp"
#include "support/network_namespace.hpp"

namespace uvif::test {
namespace {

/// Where the guest's pings go, by the last number of the address: static entries of guest, daemon and underlay.
constexpr int beside = 7;  ///< behind 10.9.0.2, which is there
constexpr int lost = 8;    ///< behind 10.9.0.9, which is not

class TunnelPagesTest : public testing::TestWithParam<const char*> {
protected:
    void SetUp() override {
        UVIF_NEEDS_PRIVILEGE();
        near_.emplace();
        far_.emplace();
        guest_.emplace();
        ASSERT_TRUE(near_->shell(
            fmt::format("ip link set lo up; ip link add near mtu 9100 type veth peer name far mtu 9100 netns "
                        "/proc/{}/fd/{} && ip addr add 10.9.0.1/24 dev near && ip link set near up",
                        ::getpid(), far_->fd())));
        ASSERT_TRUE(far_->shell("ip link set far up"));
    }

    /// Nobody looks at what comes there.
    void swallow() const {
        ASSERT_TRUE(far_->shell("ip link add br0 type bridge && ip link set br0 up && ip link set far master br0"));
        ASSERT_TRUE(near_->shell("ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:fe dev near"));
    }

    void start(const char* loop = "auto") {
        host_.emplace(HostOptions{.port = "vxlan:vni=42,local=10.9.0.1,remote=10.9.0.2,"
                                          "fdb=02:00:00:00:00:07@10.9.0.2,fdb=02:00:00:00:00:08@10.9.0.9",
                                  .arguments = {"--strategy", "map", "--loop", loop},
                                  .network = near_->fd()});
        domain_ = host_->create();
        host_->attach(domain_);
        program_.emplace(
            Launch{{program("uvif-tap"), "--no-static", "--no-persistent", "--hypervisor", host_->hypervisor(domain_)},
                   {},
                   guest_->fd()},
            host_->directory() + "/tap.log");
        ASSERT_TRUE(eventually([this] {
            return !program_->running() || program_->output().find("connected:") != std::string::npos;
        })) << program_->output();
        ASSERT_TRUE(
            guest_->shell("ip link set lo up; ip link set xen0 mtu 9050; ip addr add 10.33.0.1/24 dev xen0; "
                          "ip neigh add 10.33.0.7 lladdr 02:00:00:00:00:07 dev xen0; "
                          "ip neigh add 10.33.0.8 lladdr 02:00:00:00:00:08 dev xen0"));
    }

    /// Frames of nearly 9000 octets, of which nobody answers those to `beside` and `lost`.
    [[nodiscard]] int ping(int to, int count) const {
        return run({{"ping", "-c", std::to_string(count), "-i", "0.01", "-W", "1", "-s", "8900",
                     fmt::format("10.33.0.{}", to)},
                    {},
                    guest_->fd()})
            .status;
    }

    [[nodiscard]] std::uint64_t counter(const std::string& name) const { return host_->counter(domain_, 0, name); }
    [[nodiscard]] bool holds_nothing_back() const {
        return eventually([this] { return counter("tx_held_slots") == 0; });
    }

    /// The kernel has given up to ask for an address, and with it what was for `lost`: until then it reads pages.
    [[nodiscard]] bool has_given_up() const {
        return near_->shell("! ip neigh show 10.9.0.9 dev near | grep -q INCOMPLETE");
    }

    void end_guest() {
        program_->send(SIGTERM);
        EXPECT_TRUE(program_->wait().has_value());
        host_->destroy(domain_);
        EXPECT_TRUE(host_->at_rest());
    }

    std::optional<NetworkNamespace> near_, far_, guest_;
    std::optional<Host> host_;
    unsigned domain_ = 0;
    std::optional<Process> program_;
};

class TunnelPagesLoopTest : public TunnelPagesTest {};

TEST_P(TunnelPagesLoopTest, LeaveByADevice) {
    swallow();
    start(GetParam());
    (void)ping(beside, 30);
    EXPECT_TRUE(eventually([this] { return counter("tx_zerocopy_success") >= 30; }));
    EXPECT_GE(counter("tx_by_map"), 30U);
    EXPECT_EQ(counter("tx_zerocopy_fail"), 0U);
    EXPECT_GE(counter("port_zerocopy_sent"), 30U);
    EXPECT_EQ(counter("port_dropped"), 0U);
    EXPECT_TRUE(holds_nothing_back());
    end_guest();
}

INSTANTIATE_TEST_SUITE_P(Loops, TunnelPagesLoopTest, testing::Values("io_uring", "epoll"));

/// Once, and then not again for a while: the other end is on this machine.
TEST_F(TunnelPagesTest, AreCopiedWhereTheyEndHere) {
    ASSERT_TRUE(
        far_->shell("ip link set lo up; ip addr add 10.9.0.2/24 dev far; "
                    "ip link add vx0 type vxlan id 42 local 10.9.0.2 remote 10.9.0.1 dstport 4789 && "
                    "ip link set vx0 address 02:00:00:00:00:07 mtu 9050 up && ip addr add 10.33.0.7/24 dev vx0"));
    start();
    EXPECT_TRUE(eventually([this] { return ping(beside, 1) == 0; }));
    EXPECT_EQ(ping(beside, 30), 0);
    EXPECT_GE(counter("tx_zerocopy_fail"), 30U);
    EXPECT_EQ(counter("tx_zerocopy_success"), 0U);
    EXPECT_LE(counter("port_zerocopy_copied"), 3U);
    if (run({{"sh", "-c", "command -v iperf3"}}).status == 0) {
        int iperf3s = 0;
        for (const char* options : {"-n 30M", "-n 30M -R", "-u -b 300M -l 8900 -n 30M"}) {
            Process server({{"iperf3", "-s", "-1", "--forceflush"}, {}, far_->fd()},
                           fmt::format("{}/iperf3{}", host_->directory(), iperf3s++));
            ASSERT_TRUE(eventually(
                [&] { return !server.running() || server.output().find("listening") != std::string::npos; }));
            EXPECT_TRUE(guest_->shell(fmt::format("iperf3 -c 10.33.0.7 {}", options)));
            EXPECT_EQ(server.wait(), 0) << server.output();
        }
    }
    for (const NetworkNamespace* network : {&*guest_, &*far_}) {
        EXPECT_EQ(network->counter("Tcp", "InCsumErrors"), 0);
        EXPECT_EQ(network->counter("Udp", "InCsumErrors"), 0);
    }
    EXPECT_TRUE(holds_nothing_back());
    end_guest();
}

TEST_F(TunnelPagesTest, AreHeldForWhoDoesNotAnswer) {
    swallow();
    start();
    (void)ping(lost, 20);
    EXPECT_GT(counter("tx_held_slots"), 0U);
    EXPECT_LE(counter("tx_held_slots"), limits::pinned_slots_per_queue);
    const std::uint64_t before = counter("tx_packets");
    (void)ping(beside, 20);
    EXPECT_GE(counter("tx_packets"), before + 20) << "others are not concerned";
    EXPECT_TRUE(holds_nothing_back()) << "it is given up";
    EXPECT_GE(counter("tx_zerocopy_fail"), 1U) << "beyond the first messages all is copied";
    end_guest();
}

class TunnelPagesEndTest : public TunnelPagesTest {};

/// While the kernel holds its pages, which are unmapped and answered only when it is done with them.
TEST_P(TunnelPagesEndTest, LeavesNothing) {
    const std::string what = GetParam();
    swallow();
    start();
    (void)run({{"ping", "-c", "5", "-i", "0.01", "-W", "0.1", "-s", "8900", "10.33.0.8"}, {}, guest_->fd()});
    ASSERT_GT(counter("tx_held_slots"), 0U);
    if (what == "Destroyed") {
        host_->destroy(domain_);
        program_->send(SIGKILL);
        EXPECT_TRUE(program_->wait().has_value());
        EXPECT_TRUE(host_->at_rest());
        EXPECT_TRUE(has_given_up());
        return;
    }
    if (what == "Detached") {
        EXPECT_EQ(host_->machine("detach", {std::to_string(domain_), "0"}).status, 0);
        EXPECT_TRUE(has_given_up());
        end_guest();
        return;
    }
    host_->daemon().send(what == "Stopped" ? SIGTERM : SIGKILL);
    ASSERT_TRUE(host_->daemon().wait().has_value());
    EXPECT_TRUE(what == "Killed" || has_given_up());
    host_->start_daemon();
    ASSERT_TRUE(eventually([this] {
        (void)ping(beside, 5);
        return counter("tx_zerocopy_success") >= 5;
    })) << "the guest goes on";
    EXPECT_TRUE(holds_nothing_back());
    end_guest();
}

INSTANTIATE_TEST_SUITE_P(While, TunnelPagesEndTest, testing::Values("Destroyed", "Detached", "Stopped", "Killed"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace uvif::test
