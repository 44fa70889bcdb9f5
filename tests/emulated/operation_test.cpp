// SPDX-License-Identifier: MIT
// What whoever runs the host sees and sets: a vif's rate limit, and the service manager's readiness.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <string>

#include "emulated/host.hpp"
#include "emulated/traffic_guest.hpp"
#include "runtime/unique_fd.hpp"

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
