// SPDX-License-Identifier: MIT
//
// The control ring between the library and the daemon.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <set>
#include <vector>

#include "emulated/host.hpp"
#include "packet/toeplitz.hpp"
#include "uvif/netfront.hpp"

namespace uvif::test {
namespace {

using netfront::Device;

/// An Ethernet frame with IPv4 and TCP from port `flow`.
std::array<std::uint8_t, 60> tcp_frame(std::uint8_t flow) {
    std::array<std::uint8_t, 60> frame{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 46};
    frame[23] = 6;
    frame[26] = frame[30] = 10;
    frame[33] = 1;
    frame[35] = flow;
    frame[46] = 0x50;
    return frame;
}

class ControlTest : public testing::Test {
protected:
    /// Sends frames of `flows` flows on the first queue, and returns for each that came back its queue and what it is.
    struct Echo {
        unsigned queue;
        FlowHash hash;
        std::array<std::byte, 12> input;  ///< of the hash: addresses and ports
    };
    std::vector<Echo> echoes(Device& device, unsigned flows) {
        for (unsigned flow = 0; flow < flows; ++flow) {
            std::array<netfront::Fragment, 1> buffer{};
            EXPECT_EQ(device.queue(0).allocate(buffer), 1U);
            const auto frame = tcp_frame(static_cast<std::uint8_t>(flow));
            std::memcpy(buffer[0].data, frame.data(), frame.size());
            buffer[0].length = frame.size();
            netfront::Packet packet;
            packet.fragment_count = 1;
            packet.fragments[0] = buffer[0];
            EXPECT_EQ(device.queue(0).send(std::span(&packet, 1)), 1U);
        }
        std::vector<Echo> all;
        const auto end = std::chrono::steady_clock::now() + patience;
        while (all.size() < flows && std::chrono::steady_clock::now() < end) {
            for (unsigned q = 0; q < device.queue_count(); ++q) {
                std::array<netfront::Packet, 8> packets;
                const auto got = std::span(packets).first(device.queue(q).receive(packets));
                for (const netfront::Packet& packet : got) {
                    Echo echo{q, {packet.hash_type != 0 ? packet.hash : 0, packet.hash_type}, {}};
                    std::memcpy(echo.input.data(), packet.fragments[0].data + 26, echo.input.size());
                    all.push_back(echo);
                }
                device.queue(q).release(got);
                (void)device.queue(q).arm(true);
            }
        }
        EXPECT_EQ(all.size(), flows);
        return all;
    }

    [[nodiscard]] netfront::Config config() const {
        netfront::Config config;
        config.hypervisor = host.hypervisor(domain);
        config.queues = 2;
        return config;
    }

