// SPDX-License-Identifier: MIT
#include "netback/hash_control.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <vector>

namespace uvif::netback {
namespace {

using ring::CtrlRequest;
using ring::CtrlStatus;
using ring::CtrlType;

constexpr std::uint32_t queues = 4;
constexpr std::uint32_t page_ref = 7;
constexpr std::uint32_t most = std::numeric_limits<std::uint32_t>::max();

/// A guest's requests and the one page that they may name.
struct Guest {
    HashControl control{queues};
    std::vector<std::byte> page = std::vector<std::byte>(xen::page_size);
    unsigned reads = 0;

    ring::CtrlResponse ask(CtrlType type, std::uint32_t a = 0, std::uint32_t b = 0, std::uint32_t c = 0) {
        const CtrlRequest request{511, static_cast<std::uint16_t>(type), {a, b, c}};  // ids as Windows has them
        const auto response = control.execute(request, [this](xen::GrantRef ref, std::span<std::byte> out) {
            ++reads;
            if (ref != xen::GrantRef{page_ref} || out.size() > page.size()) {
                return false;
            }
            std::memcpy(out.data(), page.data(), out.size());
            return true;
        });
        EXPECT_EQ(response.id, request.id);
        EXPECT_EQ(response.type, request.type);
        return response;
    }
    CtrlStatus status(CtrlType type, std::uint32_t a = 0, std::uint32_t b = 0, std::uint32_t c = 0) {
        return static_cast<CtrlStatus>(ask(type, a, b, c).status);
    }
    void write(const std::vector<std::uint32_t>& entries) {
        std::memcpy(page.data(), entries.data(), entries.size() * sizeof(std::uint32_t));
    }
    /// The queue of each of the first hashes.
    std::vector<std::uint32_t> mapping(std::uint32_t count) {
        const auto steering = control.steering();
        std::vector<std::uint32_t> all;
        for (std::uint32_t i = 0; steering && i < count; ++i) {
            all.push_back(steering->queue_of({.value = i, .type = HashTypes::ipv4}));
        }
        return all;
    }
};

TEST(HashControl, DoesNothingUntilAlgorithmAndTypesAreSet) {
    Guest guest;
    EXPECT_EQ(guest.status(CtrlType::get_hash_flags), CtrlStatus::not_supported);
    EXPECT_EQ(guest.status(CtrlType::set_hash_flags, HashTypes::all), CtrlStatus::invalid_parameter);
    EXPECT_EQ(guest.control.steering(), nullptr);
    EXPECT_EQ(guest.status(CtrlType::set_hash_algorithm, 1), CtrlStatus::success);
    EXPECT_EQ(guest.control.steering(), nullptr);
    EXPECT_EQ(guest.ask(CtrlType::get_hash_flags).data, HashTypes::all);
    EXPECT_EQ(guest.status(CtrlType::set_hash_flags, HashTypes::ipv4), CtrlStatus::success);
    ASSERT_NE(guest.control.steering(), nullptr);
    EXPECT_EQ(guest.mapping(6), (std::vector<std::uint32_t>{0, 1, 2, 3, 0, 1})) << "without a table: modulo";
    EXPECT_EQ(guest.status(CtrlType::set_hash_flags, 0), CtrlStatus::success);
    EXPECT_EQ(guest.control.steering(), nullptr);
    EXPECT_EQ(guest.status(CtrlType::set_hash_flags, HashTypes::all), CtrlStatus::success);
    EXPECT_EQ(guest.status(CtrlType::set_hash_algorithm, 0), CtrlStatus::success);
    EXPECT_EQ(guest.control.steering(), nullptr);
}

TEST(HashControl, EveryLimitIsKept) {
    struct Case {
        CtrlType type;
        std::uint32_t a, b, c;
        CtrlStatus expected;
    };
    constexpr auto okay = CtrlStatus::success;
    constexpr auto invalid = CtrlStatus::invalid_parameter;
    constexpr auto overflow = CtrlStatus::buffer_overflow;
    const Case cases[] = {
        {CtrlType::set_hash_algorithm, 2, 0, 0, invalid},
        {CtrlType::set_hash_algorithm, most, 0, 0, invalid},
        {CtrlType::set_hash_flags, 15, 0, 0, okay},
        {CtrlType::set_hash_flags, 16, 0, 0, invalid},
        {CtrlType::set_hash_flags, most, 0, 0, invalid},
        {CtrlType::set_hash_key, page_ref, 40, 0, okay},
        {CtrlType::set_hash_key, page_ref, 41, 0, overflow},
        {CtrlType::set_hash_key, page_ref, most, 0, overflow},
        {CtrlType::set_hash_key, page_ref + 1, 1, 0, invalid},  // no such grant
        {CtrlType::set_hash_key, page_ref + 1, 0, 0, okay},     // which is not looked at then
        {CtrlType::set_hash_mapping_size, 129, 0, 0, invalid},
        {CtrlType::set_hash_mapping_size, most, 0, 0, invalid},
        {CtrlType::set_hash_mapping, page_ref, 1, 0, invalid},  // beyond the table, which is empty
        {CtrlType::set_hash_mapping, page_ref, 0, 0, okay},
        {CtrlType::set_hash_mapping_size, 128, 0, 0, okay},
        {CtrlType::set_hash_mapping, page_ref, 128, 0, okay},
        {CtrlType::set_hash_mapping, page_ref, 129, 0, overflow},
        {CtrlType::set_hash_mapping, page_ref, most, 0, overflow},
        {CtrlType::set_hash_mapping, page_ref, 1, 127, okay},
        {CtrlType::set_hash_mapping, page_ref, 1, 128, invalid},
        {CtrlType::set_hash_mapping, page_ref, 2, 127, invalid},
        {CtrlType::set_hash_mapping, page_ref, 0, 128, okay},
        {CtrlType::set_hash_mapping, page_ref, 0, 129, invalid},
        {CtrlType::set_hash_mapping, page_ref, 1, most, invalid},  // XSA-270: the sum wraps to 0
        {CtrlType::set_hash_mapping, page_ref, 128, most - 127, invalid},
        {CtrlType::set_hash_mapping, page_ref + 1, 1, 0, invalid},
        {CtrlType{0}, 0, 0, 0, CtrlStatus::not_supported},
        {CtrlType{11}, 0, 0, 0, CtrlStatus::not_supported},
        {CtrlType{65535}, most, most, most, CtrlStatus::not_supported},
    };
    Guest guest;
    EXPECT_EQ(guest.ask(CtrlType::get_hash_mapping_size).data, 128U);
    ASSERT_EQ(guest.status(CtrlType::set_hash_algorithm, 1), okay);
    for (const Case& c : cases) {
        EXPECT_EQ(guest.status(c.type, c.a, c.b, c.c), c.expected)
            << static_cast<int>(c.type) << ": " << c.a << ' ' << c.b << ' ' << c.c;
    }
}

TEST(HashControl, AMappingIsTakenWholeOrNotAtAll) {
    Guest guest;
    ASSERT_EQ(guest.status(CtrlType::set_hash_algorithm, 1), CtrlStatus::success);
    ASSERT_EQ(guest.status(CtrlType::set_hash_flags, HashTypes::all), CtrlStatus::success);
    ASSERT_EQ(guest.status(CtrlType::set_hash_mapping_size, 4), CtrlStatus::success);
    EXPECT_EQ(guest.mapping(4), (std::vector<std::uint32_t>{0, 0, 0, 0}));
    guest.write({3, 2, 1, 0});
    ASSERT_EQ(guest.status(CtrlType::set_hash_mapping, page_ref, 4, 0), CtrlStatus::success);
    EXPECT_EQ(guest.mapping(5), (std::vector<std::uint32_t>{3, 2, 1, 0, 3}));
    guest.write({1, queues});
    EXPECT_EQ(guest.status(CtrlType::set_hash_mapping, page_ref, 2, 0), CtrlStatus::invalid_parameter);
    EXPECT_EQ(guest.mapping(4), (std::vector<std::uint32_t>{3, 2, 1, 0}));
    guest.write({2, 2});
    EXPECT_EQ(guest.status(CtrlType::set_hash_mapping, page_ref, 2, 1), CtrlStatus::success);
    EXPECT_EQ(guest.mapping(4), (std::vector<std::uint32_t>{3, 2, 2, 0}));
    EXPECT_EQ(guest.status(CtrlType::set_hash_mapping_size, 4), CtrlStatus::success);
    EXPECT_EQ(guest.mapping(4), (std::vector<std::uint32_t>{0, 0, 0, 0})) << "a new size empties the table";
}

TEST(HashControl, CopiesAListOnceBeforeItIsJudged) {
    HashControl control(queues);
    const auto set = [&control](CtrlType type, std::array<std::uint32_t, 3> data, const ReadPage& read) {
        return static_cast<CtrlStatus>(control.execute({0, static_cast<std::uint16_t>(type), data}, read).status);
    };
    const ReadPage none = [](xen::GrantRef, std::span<std::byte>) { return false; };
    ASSERT_EQ(set(CtrlType::set_hash_algorithm, {1}, none), CtrlStatus::success);
    ASSERT_EQ(set(CtrlType::set_hash_flags, {15}, none), CtrlStatus::success);
    ASSERT_EQ(set(CtrlType::set_hash_mapping_size, {2}, none), CtrlStatus::success);
    // Good at the first look, and bad at any other.
    unsigned looks = 0;
    const ReadPage changing = [&looks](xen::GrantRef, std::span<std::byte> out) {
        std::memset(out.data(), looks++ == 0 ? 0 : 0xff, out.size());
        return true;
    };
    EXPECT_EQ(set(CtrlType::set_hash_mapping, {page_ref, 2, 0}, changing), CtrlStatus::success);
    EXPECT_EQ(looks, 1U);
    EXPECT_EQ(control.steering()->queue_of({.value = 1, .type = 1}), 0U);
}

TEST(HashControl, TheMostParticularTypeIsHashed) {
    constexpr std::array<std::uint8_t, 40> key{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17};
    // Ethernet, IPv4 from 10.0.0.1 to 10.0.0.2, TCP from 1 to 2.
    std::array<std::uint8_t, 54> tcp{};
    tcp[12] = 8;
    tcp[14] = 0x45;
    tcp[17] = 40;
    tcp[23] = 6;
    tcp[26] = tcp[30] = 10;
    tcp[29] = 1;
    tcp[33] = 2;
    tcp[35] = 1;
    tcp[37] = 2;
    tcp[46] = 0x50;
    auto udp = tcp;
    udp[23] = 17;
    udp[39] = 20;
    auto fragment = tcp;
    fragment[20] = 0x20;
    auto arp = tcp;
    arp[13] = 6;
    const Toeplitz hash{std::span(key)};
    const auto expected = [&hash](std::span<const std::uint8_t> packet, std::size_t length) {
        return hash(std::as_bytes(packet.subspan(26, length)));
    };
    struct Case {
        std::uint32_t types;
        std::array<std::uint8_t, 54> packet;
        FlowHash expected;
    };
    const FlowHash with_ports{expected(tcp, 12), HashTypes::ipv4_tcp};
    const FlowHash plain{expected(tcp, 8), HashTypes::ipv4};
    const Case cases[] = {
        {HashTypes::all, tcp, with_ports},
        {HashTypes::ipv4_tcp, tcp, with_ports},
        {HashTypes::ipv4, tcp, plain},
        {HashTypes::all, udp, plain},
        {HashTypes::ipv4_tcp, udp, {}},
        {HashTypes::all, fragment, plain},
        {HashTypes::ipv4_tcp, fragment, {}},
        {HashTypes::all, arp, {}},
        {HashTypes::ipv6 | HashTypes::ipv6_tcp, tcp, {}},
    };
    for (const Case& c : cases) {
        const RxSteering steering(c.types, key, {}, 1);
        EXPECT_EQ(steering.hash(std::as_bytes(std::span(c.packet))), c.expected) << c.types;
        for (std::size_t length = 0; length < c.packet.size(); ++length) {
            (void)steering.hash(std::as_bytes(std::span(c.packet).first(length)));  // nothing is read beyond
        }
    }
}

}  // namespace
}  // namespace uvif::netback
