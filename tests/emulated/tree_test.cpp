// SPDX-License-Identifier: MIT
// The store as stock tools show it while a vif of two queues is connected: every key, value and permission.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>
#include <set>
#include <sstream>
#include <string>

#include "emulated/host.hpp"
#include "emulated/traffic_guest.hpp"

namespace uvif::test {
namespace {

/// The lines of `listing` under `folder`, without it, and with the values of `volatile_keys` masked.
std::string under(const std::string& listing, const std::string& folder) {
    static const std::regex volatile_keys("((?:ring-ref|event-channel-(?:ctrl|[tr]x)) = )\"[1-9][0-9]*\"");
    std::set<std::string> found;  // stores differ in their order
    std::istringstream lines(listing);
    for (std::string line; std::getline(lines, line);) {
        if (line.starts_with(folder + "/")) {
            found.insert(std::regex_replace(line.substr(folder.size() + 1), volatile_keys, "$1\"N\""));
        }
    }
    return fmt::format("\n{}\n", fmt::join(found, "\n"));
}

TEST(TreeTest, LooksAsTheProtocolSays) {
    Host host;
    const unsigned domain = host.create();
    host.attach(domain, "mac=00:16:3e:01:02:03");
    {
        const TrafficGuest guest(host.hypervisor(domain), 2);
        ASSERT_TRUE(guest.connected()) << guest.failure();
        const Outcome listing = run({{"xenstore-ls", "-fp"}, {"XENSTORED_PATH=" + host.store_socket(0)}});
        ASSERT_EQ(listing.status, 0) << listing.output;
        EXPECT_EQ(under(listing.output, Host::backend(domain)), R"(
carrier = "1"   (n0,r1)
feature-ctrl-ring = "1"   (n0,r1)
feature-dynamic-multicast-control = "1"   (n0,r1)
feature-gso-tcpv4 = "1"   (n0,r1)
feature-gso-tcpv6 = "1"   (n0,r1)
feature-ipv6-csum-offload = "1"   (n0,r1)
feature-multicast-control = "1"   (n0,r1)
feature-persistent = "1"   (n0,r1)
feature-rx-copy = "1"   (n0,r1)
feature-rx-flip = "0"   (n0,r1)
feature-sg = "1"   (n0,r1)
feature-split-event-channels = "1"   (n0,r1)
frontend = "/local/domain/1/device/vif/0"   (n0,r1)
frontend-id = "1"   (n0,r1)
handle = "0"   (n0,r1)
mac = "00:16:3e:01:02:03"   (n0,r1)
multi-queue-max-queues = "2"   (n0,r1)
online = "1"   (n0,r1)
state = "4"   (n0,r1)
type = "vif"   (n0,r1)
)");
        EXPECT_EQ(under(listing.output, Host::frontend(domain)), R"(
backend = "/local/domain/0/backend/vif/1/0"   (n1,r0)
backend-id = "0"   (n1,r0)
ctrl-ring-ref = "N"   (n1,r0)
event-channel-ctrl = "N"   (n1,r0)
feature-gso-tcpv4 = "1"   (n1,r0)
feature-gso-tcpv6 = "1"   (n1,r0)
feature-ipv6-csum-offload = "1"   (n1,r0)
feature-no-csum-offload = "0"   (n1,r0)
feature-rx-notify = "1"   (n1,r0)
feature-sg = "1"   (n1,r0)
handle = "0"   (n1,r0)
mac = "00:16:3e:01:02:03"   (n1,r0)
mtu = "1500"   (n0,r1)
multi-queue-num-queues = "2"   (n1,r0)
queue-0 = ""   (n1,r0)
queue-0/event-channel-rx = "N"   (n1,r0)
queue-0/event-channel-tx = "N"   (n1,r0)
queue-0/rx-ring-ref = "N"   (n1,r0)
queue-0/tx-ring-ref = "N"   (n1,r0)
queue-1 = ""   (n1,r0)
queue-1/event-channel-rx = "N"   (n1,r0)
queue-1/event-channel-tx = "N"   (n1,r0)
queue-1/rx-ring-ref = "N"   (n1,r0)
queue-1/tx-ring-ref = "N"   (n1,r0)
request-rx-copy = "1"   (n1,r0)
state = "4"   (n1,r0)
trusted = "1"   (n1,r0)
)");
    }
    host.destroy(domain);
}

}  // namespace
}  // namespace uvif::test
