// SPDX-License-Identifier: MIT
// What the programs say when they are used wrongly, or when the machine is not as they need it: one line that tells
// what, why and what to do; a status that is not 0; and never a program that hangs.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>

#include "emulated/host.hpp"
#include "emulated/raw_guest.hpp"
#include "runtime/limits.hpp"
#include "runtime/unique_fd.hpp"
#include "support/network_namespace.hpp"

namespace uvif::test {
namespace {

using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;
using testing::StartsWith;

/// A failure in one line that begins with the program's name and holds `why`.
void expect_mistake(const Launch& launch, const std::string& why) {
    const Outcome outcome = run(launch);
    const std::string name = launch.words[0].substr(launch.words[0].rfind('/') + 1);
    SCOPED_TRACE(fmt::format("{}", fmt::join(launch.words, " ")));
    EXPECT_GT(outcome.status, 0);
    EXPECT_LT(outcome.status, 128);
    EXPECT_THAT(outcome.output, AllOf(StartsWith(name + ": "), HasSubstr(why)));
    EXPECT_EQ(std::ranges::count(outcome.output, '\n'), 1) << outcome.output;
}

/// What the parser of options refuses: its sentence, and where to find help.
void expect_usage(const Launch& launch, const std::string& why) {
    const Outcome outcome = run(launch);
    SCOPED_TRACE(fmt::format("{}", fmt::join(launch.words, " ")));
    EXPECT_GT(outcome.status, 0);
    EXPECT_LT(outcome.status, 128);
    const std::string name = launch.words[0].substr(launch.words[0].rfind('/') + 1);
    EXPECT_THAT(outcome.output, AllOf(StartsWith(name + ": "), HasSubstr(why), HasSubstr("see " + name + " --help")));
    EXPECT_EQ(std::ranges::count(outcome.output, '\n'), 1) << outcome.output;
}

TEST(MistakesTest, OptionsThatAreNone) {
    for (const char* name : {"uvif-netback", "uvif-tap", "uvif-perf", "uvif-ctl", "uvif-machine"}) {
        expect_usage({{program(name), "--nonsense"}}, "");
    }
    const auto netback = [](const std::string& option, const std::string& value) {
        expect_usage({{program("uvif-netback"), option, value}}, option);
    };
    for (const char* value : {"0", "-1", "65", "many", "", "4294967297"}) {
        netback("--workers", value);
        netback("--max-queues", value);
    }
    for (const char* option : {"--strategy", "--unmap", "--loop", "--log-level", "--spin-us"}) {
        netback(option, "x");
    }
    netback("--spin-us", "1.5");
    expect_usage({{program("uvif-netback"), "--spin-us", "1.5"}}, "'1.5' is no whole number");
    expect_usage({{program("uvif-tap"), "--queues", "0"}}, "--queues");
    expect_usage({{program("uvif-tap"), "--ready-fd", "77"}}, "no descriptor");
    expect_usage({{program("uvif-machine"), "start", "x", "--ready-fd", "77"}}, "no descriptor");
    expect_usage({{program("uvif-tap"), "--tx-buffers", "17"}}, "--tx-buffers");
    expect_usage({{program("uvif-perf"), "--tx", "--rx"}}, "");
    expect_usage({{program("uvif-perf"), "--tx", "--size", "59"}}, "--size");
    expect_usage({{program("uvif-perf"), "--tx", "--self", "--device", "0"}}, "--self");
}

TEST(MistakesTest, EveryProgramTellsItsVersion) {
    for (const std::string name : {"uvif-netback", "uvif-tap", "uvif-perf", "uvif-ctl", "uvif-machine"}) {
        const Outcome outcome = run({{program(name), "--version"}});
        EXPECT_EQ(outcome.status, 0) << name;
        EXPECT_THAT(outcome.output, StartsWith(name + " "));
    }
}

TEST(MistakesTest, OutputThatNobodyTakes) {
    Host host;
    const std::vector<std::vector<std::string>> commands{
        {program("uvif-netback"), "--version"},
        {program("uvif-tap"), "--help"},
        {program("uvif-ctl"), "--hypervisor", host.hypervisor(0), "list"},
        {program("uvif-machine"), "list", host.machine_directory()},
        {program("uvif-machine"), "create", host.machine_directory()},
        {program("uvif-perf"), "--self", "--tx", "-t", "0.1"},
        {program("uvif-perf"), "--self", "--tx", "-t", "0.1", "-J"},
    };
    for (const auto& command : commands) {
        for (const char* shell : {"exec \"$@\" >/dev/full", "exec \"$@\" >&-"}) {
            std::vector<std::string> words{"sh", "-c", shell, "sh"};
            words.insert(words.end(), command.begin(), command.end());
            const Outcome outcome = run({words});
            SCOPED_TRACE(fmt::format("{}", fmt::join(words, " ")));
            EXPECT_EQ(outcome.status, 1);
            EXPECT_THAT(outcome.output, HasSubstr(": cannot write to the standard output: "));
            EXPECT_EQ(std::ranges::count(outcome.output, '\n'), 1) << outcome.output;
        }
    }
}

TEST(MistakesTest, AMachineWithoutDescriptors) {
    for (unsigned limit = 16; limit <= 24; ++limit) {  // each runs out somewhere else
        const std::string shell = fmt::format("ulimit -n {}; exec \"$@\"", limit);
        const Outcome outcome = run({{"sh", "-c", shell, "sh", program("uvif-perf"), "--self", "--tx", "-t", "0.1"}});
        EXPECT_EQ(outcome.status, 1) << limit;
        EXPECT_THAT(outcome.output, HasSubstr("ulimit -n")) << limit;
    }
}

TEST(MistakesTest, PortsThatAreNone) {
    for (const char* port : {"", "tape", "null", "null:", "null:generate", "null:generate,", "null:generate,59",
                             "null:generate,65536", "null:generate,x", "null:generate,60 ", "%s\n\x01"}) {
        expect_mistake({{program("uvif-netback"), "--port", port}}, "choose");
    }
}

TEST(MistakesTest, HypervisorsThatAreNone) {
    const TemporaryDirectory directory;
    const std::string nobody = directory.path() + "/nobody";
    const UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, nobody.c_str(), sizeof address.sun_path - 1);
    ASSERT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    std::ofstream(directory.path() + "/file") << "no socket";

