// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <array>
#include <vector>

#include "unit/xen_emulated/host.hpp"

namespace uvif::xen {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

bool readable(const EventChannels& channels) {
    pollfd wait{channels.fd(), POLLIN, 0};
    return ::poll(&wait, 1, 0) == 1;
}

std::vector<EventPort> pending(EventChannels& channels, std::size_t room = 64) {
    std::vector<EventPort> ports(room);
    ports.resize(channels.pending(ports));
    return ports;
}

void unmask(EventChannels& channels, EventPort port) {
    channels.unmask(std::span(&port, 1));
}

class EventChannelsTest : public testing::TestWithParam<bool> {
protected:
    /// Binds both ends and takes the spurious events of it.
    void connect() {
        guest_port = must(guest->alloc_unbound(dom0));
        backend_port = must(backend->bind_interdomain(host.guest, guest_port));
        settle();
    }
    void settle() {
        for (auto [channels, port] : {std::pair{guest.get(), guest_port}, std::pair{backend.get(), backend_port}}) {
            pending(*channels);
            unmask(*channels, port);
        }
        ASSERT_FALSE(readable(*guest));
        ASSERT_FALSE(readable(*backend));
    }

    Host host{MachineConfig{.charged = GetParam(), .gntalloc_limit = 1024}};
    std::unique_ptr<EventChannels> guest = host.event_channels(host.guest);
    std::unique_ptr<EventChannels> backend = host.event_channels(dom0);
    EventPort guest_port{};
    EventPort backend_port{};
};

INSTANTIATE_TEST_SUITE_P(Costs, EventChannelsTest, testing::Bool(),
                         [](const auto& mode) { return mode.param ? "charged" : "uncharged"; });

TEST_P(EventChannelsTest, BindingRaisesOneSpuriousEventOnEachSide) {
    guest_port = must(guest->alloc_unbound(dom0));
    EXPECT_FALSE(readable(*guest));
    backend_port = must(backend->bind_interdomain(host.guest, guest_port));
    EXPECT_TRUE(readable(*guest));
    EXPECT_TRUE(readable(*backend));
    EXPECT_THAT(pending(*guest), ElementsAre(guest_port));
    EXPECT_THAT(pending(*backend), ElementsAre(backend_port));
    EXPECT_FALSE(readable(*guest));
    EXPECT_THAT(pending(*guest), IsEmpty());
}

TEST_P(EventChannelsTest, EventsGoBothWaysAndCoalesce) {
    connect();
    EXPECT_EQ(backend->notify(backend_port), 0);
    EXPECT_EQ(backend->notify(backend_port), 0);
    EXPECT_TRUE(readable(*guest));
    EXPECT_FALSE(readable(*backend));
    EXPECT_THAT(pending(*guest), ElementsAre(guest_port));
    EXPECT_THAT(pending(*guest), IsEmpty());
    EXPECT_EQ(guest->notify(guest_port), 0);
    EXPECT_THAT(pending(*backend), ElementsAre(backend_port));
}

TEST_P(EventChannelsTest, ADeliveredPortStaysMaskedUntilItIsUnmasked) {
    connect();
    guest->notify(guest_port);
    ASSERT_THAT(pending(*backend), ElementsAre(backend_port));
    guest->notify(guest_port);
    EXPECT_FALSE(readable(*backend));
    EXPECT_THAT(pending(*backend), IsEmpty());
    unmask(*backend, backend_port);
    EXPECT_TRUE(readable(*backend));
    EXPECT_THAT(pending(*backend), ElementsAre(backend_port));
    unmask(*backend, backend_port);
    EXPECT_FALSE(readable(*backend));
}

TEST_P(EventChannelsTest, WhatDoesNotFitStaysDeliverable) {
    std::vector<EventPort> bound;
    for (int i = 0; i < 150; ++i) {
        bound.push_back(must(backend->bind_interdomain(host.guest, must(guest->alloc_unbound(dom0)))));
    }
    std::vector<EventPort> seen;
    while (readable(*backend)) {
        const auto some = pending(*backend, 7);
        ASSERT_FALSE(some.empty());
        seen.insert(seen.end(), some.begin(), some.end());
    }
    EXPECT_THAT(seen, testing::UnorderedElementsAreArray(bound));
}

TEST_P(EventChannelsTest, BindingIsALock) {
    connect();
    auto second = host.event_channels(dom0);
    const auto taken = second->bind_interdomain(host.guest, guest_port);
    ASSERT_FALSE(taken);
    EXPECT_EQ(taken.error().code, EINVAL);
    EXPECT_THAT(taken.error().message, testing::HasSubstr("already bound"));
    backend.reset();
    EXPECT_TRUE(second->bind_interdomain(host.guest, guest_port));
}

TEST_P(EventChannelsTest, PortsOfOthersCannotBeBound) {
    const DomainId stranger_id = must(host.host->create_domain("stranger"));
    auto stranger = host.event_channels(stranger_id);
    guest_port = must(guest->alloc_unbound(dom0));
    for (const EventPort port : {guest_port, EventPort{0}, EventPort{7}, EventPort{max_ports}, EventPort{~0U}}) {
        const auto bound = stranger->bind_interdomain(host.guest, port);
        ASSERT_FALSE(bound);
        EXPECT_EQ(bound.error().code, EINVAL);
    }
    EXPECT_EQ(stranger->bind_interdomain(DomainId{99}, guest_port).error().code, ESRCH);
}

TEST_P(EventChannelsTest, APortOutlivesItsPeerAndCanBeBoundAgain) {
    connect();
    EXPECT_EQ(guest->notify(guest_port), 0);  // learns the descriptor of the first process
    backend.reset();
    EXPECT_EQ(guest->notify(guest_port), 0);
    EXPECT_EQ(host.usage(host.guest).ports_unbound, 1U);
    EXPECT_EQ(host.usage(dom0).ports_interdomain, 0U);

    backend = host.event_channels(dom0);
    backend_port = must(backend->bind_interdomain(host.guest, guest_port));
    EXPECT_THAT(pending(*guest), ElementsAre(guest_port));
    settle();
    // The notifier finds the new process, not the old one's descriptor.
    EXPECT_EQ(guest->notify(guest_port), 0);
    EXPECT_TRUE(readable(*backend));
    EXPECT_THAT(pending(*backend), ElementsAre(backend_port));
    EXPECT_EQ(backend->notify(backend_port), 0);
    EXPECT_TRUE(readable(*guest));
    EXPECT_THAT(pending(*guest), ElementsAre(guest_port));
}

TEST_P(EventChannelsTest, AnEventWhoseSenderDiedHalfwayIsNotLost) {
    connect();
    const std::uint32_t number = std::to_underlying(guest_port);
    must(host.host->machine().mapped_memory(host.guest)).pending(port_word(number)).fetch_or(port_bit(number));
    ASSERT_FALSE(readable(*guest));
    backend.reset();
    EXPECT_TRUE(readable(*guest));
    EXPECT_THAT(pending(*guest), ElementsAre(guest_port));
}

TEST_P(EventChannelsTest, ADestroyedPeerIsSilence) {
    connect();
    ASSERT_TRUE(host.host->destroy_domain(host.guest));
    EXPECT_EQ(backend->notify(backend_port), 0);
    EXPECT_EQ(host.usage(dom0).ports_unbound, 1U);
    backend->unbind(backend_port);
    EXPECT_EQ(host.usage(dom0).ports_unbound, 0U);
}

TEST_P(EventChannelsTest, OnlyOwnPortsCanBeUsed) {
    connect();
    auto second = host.event_channels(dom0);
    EXPECT_EQ(second->notify(backend_port), ENOTCONN);
    EXPECT_EQ(backend->notify(EventPort{0}), ENOTCONN);
    EXPECT_EQ(backend->notify(EventPort{~0U}), ENOTCONN);
    second->unbind(backend_port);
    unmask(*second, backend_port);
    EXPECT_EQ(guest->notify(guest_port), 0);
    EXPECT_THAT(pending(*second), IsEmpty());
    EXPECT_THAT(pending(*backend), ElementsAre(backend_port));
    backend->unbind(backend_port);
    EXPECT_EQ(backend->notify(backend_port), ENOTCONN);
}

TEST_P(EventChannelsTest, AnUnbindForgetsEventsAndMasks) {
    connect();
    guest->notify(guest_port);
    ASSERT_THAT(pending(*backend), ElementsAre(backend_port));
    guest->notify(guest_port);
    backend->unbind(backend_port);
    const EventPort again = must(backend->alloc_unbound(host.guest));
    ASSERT_EQ(again, backend_port);
    EXPECT_THAT(pending(*backend), IsEmpty());
    must(guest->bind_interdomain(dom0, again));
    EXPECT_THAT(pending(*backend), ElementsAre(again));
}

TEST_P(EventChannelsTest, ADomainHasALimitedNumberOfPorts) {
    for (std::uint32_t i = 1; i < max_ports; ++i) {
        ASSERT_TRUE(guest->alloc_unbound(dom0));
    }
    const auto more = guest->alloc_unbound(dom0);
    ASSERT_FALSE(more);
    EXPECT_EQ(more.error().code, ENOSPC);
    guest.reset();
    EXPECT_EQ(host.usage(host.guest).ports_unbound, 0U);
}

TEST_P(EventChannelsTest, ADomainCanTalkToItself) {
    const EventPort one = must(backend->alloc_unbound(dom0));
    const EventPort two = must(backend->bind_interdomain(dom0, one));
    EXPECT_EQ(pending(*backend).size(), 2U);
    backend->unmask(std::array{one, two});
    EXPECT_EQ(backend->notify(one), 0);
    EXPECT_THAT(pending(*backend), ElementsAre(two));
}

TEST_P(EventChannelsTest, FaultsHitTheCallsTheyName) {
    auto faulty = host.event_channels(dom0, must(FaultPlan::parse("bind@1=ENOMEM,alloc_unbound@2,notify@2=EBADF")));
    guest_port = must(guest->alloc_unbound(dom0));
    EXPECT_EQ(faulty->bind_interdomain(host.guest, guest_port).error().code, ENOMEM);
    const EventPort port = must(faulty->bind_interdomain(host.guest, guest_port));
    EXPECT_TRUE(faulty->alloc_unbound(host.guest));
    EXPECT_EQ(faulty->alloc_unbound(host.guest).error().code, EIO);
    EXPECT_EQ(faulty->notify(port), 0);
    EXPECT_EQ(faulty->notify(port), EBADF);
    EXPECT_EQ(faulty->notify(port), 0);
}

}  // namespace
}  // namespace uvif::xen
