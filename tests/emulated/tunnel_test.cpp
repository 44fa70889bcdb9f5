// SPDX-License-Identifier: MIT
//
// Theory of operation
//
// Two hosts are two network namespaces with a veth pair between them. On one the daemon has a guest behind its VXLAN
// port; on the other is what it has to work with: a vxlan device of the kernel's, another daemon of ours with a guest,
// or Open vSwitch as Debian has it, with its own datapath (which needs no module of the kernel's). iperf3 runs both
// ways, and no kernel may have seen a wrong checksum.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "emulated/host.hpp"
#include "support/network_namespace.hpp"

namespace uvif::test {
namespace {

/// Addresses that one host has: in the underlay, and in the virtual network.
struct Place {
    const char* underlay;
    const char* v4;
    const char* v6;
};
constexpr Place near_place{"10.9.0.1", "10.33.0.1", "fd33::1"};
constexpr Place far_place{"10.9.0.2", "10.33.0.2", "fd33::2"};

/// Whether a test may go without a program: on a CI machine, that would be a hole.
bool has_program(const std::string& name) {
    const char* ci = std::getenv("CI");
    return run({{"sh", "-c", "command -v " + name}}).status == 0 || (ci != nullptr && std::string(ci) == "true");
}

/// A host with a daemon of ours, and its guest.
class OurHost {
public:
    OurHost(const NetworkNamespace& network, const Place& place, const Place& other, const char* loop = "auto")
        : host_({.port = fmt::format("vxlan:vni=42,local={},remote={}", place.underlay, other.underlay),
                 .arguments = {"--loop", loop},
                 .network = network.fd()}),
          domain_(host_.create()) {
        host_.attach(domain_);
        program_.emplace(Launch{{program("uvif-tap"), "--hypervisor", host_.hypervisor(domain_)}, {}, guest_.fd()},
                         host_.directory() + "/tap.log");
        EXPECT_TRUE(eventually([this] {
            return !program_->running() || program_->output().find("connected:") != std::string::npos;
        })) << program_->output();
        guest_.shell(fmt::format("ip link set lo up; ip addr add {}/24 dev xen0; ip addr add {}/64 dev xen0 nodad",
                                 place.v4, place.v6));
    }
    OurHost(const OurHost&) = delete;
    OurHost& operator=(const OurHost&) = delete;
    ~OurHost() {
        EXPECT_EQ(host_.counter(domain_, 0, "port_receive_dropped"), 0U);
        program_->send(SIGTERM);
        EXPECT_EQ(program_->wait(), 0) << program_->output();
        host_.destroy(domain_);
        EXPECT_TRUE(host_.at_rest());
    }

    [[nodiscard]] const NetworkNamespace& guest() const { return guest_; }
    [[nodiscard]] std::uint64_t counter(const std::string& name) const { return host_.counter(domain_, 0, name); }

private:
    Host host_;
    NetworkNamespace guest_;
    unsigned domain_;
    std::optional<Process> program_;
};

class TunnelEndsTest : public testing::Test {
protected:
    void SetUp() override {
        UVIF_NEEDS_PRIVILEGE();
        for (const char* name : {"iperf3", "ping", "ethtool"}) {
            if (!has_program(name)) {
                GTEST_SKIP() << "there is no " << name << "; tools/install-packages test installs it";
            }
        }
        near_.emplace();
        far_.emplace();
        ASSERT_TRUE(
            near_->shell(fmt::format("ip link set lo up; ip link add near type veth peer name far netns /proc/{}/fd/{}",
                                     ::getpid(), far_->fd())));
        ASSERT_TRUE(near_->shell(fmt::format("ip addr add {}/24 dev near; ip link set near up", near_place.underlay)));
        ASSERT_TRUE(far_->shell("ip link set lo up; ip link set far up"));
    }

    void address_far() { ASSERT_TRUE(far_->shell(fmt::format("ip addr add {}/24 dev far", far_place.underlay))); }

    /// Ping, then iperf3 to and fro, and the checksums at both ends.
    static void expect_traffic(const NetworkNamespace& from, const NetworkNamespace& to, const Place& there) {
        // The first may be lost while everybody looks for everybody.
        EXPECT_TRUE(
            eventually([&] { return run({{"ping", "-c", "1", "-W", "1", there.v4}, {}, from.fd()}).status == 0; }));
        for (const char* size : {"1400", "8000"}) {
            EXPECT_TRUE(from.shell(fmt::format("ping -c 3 -i 0.01 -W 10 -s {} {}", size, there.v4)));
        }
        for (const char* address : {there.v4, there.v6}) {
            for (const char* direction : {"", "-R"}) {
                iperf3(from, to, address, {direction});
            }
        }
        iperf3(from, to, there.v4, {"-u", "-b", "200M", "-l", "1400"});
        for (const NetworkNamespace* network : {&from, &to}) {
            EXPECT_EQ(network->counter("Tcp", "InCsumErrors"), 0);
            EXPECT_EQ(network->counter("Udp", "InCsumErrors"), 0);
        }
    }

    static void iperf3(const NetworkNamespace& from, const NetworkNamespace& to, const char* address,
                       const std::vector<std::string>& options) {
        const TemporaryDirectory directory;
        Process server({{"iperf3", "-s", "-1", "--forceflush"}, {}, to.fd()}, directory.path() + "/server");
        ASSERT_TRUE(
            eventually([&] { return !server.running() || server.output().find("listening") != std::string::npos; }));
        Launch client{{"iperf3", "-c", address, "-n", "20M"}, {}, from.fd()};
        for (const std::string& option : options) {
            if (!option.empty()) {
                client.words.push_back(option);
            }
        }
        const Outcome outcome = run(client);
        EXPECT_EQ(outcome.status, 0) << address << ": " << outcome.output;
        EXPECT_EQ(server.wait(), 0) << server.output();
    }