    for (const Launch& launch : {Launch{{program("uvif-netback"), "--port", "null:sink"}},
                                 Launch{{program("uvif-perf"), "--tx", "-t", "0.1"}}}) {
        for (const std::string& choice :
             {std::string("banana"), std::string("emulated"), std::string("emulated:"), "emulated:" + nobody,
              "emulated:" + directory.path(), "emulated:" + directory.path() + "/file",
              "emulated:" + directory.path() + "/missing", "emulated:" + std::string(200, 'x')}) {
            Launch by_environment = launch;
            by_environment.environment = {"UVIF_HYPERVISOR=" + choice};
            expect_mistake(by_environment, "");
            Launch by_option = launch;
            by_option.words.insert(by_option.words.end(), {"--hypervisor", choice});
            expect_mistake(by_option, "");
        }
    }
}

TEST(MistakesTest, NobodyToAsk) {
    Host host({.daemon = false});
    expect_mistake({{program("uvif-ctl"), "--hypervisor", host.hypervisor(0), "list"}}, "");
    expect_mistake({{program("uvif-ctl"), "--control", "/nonexistent/socket", "list"}}, "/nonexistent/socket");
    expect_mistake({{program("uvif-ctl"), "--control", "/dev/null", "list"}}, "no socket");
    expect_mistake({{program("uvif-ctl"), "--control", "/" + std::string(200, 'x'), "list"}}, "shorter");
    expect_mistake({{program("uvif-ctl"), "--hypervisor", "bogus", "list"}}, "there is no hypervisor 'bogus'");
    expect_usage({{program("uvif-ctl"), "show", std::string(100000, 'v')}}, "no vif has such a name");
    host.start_daemon();
    expect_mistake({{program("uvif-ctl"), "--hypervisor", host.hypervisor(0), "show", "vif9.9"}}, "vif9.9");
    expect_mistake({{program("uvif-perf"), "--tx", "--hypervisor", host.hypervisor(9)}}, "");
    const unsigned domain = host.create();
    expect_mistake({{program("uvif-perf"), "--tx", "--hypervisor", host.hypervisor(domain)}}, "vif");
    host.attach(domain);
    expect_mistake({{program("uvif-perf"), "--tx", "--device", "3", "--hypervisor", host.hypervisor(domain)}}, "3");
}

TEST(MistakesTest, TwoDaemonsOfOneDomain) {
    Host host;
    expect_mistake({host.daemon_words()}, "another uvif-netback serves this domain");
    EXPECT_FALSE(host.ask({"version"}).is_null()) << "the first one lost its socket";
}

TEST(MistakesTest, ControlSocketsThatCannotBe) {
    Host host({.daemon = false});
    std::ofstream(host.directory() + "/file") << "mine";
    expect_mistake({host.daemon_words({"--control", host.directory() + "/file"})}, "--control");
    EXPECT_EQ(read_file(host.directory() + "/file"), "mine");
    expect_mistake({host.daemon_words({"--control", "/nonexistent/socket"})}, "--control");
    expect_mistake({host.daemon_words({"--control", "/" + std::string(200, 'x')})}, "--control");
}

TEST(MistakesTest, TwoDaemonsOfOneControlSocket) {
    Host first;
    Host second({.daemon = false});
    const std::string control = first.hypervisor(0).substr(std::string("emulated:").size()) + ".netback";
    ASSERT_TRUE(std::filesystem::is_socket(control));
    expect_mistake({second.daemon_words({"--control", control})}, "is in use");
    EXPECT_FALSE(first.ask({"version"}).is_null()) << "the first one lost its socket";
    first.daemon().send(SIGKILL);
    ASSERT_TRUE(first.daemon().wait().has_value());
    ASSERT_TRUE(std::filesystem::is_socket(control));
    Process heir({second.daemon_words({"--control", control})}, second.directory() + "/heir.log");
    EXPECT_TRUE(eventually([&] { return !first.ask({"version"}).is_null() || !heir.running(); }));
    EXPECT_TRUE(heir.running()) << heir.output();
}

sockaddr_un address_of(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    return address;
}

UniqueFd connect_to(const std::string& path) {
    UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const timeval enough{5, 0};  // a test fails then, and does not hang
    EXPECT_EQ(::setsockopt(client.get(), SOL_SOCKET, SO_RCVTIMEO, &enough, sizeof enough), 0);
    const sockaddr_un address = address_of(path);
    EXPECT_EQ(::connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    return client;
}

TEST(MistakesTest, NoDescriptorForAClient) {
    Host host;
    ASSERT_FALSE(host.ask({"version"}).is_null());
    const auto taken = [&host](unsigned fd) {
        std::error_code none;
        return std::filesystem::is_symlink(fmt::format("/proc/{}/fd/{}", host.daemon().pid(), fd), none);
    };
    unsigned next = 0;
    while (taken(next)) {
        ++next;
    }
    rlimit old{};
    ASSERT_EQ(::prlimit(host.daemon().pid(), RLIMIT_NOFILE, nullptr, &old), 0);
    EXPECT_EQ(old.rlim_cur, old.rlim_max) << "it has not taken what it may have";
    // It may still be about to close that of the first question: clients that find one use it up.
    const rlimit tight{next, old.rlim_max};
    ASSERT_EQ(::prlimit(host.daemon().pid(), RLIMIT_NOFILE, &tight, nullptr), 0);
    const std::string control = host.hypervisor(0).substr(std::string("emulated:").size()) + ".netback";
    std::vector<UniqueFd> clients;
    bool refused = false;
    while (clients.size() < limits::control_connections && !refused) {
        clients.push_back(connect_to(control));
        const std::string_view request = "{\"command\":\"version\"}\n";
        // One that is refused may already be closed.
        (void)::send(clients.back().get(), request.data(), request.size(), MSG_NOSIGNAL);
        std::array<char, 512> reply;
        refused = ::recv(clients.back().get(), reply.data(), reply.size(), 0) <= 0;
    }
    EXPECT_TRUE(refused);
    const auto before = host.processor_time();
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    EXPECT_LT(host.processor_time() - before, std::chrono::milliseconds(200)) << "it spins";
    ASSERT_EQ(::prlimit(host.daemon().pid(), RLIMIT_NOFILE, &old, nullptr), 0);
    clients.clear();
    EXPECT_FALSE(host.ask({"version"}).is_null());
}

TEST(MistakesTest, AClientThatAsksWithoutEndAndDoesNotRead) {
    Host host;
    const std::string control = host.hypervisor(0).substr(std::string("emulated:").size()) + ".netback";
    const UniqueFd client = connect_to(control);
    const std::size_t before = host.resident_kib();
    // A line without anything in it is answered with a hundred octets or so.
    const std::string requests(1 << 20, '\n');
    std::size_t sent = 0;
    for (ssize_t more = 1; sent < 64 * requests.size() && more > 0;
         sent += static_cast<std::size_t>(std::max<ssize_t>(more, 0))) {
        pollfd room{client.get(), POLLOUT, 0};
        if (::poll(&room, 1, 500) != 1) {
            break;
        }
        more = ::send(client.get(), requests.data(), requests.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    EXPECT_LT(sent, 4 * requests.size()) << "it reads on for one that does not";
    if (memory_is_ours) {
        EXPECT_LT(host.resident_kib(), before + 256);
    }
    EXPECT_FALSE(host.ask({"version"}).is_null()) << "others are held up";
    std::array<char, 65536> replies;
    EXPECT_GT(::recv(client.get(), replies.data(), replies.size(), 0), 0);
}

TEST(MistakesTest, AMachineThatEndsUnderTheDaemon) {
    Host stopped;
    Host killed;
    for (Host* host : {&stopped, &killed}) {
        const unsigned domain = host->create();
        host->attach(domain);
        RawGuest guest(*host, domain);
        guest.connect();
        ASSERT_TRUE(guest.backend_reaches("4"));
        host->hypervisor_process().send(host == &stopped ? SIGTERM : SIGKILL);
        ASSERT_TRUE(host->hypervisor_process().wait().has_value());
    }
    for (Host* host : {&stopped, &killed}) {
        EXPECT_EQ(host->daemon().wait(std::chrono::seconds(20)), 1);
        EXPECT_THAT(host->log(), HasSubstr("the connection to xenstore is lost"));
    }
}

TEST(MistakesTest, AGuestWithoutRoomInTheStore) {
    Host host;
    const unsigned domain = host.create();
    host.attach(domain);
    const auto store = host.store_of(domain);
    unsigned nodes = 0;
    while (nodes < 5000 && store->write(fmt::format("/local/domain/{}/data/{}", domain, nodes), "")) {
        ++nodes;
    }
    ASSERT_LT(nodes, 5000U) << "there is no quota";
    expect_mistake({{program("uvif-perf"), "--tx", "-t", "0.1", "--hypervisor", host.hypervisor(domain)}}, "");
    for (unsigned i = 0; i < 100; ++i) {
        ASSERT_TRUE(store->remove(fmt::format("/local/domain/{}/data/{}", domain, i)).has_value());
    }
    const Outcome outcome = run({{program("uvif-perf"), "--tx", "-t", "0.1", "--hypervisor", host.hypervisor(domain)}});
    EXPECT_EQ(outcome.status, 0) << outcome.output;
}

/// How the daemon is started so that it lacks what a TAP needs, and what it then says of the vif.
struct Lack {
    const char* name;
    std::vector<std::string> prefix;
    const char* sentence;
};

void PrintTo(const Lack& lack, std::ostream* out) {
    *out << lack.name;
}

class LackTest : public testing::TestWithParam<Lack> {};

TEST_P(LackTest, ClosesTheVifWithASentence) {
    UVIF_NEEDS_PRIVILEGE();
    const NetworkNamespace network;
    Host host({.port = "tap", .network = network.fd(), .daemon = false});
    Launch launch{GetParam().prefix, {}, network.fd()};
    const auto words = host.daemon_words();
    launch.words.insert(launch.words.end(), words.begin(), words.end());
    Process daemon(launch, host.directory() + "/lacking.log");
    ASSERT_TRUE(eventually([&] { return !host.ask({"version"}).is_null() || !daemon.running(); }));
    ASSERT_TRUE(daemon.running()) << daemon.output();

    const unsigned domain = host.create();
    host.write_vif(domain, Host::vif_keys(domain));
    EXPECT_TRUE(host.reaches(Host::backend(domain), "6"));
    EXPECT_THAT(host.read(Host::error_key(domain)).value_or(""), HasSubstr(GetParam().sentence));
    EXPECT_THAT(daemon.output(), HasSubstr(GetParam().sentence));
    const auto shown = host.ask({"show", fmt::format("vif{}.0", domain)});
    EXPECT_EQ(shown.value("port", ""), "tap") << shown;
    const auto begun = std::chrono::steady_clock::now();
    const Outcome attached = host.machine("attach", {std::to_string(host.create())});
    EXPECT_EQ(attached.status, 1);
    EXPECT_THAT(attached.output, AllOf(HasSubstr("refused: "), HasSubstr(GetParam().sentence)));
    EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(5)) << "as if nobody had answered";
    daemon.send(SIGTERM);
    EXPECT_EQ(daemon.wait(), 0);
}

const std::vector<std::string> hidden{"unshare", "--mount", "sh", "-c", "mount -t tmpfs none /dev/net && exec \"$@\"",
                                      "sh"};
const std::vector<std::string> masked{
    "unshare", "--mount", "sh", "-c", "mount --bind /dev/null /dev/net/tun && exec \"$@\"", "sh"};
const std::vector<std::string> without_right{"setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"};

TEST(MistakesTest, AnInterfaceThatIsDeletedInUseIsToldAtOnce) {
    UVIF_NEEDS_PRIVILEGE();
    const NetworkNamespace network;
    Host host({.port = "tap", .network = network.fd()});
    const unsigned domain = host.create();
    host.attach(domain);
    RawGuest guest(host, domain, 0, 2);
    guest.connect();
    ASSERT_TRUE(guest.backend_reaches("4"));
    ASSERT_TRUE(network.shell(fmt::format("ip link del vif{}.0", domain)));
    const std::string line = fmt::format("vif{0}.0: the interface vif{0}.0 was deleted", domain);
    ASSERT_TRUE(eventually([&] { return host.log().contains(line); })) << host.log();
    EXPECT_EQ(host.log().find(line), host.log().rfind(line)) << "once for all queues";
}

/// The one place behind a VXLAN port is free again when its guest could not connect.
TEST(MistakesTest, AGuestBehindATunnelThatConnectsWronglyMayTryAgain) {
    UVIF_NEEDS_PRIVILEGE();
    const NetworkNamespace network;
    ASSERT_TRUE(network.shell("ip link set lo up"));
    Host host({.port = "vxlan:vni=1,local=127.0.0.1,remote=127.0.0.2", .network = network.fd()});
    const unsigned domain = host.create();
    host.attach(domain);
    RawGuest guest(host, domain);
    for (const std::string key : {"ctrl-ring-ref", "event-channel-ctrl", "tx-ring-ref"}) {
        Keys keys = guest.keys();
        keys["ctrl-ring-ref"] = keys["rx-ring-ref"];
        keys["event-channel-ctrl"] = keys["event-channel-rx"];
        keys[key] = "4000";  // of nothing
        guest.announce(keys);
        ASSERT_TRUE(guest.backend_reaches("5"));
        EXPECT_THAT(host.read(Host::error_key(domain)).value_or(""), HasSubstr(key));
        guest.set_state("5");
        ASSERT_TRUE(guest.starts_over());
    }
    guest.connect();
    EXPECT_TRUE(guest.backend_reaches("4")) << host.read(Host::error_key(domain)).value_or("");
}

TEST(MistakesTest, RequestsThatAreNone) {
    Host host;
    const std::string control = host.hypervisor(0).substr(std::string("emulated:").size()) + ".netback";
    const UniqueFd client = connect_to(control);
    for (const std::string_view request :
         {"\n", "nonsense\n", "[]\n", "7\n", "{}\n", "{\"command\":7}\n", "{\"command\":\"show\"}\n"}) {
        ASSERT_GT(::send(client.get(), request.data(), request.size(), MSG_NOSIGNAL), 0);
        std::array<char, 512> reply{};
        ASSERT_GT(::recv(client.get(), reply.data(), reply.size() - 1, 0), 0);
        EXPECT_THAT(reply.data(), HasSubstr("a request is one JSON object a line")) << request;
    }
}

INSTANTIATE_TEST_SUITE_P(Lacks, LackTest,
                         testing::Values(Lack{"NoTunDevice", hidden, "load the kernel module tun"},
                                         Lack{"NullForTunDevice", masked, "cannot make the TAP interface"},
                                         Lack{"NoCapability", without_right, "CAP_NET_ADMIN is needed"}),
                         [](const auto& test) { return test.param.name; });

TEST(MistakesTest, AUserWithoutRights) {
    UVIF_NEEDS_PRIVILEGE();
    Host host({.daemon = false});
    std::vector<std::string> words{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"};
    const auto daemon = host.daemon_words();
    words.insert(words.end(), daemon.begin(), daemon.end());
    const Outcome outcome = run({words});
    EXPECT_EQ(outcome.status, 1);
    EXPECT_THAT(outcome.output, AllOf(StartsWith("uvif-netback: "), HasSubstr("ermission")));
}

}  // namespace
}  // namespace uvif::test
