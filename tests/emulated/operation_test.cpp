// SPDX-License-Identifier: MIT
// What whoever runs the host sees and sets: a vif's rate limit, and the service manager's readiness.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <string>

#include "emulated/host.hpp"
#include "emulated/raw_guest.hpp"
#include "emulated/traffic_guest.hpp"
#include "runtime/unique_fd.hpp"
#include "support/network_namespace.hpp"

namespace uvif::test {
namespace {

using testing::HasSubstr;

TEST(OperationTest, AGuestSendsNoFasterThanItsRate) {
    Host host;
    const unsigned domain = host.create();
    const auto begun = std::chrono::steady_clock::now();
    host.attach(domain, "rate=100KB/s@20ms");
    EXPECT_EQ(host.read(Host::backend(domain) + "/rate"), "2000,20000");
    TrafficGuest guest(host.hypervisor(domain), 2);
    ASSERT_TRUE(guest.connected()) << guest.failure();
    ASSERT_TRUE(eventually([&] { return host.counter(domain, 0, "tx_bytes") > 200'000; })) << "it may send that much";
    const std::uint64_t sent = host.counter(domain, 0, "tx_bytes");
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begun;
    EXPECT_LE(static_cast<double>(sent), 131'072 + elapsed.count() * 100'000) << "two queues share one rate";
    EXPECT_GT(host.counter(domain, 0, "tx_held_back"), 0U);

    // Changed while it runs, to what is none, and to none at all.
    host.write(Host::backend(domain) + "/rate", "fast");
    EXPECT_TRUE(eventually([&] { return host.counter(domain, 0, "tx_bytes") > sent + 2'000'000; }));
    EXPECT_THAT(host.log(), HasSubstr("/rate is \"fast\", expected BYTES,MICROSECONDS"));
    host.write(Host::backend(domain) + "/rate", "1,1000000");
    std::uint64_t before = 0;
    EXPECT_TRUE(eventually([&] { return std::exchange(before, host.counter(domain, 0, "tx_bytes")) == before; }));
    host.remove(Host::backend(domain) + "/rate");
    EXPECT_TRUE(eventually([&] { return host.counter(domain, 0, "tx_bytes") > before; })) << "woken, though it slept";
}

TEST(OperationTest, AGuestThatTakesNoPacketsLosesItsCarrier) {
    UVIF_NEEDS_PRIVILEGE();
    const NetworkNamespace network;
    Host host({.port = "tap", .arguments = {"--rx-stall-ms", "200"}, .network = network.fd()});
    const unsigned domain = host.create();
    host.attach(domain);
    RawGuest guest(host, domain);
    guest.connect();
    ASSERT_TRUE(guest.backend_reaches("4"));
    const std::string interface = fmt::format("vif{}.0", domain);
    ASSERT_TRUE(
        network.shell(fmt::format("ip link set {0} up; ip addr add 10.34.0.1/24 dev {0}; "
                                  "ip neigh add 10.34.0.2 lladdr 00:16:3e:00:00:01 dev {0}",
                                  interface)));
    UniqueFd socket;
    network.run([&socket] { socket.reset(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)); });
    const auto send = [&socket] {
        sockaddr_in to{};
        to.sin_family = AF_INET;
        to.sin_port = htons(9);
        to.sin_addr.s_addr = htonl(0x0a220002);
        (void)::sendto(socket.get(), "x", 1, MSG_DONTWAIT, reinterpret_cast<const sockaddr*>(&to), sizeof to);
    };
    const auto has_carrier = [&] {
        ifreq request{};
        interface.copy(request.ifr_name, IFNAMSIZ - 1);
        EXPECT_EQ(::ioctl(socket.get(), SIOCGIFFLAGS, &request), 0);
        return (request.ifr_flags & IFF_RUNNING) != 0;
    };
    const auto stalls = [&] {
        return eventually([&] {
            send();
            return !has_carrier() && host.read(guest.backend() + "/carrier") == "0";
        });
    };
    ASSERT_TRUE(eventually(has_carrier));
    ASSERT_TRUE(stalls());
    EXPECT_THAT(host.log(), HasSubstr(interface + ": the guest takes no packets: carrier off"));
    EXPECT_EQ(host.counter(domain, 0, "rx_stalls"), 1U);
    EXPECT_EQ(host.ask({"show", interface}).at("stalled_queues"), 1);

    guest.post_buffers(200);
    EXPECT_TRUE(eventually([&] { return has_carrier() && host.read(guest.backend() + "/carrier") == "1"; }));
    EXPECT_TRUE(eventually([&] {
        send();
        return host.counter(domain, 0, "rx_packets") > 100;
    })) << "what waited, and more";

    ASSERT_TRUE(stalls()) << "once that room is used up";
    guest.set_state("6");
    EXPECT_TRUE(eventually([&] { return host.read(guest.backend() + "/carrier") == "1"; }))
        << "who connects next does not inherit it";
}

// Type=notify: the service is up when its guests are served, not when its process runs.
TEST(OperationTest, TellsTheServiceManagerThatItServes) {
    const TemporaryDirectory directory;
    const std::string path = directory.path() + "/notify";
    const UniqueFd manager(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    ASSERT_EQ(::bind(manager.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    std::string heard;
    const auto hears = [&](const std::string& what) {
        return eventually([&] {
            std::array<char, 256> message;
            const ssize_t length = ::recv(manager.get(), message.data(), message.size(), 0);
            heard.append(message.data(), static_cast<std::size_t>(std::max<ssize_t>(length, 0)));
            return heard.contains(what);
        });
    };
    ASSERT_EQ(::setenv("NOTIFY_SOCKET", path.c_str(), 1), 0);
    Host host;
    ASSERT_EQ(::unsetenv("NOTIFY_SOCKET"), 0);
    EXPECT_TRUE(hears("READY=1")) << heard;
    host.daemon().send(SIGTERM);
    EXPECT_TRUE(hears("STOPPING=1")) << heard;
}

}  // namespace
}  // namespace uvif::test