    Host host{{.arguments = {"--workers", "2"}}};
    unsigned domain = host.create();
    unsigned vif = host.attach(domain);
};

TEST_F(ControlTest, TheGuestsHashSteersWhatItReceives) {
    {
        auto device = Device::connect(config());
        ASSERT_TRUE(device) << device.error().message;
        ASSERT_TRUE((*device)->can_steer_by_hash());
        for (const Echo& echo : echoes(**device, 40)) {
            EXPECT_EQ(echo.hash.type, 0U) << "nobody asked for one";
            EXPECT_EQ(echo.queue, 0U) << "reflected where it was sent";
        }
        std::array<std::uint8_t, 40> key{};
        for (std::size_t i = 0; i < key.size(); ++i) {
            key[i] = static_cast<std::uint8_t>(i * 29 + 3);
        }
        const std::array<std::uint32_t, 5> mapping{1, 0, 0, 1, 1};
        auto set = (*device)->steer_by_hash({.types = HashTypes::all, .key = key, .mapping = mapping});
        ASSERT_TRUE(set) << set.error().message;
        const Toeplitz toeplitz{std::span(key)};
        std::set<unsigned> seen;
        for (const Echo& echo : echoes(**device, 40)) {
            EXPECT_EQ(echo.hash.type, HashTypes::ipv4_tcp);
            EXPECT_EQ(echo.hash.value, toeplitz(echo.input));
            EXPECT_EQ(echo.queue, mapping[echo.hash.value % mapping.size()]);
            seen.insert(echo.queue);
        }
        EXPECT_EQ(seen.size(), 2U);
        EXPECT_GT(host.counter(domain, vif, "rx_steered"), 0U);
        ASSERT_TRUE((*device)->steer_by_hash({}));
        for (const Echo& echo : echoes(**device, 10)) {
            EXPECT_EQ(echo.hash.type, 0U);
            EXPECT_EQ(echo.queue, 0U);
        }
        const std::array<std::uint32_t, 1> wrong{2};
        EXPECT_EQ((*device)->steer_by_hash({.types = 1, .key = key, .mapping = wrong}).error().code, EINVAL);
    }
    host.machine("detach", {std::to_string(domain), std::to_string(vif)});
    EXPECT_TRUE(host.at_rest());
}

TEST_F(ControlTest, AGuestThatLeavesWhileItIsSteeredLeavesNothing) {
    for (int round = 0; round < 5; ++round) {
        auto device = Device::connect(config());
        ASSERT_TRUE(device) << device.error().message;
        const std::array<std::uint32_t, 1> mapping{1};
        ASSERT_TRUE((*device)->steer_by_hash({.types = HashTypes::all, .key = {}, .mapping = mapping}));
        // They go to the second queue, which nobody looks at.
        for (unsigned i = 0; i < 200; ++i) {
            std::array<netfront::Fragment, 1> buffer{};
            if ((*device)->queue(0).allocate(buffer) == 0) {
                continue;
            }
            const auto frame = tcp_frame(static_cast<std::uint8_t>(i));
            std::memcpy(buffer[0].data, frame.data(), frame.size());
            buffer[0].length = frame.size();
            netfront::Packet packet;
            packet.fragment_count = 1;
            packet.fragments[0] = buffer[0];
            EXPECT_EQ((*device)->queue(0).send(std::span(&packet, 1)), 1U);
        }
    }
    host.machine("detach", {std::to_string(domain), std::to_string(vif)});
    EXPECT_TRUE(host.at_rest());
}

TEST_F(ControlTest, StaticGrantsNeedNoCallOfTheHypervisors) {
    const auto counter = [this](const char* name) { return host.counter(domain, vif, name); };
    for (const bool wanted : {true, false}) {
        netfront::Config with = config();
        with.static_grants = wanted;
        with.persistent_grants = false;
        auto device = Device::connect(with);
        ASSERT_TRUE(device) << device.error().message;
        EXPECT_EQ((*device)->static_buffers(), wanted ? 2U * (224 + 256) : 0U);
        EXPECT_EQ(counter("static_entries"), wanted ? 2U * (224 + 256) : 0U);
        (void)echoes(**device, 40);
        EXPECT_EQ(counter("tx_by_static"), wanted ? 40U : 0U);
        EXPECT_EQ(counter("tx_static_hits"), wanted ? 40U : 0U);
        EXPECT_EQ(counter("rx_static_hits"), wanted ? 40U : 0U);
        EXPECT_EQ(counter("tx_static_misses") + counter("rx_static_misses"), 0U);
        EXPECT_EQ(counter("tx_copy_calls") + counter("rx_copy_calls") == 0, wanted);
        EXPECT_EQ(counter("tx_map_calls"), 0U);
    }
    host.machine("detach", {std::to_string(domain), std::to_string(vif)});
    EXPECT_TRUE(host.at_rest()) << "nothing stays mapped";
}

/// Headers in their area, payload in buffers behind them; a page of headers and buffers alike stay mapped.
TEST_F(ControlTest, TheHeaderAreaIsStaticToo) {
    const auto counter = [this](const char* name) { return host.counter(domain, vif, name); };
    for (const bool statics : {true, false}) {
        netfront::Config with = config();
        with.queues = 1;
        with.static_grants = statics;
        with.tx_headers = 256;
        auto device = Device::connect(with);
        ASSERT_TRUE(device) << device.error().message;
        EXPECT_EQ((*device)->static_buffers(), statics ? 224U + 16 + 256 : 0U);
        netfront::Queue& queue = (*device)->queue(0);
        constexpr std::size_t payload = 1000;
        constexpr unsigned count = 40;
        for (unsigned i = 0; i < count; ++i) {
            netfront::Packet packet;
            packet.fragment_count = 2;
            ASSERT_EQ(queue.allocate_headers(std::span(packet.fragments).first(1)), 1U);
            ASSERT_EQ(queue.allocate(std::span(packet.fragments).subspan(1, 1)), 1U);
            const auto frame = tcp_frame(static_cast<std::uint8_t>(i));
            std::memcpy(packet.fragments[0].data, frame.data(), frame.size());
            std::memset(packet.fragments[1].data, static_cast<int>(i + 1), payload);
            packet.fragments[0].length = frame.size();
            packet.fragments[1].length = payload;
            ASSERT_EQ(queue.send(std::span(&packet, 1)), 1U);
        }
        unsigned came = 0;
        const auto end = std::chrono::steady_clock::now() + patience;
        while (came < count && std::chrono::steady_clock::now() < end) {
            std::array<netfront::Packet, 8> packets;
            const auto got = std::span(packets).first(queue.receive(packets));
            for (const netfront::Packet& packet : got) {
                ASSERT_EQ(packet.length, 60 + payload);
                const std::byte* const octets = packet.fragments[0].data;
                EXPECT_EQ(octets[35], std::byte(came)) << "in order, and whole";
                EXPECT_TRUE(std::all_of(octets + 60, octets + packet.length,
                                        [came](std::byte octet) { return octet == std::byte(came + 1); }));
                ++came;
            }
            queue.release(got);
            (void)queue.arm(true);
        }
        EXPECT_EQ(came, count);
        EXPECT_EQ(counter("tx_by_static"), statics ? count : 0U);
        EXPECT_EQ(counter("tx_static_misses"), 0U);
    }
    host.machine("detach", {std::to_string(domain), std::to_string(vif)});
    EXPECT_TRUE(host.at_rest());
}

TEST_F(ControlTest, PersistentGrantsAreLearnedFromTraffic) {
    const auto counter = [this](const char* name) { return host.counter(domain, vif, name); };
    const auto calls = [&counter] {
        return counter("tx_copy_calls") + counter("rx_copy_calls") + counter("tx_map_calls") +
               counter("tx_unmap_calls");
    };
    netfront::Config with = config();
    with.static_grants = false;
    for (const bool wanted : {true, false}) {
        with.persistent_grants = wanted;
        auto device = Device::connect(with);
        ASSERT_TRUE(device) << device.error().message;
        EXPECT_EQ((*device)->persistent_grants(), wanted);
        EXPECT_EQ(host.exists(Host::frontend(domain) + "/feature-persistent"), wanted);
        if (!wanted) {
            (void)echoes(**device, 40);
            EXPECT_EQ(counter("persistent_pages") + counter("tx_persistent_misses"), 0U);
            continue;
        }
        // Until every buffer has been in use once: the ring's 256, and those that are sent.
        const auto stretch = [&] {
            const std::uint64_t before = calls();
            for (int i = 0; i < 10; ++i) {
                (void)echoes(**device, 40);
            }
            return calls() - before;
        };
        EXPECT_NE(stretch(), 0U);
        const auto end = std::chrono::steady_clock::now() + patience;
        std::uint64_t last = 1;
        while (last != 0 && std::chrono::steady_clock::now() < end) {
            last = stretch();
        }
        EXPECT_EQ(last, 0U) << "400 packets, and none of them cost a call";
        EXPECT_GE(counter("tx_persistent_hits"), 200U);
        EXPECT_GE(counter("rx_persistent_hits"), 200U);
        EXPECT_GT(counter("persistent_pages"), 256U);
        EXPECT_EQ(counter("persistent_learned"), counter("persistent_pages"));
        EXPECT_EQ(counter("tx_static_hits") + counter("rx_static_hits") + counter("static_entries"), 0U);
    }
    host.machine("detach", {std::to_string(domain), std::to_string(vif)});
    EXPECT_TRUE(host.at_rest()) << "nothing stays mapped";
}

}  // namespace
}  // namespace uvif::test
