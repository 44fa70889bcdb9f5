// SPDX-License-Identifier: MIT
//
// The control ring over the emulated hypervisor, played by both ends.
#include "netback/control_ring.hpp"

#include <gtest/gtest.h>

#include "runtime/clock.hpp"
#include "runtime/limits.hpp"
#include "support/mock_guest.hpp"

namespace uvif::netback {
namespace {

class ControlRingTest : public testing::Test {
protected:
    std::unique_ptr<xen::LocalHost> host = *xen::LocalHost::create();
    test::MockGuest guest{*host};
    ring::CtrlFrontRing front{guest.memory.page(guest.rx_frame).data()};
    std::unique_ptr<xen::Hypervisor> hypervisor = host->open(test::backend_domain);
    std::unique_ptr<xen::GrantTable> grants = *hypervisor->open_grant_table();
    std::unique_ptr<xen::EventChannels> events = *hypervisor->open_event_channels();
    std::unique_ptr<ControlRing> control =
        *ControlRing::connect(*grants, *events, guest.id, {guest.rx_ring_ref, guest.rx_port});
    unsigned commits = 0;

    void ask(unsigned count) {
        for (unsigned i = 0; i < count; ++i) {
            front.put({.id = static_cast<std::uint16_t>(i), .type = 1});
        }
        (void)front.push_and_check_notify();
    }
    /// Each request takes so long at least.
    ControlRing::Served serve(std::int64_t takes_ns) {
        return control->serve(
            [takes_ns](const ring::CtrlRequest& request) {
                for (const std::int64_t end = monotonic_ns() + takes_ns; monotonic_ns() < end;) {
                }
                return ring::CtrlResponse{.id = request.id, .type = request.type};
            },
            [this] { ++commits; });
    }
    /// The ids of what was answered.
    std::vector<std::uint16_t> answers() {
        std::array<ring::CtrlResponse, ring::CtrlFrontRing::size> responses;
        std::vector<std::uint16_t> ids;
        for (const auto& response : std::span(responses).first(front.take(responses).count)) {
            ids.push_back(response.id);
        }
        return ids;
    }
};

TEST_F(ControlRingTest, RequestsThatTakeLongLetOthersHaveTheirTurn) {
    ask(3);
    EXPECT_EQ(serve(limits::control_turn_ns), ControlRing::Served::more);
    EXPECT_EQ(answers(), (std::vector<std::uint16_t>{0}));
    EXPECT_EQ(serve(limits::control_turn_ns), ControlRing::Served::more);
    EXPECT_EQ(answers(), (std::vector<std::uint16_t>{1}));
    EXPECT_EQ(serve(limits::control_turn_ns), ControlRing::Served::all);
    EXPECT_EQ(answers(), (std::vector<std::uint16_t>{2}));
    EXPECT_EQ(commits, 3U);
    EXPECT_EQ(serve(0), ControlRing::Served::all) << "nothing was asked";
    EXPECT_EQ(commits, 3U);
}

TEST_F(ControlRingTest, AProducerAheadOfTheRingIsReported) {
    ask(1);
    ring::CtrlFrontRing::Shared(guest.memory.page(guest.rx_frame).data())
        .req_prod()
        .store(ring::CtrlFrontRing::size + 1);
    EXPECT_EQ(serve(0), ControlRing::Served::impossible);
    EXPECT_EQ(commits, 0U);
}

}  // namespace
}  // namespace uvif::netback