    std::optional<NetworkNamespace> near_, far_;
};

TEST_F(TunnelEndsTest, TheKernels) {
    address_far();
    far_->shell(
        fmt::format("ip link add vx0 type vxlan id 42 local {} remote {} dstport 4789 && ip link set vx0 up && "
                    "ip addr add {}/24 dev vx0 && ip addr add {}/64 dev vx0 nodad",
                    far_place.underlay, near_place.underlay, far_place.v4, far_place.v6));
    const OurHost ours(*near_, near_place, far_place);
    expect_traffic(ours.guest(), *far_, far_place);
    EXPECT_GT(ours.counter("tx_gso_packets"), 0U);
}

TEST_F(TunnelEndsTest, Ours) {
    address_far();
    const OurHost ours(*near_, near_place, far_place);
    const OurHost other(*far_, far_place, near_place, "epoll");
    expect_traffic(ours.guest(), other.guest(), far_place);
    for (const OurHost* host : {&ours, &other}) {
        EXPECT_GT(host->counter("tx_gso_packets"), 0U);
        EXPECT_EQ(host->counter("port_dropped"), 0U);
        // Both loops hear what the kernel is done with. It had to copy: the other host is this one.
        EXPECT_GT(host->counter("port_zerocopy_copied") + host->counter("port_zerocopy_sent"), 0U);
    }
}

/// Open vSwitch in a folder and a namespace of its own.
class OpenVSwitch {
public:
    explicit OpenVSwitch(const NetworkNamespace& network) : network_(network) {
        const std::string folder = directory_.path();
        control({"ovsdb-tool", "create", folder + "/conf.db", "/usr/share/openvswitch/vswitch.ovsschema"});
        start({"ovsdb-server", folder + "/conf.db", "--remote=p" + socket(), "--unixctl=" + folder + "/db.ctl"});
        EXPECT_TRUE(eventually([this] { return configure({"--no-wait", "init"}).status == 0; }));
        start({"ovs-vswitchd", socket(), "--disable-system", "--unixctl=" + folder + "/switch.ctl"});
    }
    OpenVSwitch(const OpenVSwitch&) = delete;
    OpenVSwitch& operator=(const OpenVSwitch&) = delete;
    ~OpenVSwitch() {
        while (!programs_.empty()) {
            programs_.back().send(SIGTERM);
            EXPECT_TRUE(programs_.back().wait().has_value());
            programs_.pop_back();
        }
    }

    /// Words of ovs-vsctl; it waits until the switch has done what they say.
    Outcome configure(const std::vector<std::string>& words) {
        std::vector<std::string> all{"ovs-vsctl", "--db=" + socket(), "--timeout=30"};
        all.insert(all.end(), words.begin(), words.end());
        return control(all);
    }

private:
    [[nodiscard]] std::string socket() const { return fmt::format("unix:{}/db.sock", directory_.path()); }
    [[nodiscard]] Launch launch(const std::vector<std::string>& words) const {
        Launch made{words, {}, network_.fd()};
        for (const char* name : {"OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"}) {
            made.environment.push_back(fmt::format("{}={}", name, directory_.path()));
        }
        return made;
    }
    Outcome control(const std::vector<std::string>& words) const { return run(launch(words)); }
    void start(const std::vector<std::string>& words) {
        programs_.emplace_back(launch(words), fmt::format("{}/{}.log", directory_.path(), words[0]));
    }

    const NetworkNamespace& network_;
    TemporaryDirectory directory_;
    std::vector<Process> programs_;
};

/// Its datapath has no offloads: it takes whole checksums only, and computes none of TCP's.
TEST_F(TunnelEndsTest, OpenVSwitchs) {
    if (!has_program("ovs-vswitchd")) {
        GTEST_SKIP() << "there is no Open vSwitch; tools/install-packages test installs it";
    }
    ASSERT_TRUE(near_->shell("ethtool -K near tx off"));
    OpenVSwitch vswitch(*far_);
    const Outcome made = vswitch.configure({"add-br",
                                            "underlay",
                                            "--",
                                            "set",
                                            "bridge",
                                            "underlay",
                                            "datapath_type=netdev",
                                            "--",
                                            "add-port",
                                            "underlay",
                                            "far",  //
                                            "--",
                                            "add-br",
                                            "inside",
                                            "--",
                                            "set",
                                            "bridge",
                                            "inside",
                                            "datapath_type=netdev",
                                            "--",
                                            "add-port",
                                            "inside",
                                            "vx0",
                                            "--",
                                            "set",
                                            "interface",
                                            "vx0",
                                            "type=vxlan",
                                            fmt::format("options:remote_ip={}", near_place.underlay),
                                            "options:key=42"});
    ASSERT_EQ(made.status, 0) << made.output;
    ASSERT_TRUE(
        far_->shell(fmt::format("ip addr add {}/24 dev underlay; ip link set underlay up; ethtool -K inside tx off; "
                                "ip link set inside mtu 1450 up; ip addr add {}/24 dev inside; "
                                "ip addr add {}/64 dev inside nodad",
                                far_place.underlay, far_place.v4, far_place.v6)));
    const OurHost ours(*near_, near_place, far_place);
    expect_traffic(ours.guest(), *far_, far_place);
}

}  // namespace
}  // namespace uvif::test
