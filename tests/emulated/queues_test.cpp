// SPDX-License-Identifier: MIT
//
// Many queues: as many as a vif can have, and thousands in all. They are spread over the workers, each flow stays in
// order, and an idle one costs little memory.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "emulated/host.hpp"
#include "emulated/raw_guest.hpp"
#include "uvif/netfront.hpp"

namespace uvif::test {
namespace {

using netfront::Device;

constexpr unsigned queues_of_a_vif = 64;
/// What an idle queue may cost the daemon, journal included.
constexpr std::size_t kib_per_idle_queue_max = 128;
constexpr unsigned flows = 128;
constexpr std::uint32_t packets_of_a_flow = 50;

/// Ethernet, IPv4 and TCP from a port of the flow's own, and the packet's number.
constexpr std::size_t frame_length = 60;
void write_frame(std::byte* to, unsigned flow, std::uint32_t number) {
    std::array<std::uint8_t, 54> headers{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 46};
    headers[23] = 6;
    headers[26] = headers[30] = 10;
    headers[33] = 1;
    headers[34] = 1;
    headers[35] = static_cast<std::uint8_t>(flow);
    headers[46] = 0x50;
    std::memset(to, 0, frame_length);
    std::memcpy(to, headers.data(), headers.size());
    std::memcpy(to + headers.size(), &number, sizeof number);
}

class QueuesTest : public testing::Test {
protected:
    static void SetUpTestSuite() {
        rlimit limit{};  // two descriptors a queue of ours
        ::getrlimit(RLIMIT_NOFILE, &limit);
        limit.rlim_cur = limit.rlim_max;
        ::setrlimit(RLIMIT_NOFILE, &limit);
    }

    std::unique_ptr<Device> connect(unsigned domain) {
        netfront::Config config;
        config.hypervisor = host.hypervisor(domain);
        config.queues = queues_of_a_vif;
        config.tx_buffers = 32;
        config.rx_buffers = 64;
        config.split_event_channels = false;
        auto device = Device::connect(config);
        EXPECT_TRUE(device) << device.error().message;
        return device ? std::move(*device) : nullptr;
    }

    /// Sends each flow on a queue of its own, and expects all of it back, on one queue, in order. Returns that queue of
    /// each flow.
    static std::vector<unsigned> exchange(Device& device) {
        std::vector<std::uint32_t> sent(flows, 0);
        std::vector<std::uint32_t> came(flows, 0);
        std::vector<unsigned> by(flows, 0);
        const auto end = std::chrono::steady_clock::now() + patience;
        const auto all_came = [&] { return std::ranges::all_of(came, [](auto n) { return n == packets_of_a_flow; }); };
        while (!all_came() && std::chrono::steady_clock::now() < end) {
            for (unsigned flow = 0; flow < flows; ++flow) {
                netfront::Queue& queue = device.queue(flow % device.queue_count());
                netfront::Packet packet;
                packet.fragment_count = 1;
                // No more under way than the smallest buffer in between takes.
                if (sent[flow] == packets_of_a_flow || sent[flow] - came[flow] >= 8 ||
                    queue.allocate(std::span(packet.fragments).first(1)) == 0) {
                    continue;
                }
                write_frame(packet.fragments[0].data, flow, sent[flow]++);
                packet.fragments[0].length = frame_length;
                EXPECT_EQ(queue.send(std::span(&packet, 1)), 1U);
            }
            for (unsigned q = 0; q < device.queue_count(); ++q) {
                netfront::Queue& queue = device.queue(q);
                std::array<netfront::Packet, 32> packets;
                const auto got = std::span(packets).first(queue.receive(packets));
                for (const netfront::Packet& packet : got) {
                    const auto flow = std::to_integer<unsigned>(packet.fragments[0].data[35]);
                    std::uint32_t number = 0;
                    std::memcpy(&number, packet.fragments[0].data + 54, sizeof number);
                    EXPECT_EQ(number, came.at(flow)) << "flow " << flow << " on queue " << q;
                    EXPECT_TRUE(came[flow] == 0 || by[flow] == q) << "flow " << flow << " changes its queue";
                    by[flow] = q;
                    ++came[flow];
                }
                queue.release(got);
                (void)queue.arm(true);
            }
        }
        EXPECT_TRUE(all_came()) << "some never came";
        return by;
    }

    /// How many queues of a vif each worker has.
    [[nodiscard]] std::vector<std::size_t> spread(unsigned domain) const {
        std::vector<std::size_t> queues(2, 0);
        const auto vif = host.ask({"show", "vif" + std::to_string(domain) + ".0"});
        for (const auto& worker : vif.at("workers")) {
            ++queues.at(worker.get<std::size_t>());
        }
        return queues;
    }

    Host host{
        {.arguments = {"--workers", "2"}, .machine = {"--gntalloc-limit", "8192"}, .max_queues = queues_of_a_vif}};
};

TEST_F(QueuesTest, SixtyFourOfAVifStayInOrder) {
    const unsigned domain = host.create();
    host.attach(domain);
    {
        const auto device = connect(domain);
        ASSERT_NE(device, nullptr);
        ASSERT_EQ(device->queue_count(), queues_of_a_vif);
        EXPECT_EQ(spread(domain), (std::vector<std::size_t>{32, 32}));
        const auto own = exchange(*device);
        for (unsigned flow = 0; flow < flows; ++flow) {
            EXPECT_EQ(own[flow], flow % queues_of_a_vif) << "reflected where it was sent";
        }
        // The guest's hash: flows that were sent on any queue come back on the one that it says.
        std::array<std::uint8_t, 40> key{};
        for (std::size_t i = 0; i < key.size(); ++i) {
            key[i] = static_cast<std::uint8_t>(i * 29 + 3);
        }
        ASSERT_TRUE(device->steer_by_hash({.types = HashTypes::all, .key = key, .mapping = {}}));
        const auto hashed = exchange(*device);
        EXPECT_NE(hashed, own);
        EXPECT_GT(host.counter(domain, 0, "rx_steered"), 0U);
    }
    host.destroy(domain);
    EXPECT_TRUE(host.at_rest());
}

/// Whole vifs connect and stay idle; what one more does beside them does not suffer.
TEST_F(QueuesTest, ThousandsInAllTakeLittleMemory) {
    constexpr unsigned vifs = 31;
    std::vector<std::unique_ptr<RawGuest>> idle;
    const unsigned busy = host.create();
    host.attach(busy);
    const auto daemon = [this] { return host.ask({"version"}); };
    const auto before = daemon().at("resident_kib").get<std::size_t>();
    for (unsigned i = 0; i < vifs; ++i) {
        const unsigned domain = host.create();
        host.attach(domain);
        idle.push_back(std::make_unique<RawGuest>(host, domain, 0, queues_of_a_vif));
        idle.back()->connect(false);
    }
    ASSERT_TRUE(eventually([&] { return daemon().at("queues") == vifs * queues_of_a_vif; }));
    for (const auto& guest : idle) {
        ASSERT_TRUE(guest->backend_reaches("4"));
        EXPECT_EQ(spread(guest->domain()), (std::vector<std::size_t>{32, 32}));
    }
    const auto after = daemon().at("resident_kib").get<std::size_t>();
    const std::size_t each = (after - before) / (vifs * queues_of_a_vif);
    std::printf("%u idle queues: %zu KiB each (%zu before, %zu after)\n", vifs * queues_of_a_vif, each, before, after);
    RecordProperty("kib_per_idle_queue", static_cast<int>(each));
    if (memory_is_ours) {
        EXPECT_LE(each, kib_per_idle_queue_max);
    }
    {
        const auto device = connect(busy);
        ASSERT_NE(device, nullptr);
        EXPECT_EQ(daemon().at("queues"), (vifs + 1) * queues_of_a_vif);
        (void)exchange(*device);
    }
    for (const auto& guest : idle) {
        host.destroy(guest->domain());
    }
    idle.clear();
    host.destroy(busy);
    EXPECT_TRUE(host.at_rest());
}

}  // namespace
}  // namespace uvif::test
