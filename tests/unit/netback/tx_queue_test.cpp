// SPDX-License-Identifier: MIT
//
// Guest TX against a guest that may do anything, over the emulated hypervisor, single-threaded unless a case says so.
#include "netback/tx_queue.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <thread>

#include "unit/netback/tx_backend.hpp"

namespace uvif::netback {
namespace {

using namespace test_queue;

class TxQueueCopyTest : public testing::Test {
protected:
    std::unique_ptr<xen::LocalHost> host = *xen::LocalHost::create();
    MockGuest guest{*host};
    Sender sender{guest};
};
class TxQueueTest : public TxQueueCopyTest, public testing::WithParamInterface<Way> {};

TEST_P(TxQueueTest, DeliversOctetsAndOffloads) {
    Backend backend(guest, GetParam());
    sender.put({60});
    sender.put({127}, 0, 100, TxFlags::data_validated);
    sender.put({128});
    sender.put({129}, 0, 3);
    sender.put({1514}, 0, 2, TxFlags::checksum_blank | TxFlags::data_validated);
    sender.put({14, 4082}, 1);
    sender.put({4096, 4096, 4096}, 2);
    sender.put({66, 0, 4096, 0, 17});
    sender.put(std::vector<std::uint32_t>(19, 100));
    EXPECT_TRUE(guest.tx.push_and_check_notify());
    backend.run();
    EXPECT_EQ(backend.port.sent, sender.expected);
    std::size_t nulls = 0;
    for (const auto& [id, status] : sender.answers(&nulls)) {
        EXPECT_EQ(status, okay) << id;
    }
    EXPECT_EQ(nulls, 3U);
    EXPECT_TRUE(sender.pages.empty()) << "requests without an answer";
    EXPECT_EQ(guest.tx.in_flight(), 0U);
}

/// A copy whose local side crosses a page is two to the kernel's gntdev.
TEST_F(TxQueueCopyTest, CopiesKeepTheirPlaceInThePage) {
    Backend backend(guest, Way::copy);
    const auto place = [&](std::size_t after) {
        return reinterpret_cast<std::uintptr_t>(backend.port.start + after) % xen::page_size;
    };
    sender.put({1400}, 0, 2600);
    (void)guest.tx.push_and_check_notify();
    backend.run();
    EXPECT_EQ(place(0), 2600U) << "a lone piece lies as in the guest's page";
    sender.put({90, 3000, 1000}, 0, 1000);
    (void)guest.tx.push_and_check_notify();
    backend.run();
    EXPECT_EQ(place(90), 1000U) << "and otherwise the second: behind the headers come whole pages";
    sender.put({200, 4096, 4096}, 0, 0);
    (void)guest.tx.push_and_check_notify();
    backend.run();
    EXPECT_EQ(place(200), 0U);
    EXPECT_EQ(backend.port.sent, sender.expected);
}

TEST_F(TxQueueCopyTest, ACopiedPacketIsAnsweredBeforeItIsSent) {
    Backend backend(guest, Way::copy);
    const auto ids = sender.put({60, 2000});
    (void)guest.tx.push_and_check_notify();
    ASSERT_TRUE(backend.queue->gather(backend.copies));
    backend.copies.flush(*backend.grants);
    (void)backend.queue->publish(backend.copies);
    EXPECT_EQ(sender.answers().size(), ids.size());
    EXPECT_TRUE(backend.port.sent.empty());
    backend.queue->send(backend.copies);
    EXPECT_EQ(backend.port.sent, sender.expected);
}

TEST_P(TxQueueTest, LargestPacketIn17And18Slots) {
    Backend backend(guest, GetParam());
    std::vector<std::uint32_t> pages(16, 4096);
    pages.back() = 4095;
    sender.put(pages, 1);
    std::vector<std::uint32_t> with_header{66};
    with_header.insert(with_header.end(), 15, 4096);
    with_header.push_back(65535 - 66 - 15 * 4096 - 1);
    with_header.push_back(1);
    sender.put(with_header, 1);
    ASSERT_EQ(sender.expected[1].data.size(), 65535U);
    (void)guest.tx.push_and_check_notify();
    backend.run();
    EXPECT_EQ(backend.port.sent, sender.expected);
    sender.answers();
    EXPECT_TRUE(sender.pages.empty());
}

TEST_P(TxQueueTest, MappedPagesAreAnsweredWhenThePortIsDone) {
    Backend backend(guest, GetParam());
    backend.port.defer = true;
    const auto small = sender.put({100});
    const auto first = sender.put({1500});
    const auto second = sender.put({2000, 2000}, 1);
    (void)guest.tx.push_and_check_notify();
    backend.run();
    if (!maps(GetParam())) {
        EXPECT_EQ(sender.answers().size(), 4U) << "copied: the pages are free at once";
    } else {
        EXPECT_EQ(sender.answers().size(), 1U) << "only the one that fits the header was copied";
        EXPECT_EQ(backend.queue->mapped_regions(), GetParam() == Way::map ? 1U : 2U);
    }
    EXPECT_EQ(backend.queue->in_flight(), 3U);
    backend.port.finish(2);
    backend.run();
    EXPECT_EQ(sender.answers().size(), GetParam() == Way::map_each ? 1U : 0U)
        << "what shares a region with a packet in flight is still mapped";
    backend.port.finish(1);
    backend.run();
    (void)sender.answers();
    EXPECT_TRUE(sender.pages.empty());
    EXPECT_EQ(backend.queue->in_flight(), 0U);
    EXPECT_EQ(backend.queue->mapped_regions(), 0U);
    EXPECT_EQ(backend.port.sent, sender.expected);
}

/// The guest gets its pages back from a port that goes on not taking its packets; the packets still arrive, once.
TEST_P(TxQueueTest, PagesAreNotHeldForLong) {
    Backend backend(guest, GetParam());
    backend.port.defer = true;
    sender.put({1500});
    sender.put({2000, 2000, 3}, 1);
    sender.put({60});
    (void)guest.tx.push_and_check_notify();
    (void)backend.turn();
    EXPECT_EQ(backend.queue->hold_ends_ns(), 0) << "the port only takes its time";
    sender.put({4096});
    (void)guest.tx.push_and_check_notify();
    // It has no room for more when this turn ends.
    backend.copies.clear();
    ASSERT_TRUE(backend.queue->gather(backend.copies));
    backend.copies.flush(*backend.grants);
    (void)backend.queue->publish(backend.copies);
    backend.port.room = false;
    backend.queue->send(backend.copies);
    const bool mapped = maps(GetParam());
    ASSERT_EQ(backend.queue->hold_ends_ns() != 0, mapped);
    if (mapped) {
        backend.queue->release_held();
    }
    (void)backend.turn();
    EXPECT_EQ(sender.answers().size(), 6U);
    EXPECT_TRUE(sender.pages.empty()) << "the guest has its pages back";
    EXPECT_EQ(backend.queue->counters().lazy_copies, mapped ? 3U : 0U);
    EXPECT_EQ(backend.queue->mapped_regions(), 0U);
    EXPECT_EQ(backend.queue->in_flight(), 4U);
    backend.port.room = true;
    backend.port.finish(4);
    backend.run();
    EXPECT_TRUE(sender.answers().empty()) << "answered twice";
    EXPECT_EQ(backend.queue->in_flight(), 0U);
    EXPECT_EQ(backend.port.sent, sender.expected);
}

TEST_P(TxQueueTest, WhatIsBeyondTheRateWaits) {
    Backend backend(guest, GetParam());
    backend.credit.set({1, 1'000'000});  // after the first burst, a byte a second
    for (int i = 0; i < 90; ++i) {
        sender.put({1500});
    }
    (void)guest.tx.push_and_check_notify();
    backend.run();
    constexpr std::size_t burst = TxCredit::burst_min / 1500;
    EXPECT_EQ(backend.port.sent.size(), burst);
    EXPECT_EQ(sender.answers().size(), burst);
    EXPECT_GT(backend.queue->resume_ns(), monotonic_ns());
    EXPECT_TRUE(backend.queue->arm()) << "it may sleep, though there are requests";
    EXPECT_GT(backend.queue->counters().held_back, 0U);

    backend.credit.set({});
    backend.run();
    EXPECT_EQ(backend.queue->resume_ns(), 0);
    EXPECT_EQ(backend.port.sent, sender.expected);
    EXPECT_EQ(sender.answers().size(), 90 - burst);
}

TEST_P(TxQueueTest, AbandonLetsGoOfEverything) {
    {
        Backend backend(guest, GetParam());
        backend.port.defer = true;
        sender.put({4000, 4000});
        (void)guest.tx.push_and_check_notify();
        backend.run();
    }
    EXPECT_EQ(guest.grants_in_use(), 0U);
}

TEST_P(TxQueueTest, HeldUpPortLeavesTheRingAlone) {
    Backend backend(guest, GetParam());
    backend.port.room = false;
    sender.put({100});
    (void)guest.tx.push_and_check_notify();
    backend.run();
    EXPECT_TRUE(backend.port.sent.empty());
    EXPECT_TRUE(sender.answers().empty());
    backend.port.room = true;
    backend.run();
    EXPECT_EQ(backend.port.sent.size(), 1U);
}

TEST_P(TxQueueTest, OneNotificationATurnAndOnlyWhenAsked) {
    Backend backend(guest, GetParam());
    sender.put({100});
    sender.put({100});
    (void)guest.tx.push_and_check_notify();
    EXPECT_TRUE(backend.turn().notify) << "a fresh ring asks for the first answer";
    EXPECT_FALSE(backend.turn().worked);
    sender.put({100});
    (void)guest.tx.push_and_check_notify();
    EXPECT_FALSE(backend.turn().notify) << "the guest polls";
}

struct BadGrant {
    std::string name;
    xen::GrantEntry entry;
};

TEST_P(TxQueueTest, BadGrantFailsOnlyItsOwnPacket) {
    const std::uint16_t guest_id = std::to_underlying(guest.id);
    const std::vector<BadGrant> table{
        {"revoked", {}},
        {"other_domain", {xen::grant_permit_access, static_cast<std::uint16_t>(guest_id + 1), 5}},
        {"no_such_frame", {xen::grant_permit_access, 0, 0xffffffff}},
    };
    for (const BadGrant& bad : table) {
        for (std::size_t where = 0; where < 3; ++where) {
            Backend backend(guest, GetParam());
            const std::size_t before = sender.expected.size();
            sender.put({200});
            const auto ids = sender.put({1000, 1000, 1000});
            sender.put({300});
            guest.memory.write_entry(sender.pages[ids[where]].ref, bad.entry);
            (void)guest.tx.push_and_check_notify();
            backend.run();
            ASSERT_EQ(backend.port.sent.size(), 2U) << bad.name << where;
            EXPECT_EQ(backend.port.sent[0], sender.expected[before]);
            EXPECT_EQ(backend.port.sent[1], sender.expected[before + 2]);
            std::map<std::uint16_t, std::int16_t> answers;
            for (const TxResponse& answer : guest.tx_answers()) {
                answers[answer.id] = answer.status;
                sender.pages.erase(answer.id);
            }
            EXPECT_EQ(answers.size(), 5U);
            for (std::size_t slot = 0; slot < 3; ++slot) {
                EXPECT_EQ(answers[ids[slot]], slot == where ? error : okay) << bad.name << where;
            }
            EXPECT_EQ(backend.queue->counters().drops[static_cast<std::size_t>(TxDrop::grant_failed)], 1U);
            EXPECT_EQ(guest.grants_in_use(), 1U) << "only the ring stays mapped";
        }
    }
}

TEST_P(TxQueueTest, FailingHypervisorCostsPacketsNeverAnswers) {
    // The first map is that of the ring.
    for (const char* faults : {"copy@1", "copy@1,map@2", "map@2", "map@3", "copy.segment@1", "copy.segment@2",
                               "copy.segment@3=-9", "copy.segment@4", "copy@2,map@2"}) {
        Backend backend(guest, GetParam(), faults);
        for (int round = 0; round < 3; ++round) {
            sender.put({200});
            sender.put({1000, 1000}, 1);
            (void)guest.tx.push_and_check_notify();
            backend.run();
            for (const TxResponse& answer : guest.tx_answers()) {
                if (answer.status != null) {
                    EXPECT_EQ(sender.pages.erase(answer.id), 1U) << faults;
                }
            }
        }
        EXPECT_TRUE(sender.pages.empty()) << faults;
        EXPECT_EQ(guest.tx.in_flight(), 0U) << faults;
    }
}

/// Every slot count with every number of extras and every size that ever made a difference.
TEST_P(TxQueueTest, EverySlotCountExtrasAndSizeIsAnsweredExactlyOnce) {
    const std::vector<std::uint32_t> totals{0, 1, 13, 14, 60, 127, 128, 129, 4095, 4096, 65535};
    std::size_t delivered = 0, dropped = 0, rogues = 0;
    std::optional<Backend> backend;  // a new one after a rogue, whom it serves no more
    for (std::size_t slots = 1; slots <= 22; ++slots) {
        for (std::size_t extras = 0; extras <= 5; ++extras) {
            for (const std::uint32_t total : totals) {
                for (const bool all_in_first : {true, false}) {
                    if (!backend) {
                        backend.emplace(guest, GetParam());
                    }
                    backend->port.sent.clear();
                    std::vector<std::uint32_t> sizes(slots, 0);
                    // Either the first slot holds what it can, or the last ones do.
                    std::uint32_t left = total;
                    for (std::size_t i = 0; i < slots; ++i) {
                        const std::size_t at = all_in_first ? i : slots - 1 - i;
                        sizes[at] = std::min<std::uint32_t>(left, 4096);
                        left -= sizes[at];
                    }
                    sizes[0] += left;  // what does not fit leaves its page
                    sender.put(sizes, extras);
                    (void)guest.tx.push_and_check_notify();
                    backend->run();
                    const Rogue rogue = backend->queue->rogue();
                    const bool crosses = left != 0;
                    SCOPED_TRACE(testing::Message() << slots << " slots, " << extras << " extras, " << total
                                                    << " octets, " << all_in_first);
                    if (slots > 21) {
                        ASSERT_EQ(rogue, Rogue::absurd_slot_count);
                    } else if (slots <= 19 && crosses) {
                        ASSERT_EQ(rogue, Rogue::crosses_page);
                    } else {
                        ASSERT_EQ(rogue, Rogue::none);
                    }
                    if (rogue != Rogue::none) {
                        ++rogues;
                        backend.reset();
                        for (const auto& [id, page] : sender.pages) {
                            ASSERT_TRUE(guest.take_back(page));
                        }
                        sender.pages.clear();
                        sender.expected.pop_back();
                        guest.tx = ring::TxFrontRing(guest.memory.page(guest.tx_frame).data());
                        continue;
                    }
                    std::size_t nulls = 0;
                    const auto answers = sender.answers(&nulls);
                    ASSERT_EQ(answers.size(), slots);
                    ASSERT_EQ(nulls, extras);
                    ASSERT_EQ(guest.tx.in_flight(), 0U);
                    const bool good = slots <= 19 && sizes[0] >= 14;
                    for (const auto& [id, status] : answers) {
                        ASSERT_EQ(status, good ? okay : error);
                    }
                    ASSERT_EQ(backend->port.sent.size(), good ? 1U : 0U);
                    if (good) {
                        ASSERT_EQ(backend->port.sent[0], sender.expected.back());
                    }
                    good ? ++delivered : ++dropped;
                    ASSERT_EQ(guest.grants_in_use(), 1U);
                }
            }
        }
    }
    EXPECT_GT(delivered, 500U);
    EXPECT_GT(dropped, 500U);
    EXPECT_GT(rogues, 100U);
}

TEST_P(TxQueueTest, RogueIsNeverTouchedAgain) {
    Backend backend(guest, GetParam());
    sender.put({100});
    std::atomic_ref(reinterpret_cast<std::uint32_t&>(guest.memory.page(guest.tx_frame)[0])).store(1000);
    EXPECT_FALSE(backend.turn().worked);
    EXPECT_EQ(backend.queue->rogue(), Rogue::impossible_producer);
    EXPECT_TRUE(guest.tx_answers().empty());
    EXPECT_TRUE(backend.port.sent.empty());
    std::atomic_ref(reinterpret_cast<std::uint32_t&>(guest.memory.page(guest.tx_frame)[0])).store(1);
    EXPECT_FALSE(backend.turn().worked);
    EXPECT_TRUE(backend.port.sent.empty());
}

/// The next backend takes up the ring where the answers end: what the port still held is answered, not forgotten.
TEST_P(TxQueueTest, WhatThePortHeldIsAnsweredAtTheEnd) {
    Backend backend(guest, GetParam());
    backend.port.defer = true;
    sender.put({4000});
    sender.put({100});
    (void)guest.tx.push_and_check_notify();
    backend.run();
    (void)backend.queue->abandon();
    EXPECT_EQ(backend.port.sent.size(), 2U);
    EXPECT_EQ(guest.tx_answers().size(), 2U);
    EXPECT_EQ(guest.grants_in_use(), 1U);  // the ring's
}

TEST_P(TxQueueTest, HonestPacketsBeforeARogueOneGoOut) {
    Backend backend(guest, GetParam());
    sender.put({100});
    sender.put({4097});
    (void)guest.tx.push_and_check_notify();
    backend.run();
    EXPECT_EQ(backend.queue->rogue(), Rogue::crosses_page);
    EXPECT_EQ(backend.port.sent.size(), 1U);
    EXPECT_EQ(guest.tx_answers().size(), 1U);
}

/// A packet that names the guest's own ring page as its data is only data.
TEST_P(TxQueueTest, RingPageAsDataIsHarmless) {
    Backend backend(guest, GetParam());
    TxRequest request;
    request.gref = std::to_underlying(guest.tx_ring_ref);
    request.size = 4096;
    request.id = 7;
    guest.tx.put(TxSlot::from(request));
    (void)guest.tx.push_and_check_notify();
    backend.run();
    ASSERT_EQ(guest.tx_answers().size(), 1U);
    EXPECT_EQ(backend.port.sent.size(), 1U);
}

/// As Linux netback: the first slot okay, or error when there are too many; NULL for the extra; nothing is sent.
TEST_P(TxQueueTest, RequestsForGroupsAreAnsweredAndSendNothing) {
    Backend backend(guest, GetParam());
    const auto ask = [this](ring::ExtraType type, std::uint8_t group, std::uint16_t id) {
        guest.tx.put(TxSlot::from(
            TxRequest{.gref = 0xffffffff, .offset = 0xffff, .flags = {TxFlags::extra_info}, .id = id, .size = 0xffff}));
        guest.tx.put(TxSlot::from(ExtraInfo::multicast(type, {1, 0, 0x5e, 0, 0, group})));
    };
    const auto statuses = [&] {
        (void)guest.tx.push_and_check_notify();
        backend.run();
        std::vector<std::int16_t> all;
        for (const TxResponse& answer : guest.tx_answers()) {
            all.push_back(answer.status);
        }
        return all;
    };
    ask(ring::ExtraType::mcast_add, 1, 511);
    EXPECT_EQ(statuses(), (std::vector{error, null})) << "nobody to ask";
    MulticastGroups groups;
    backend.queue->tell(groups);
    sender.put({60});
    for (std::uint8_t group = 0; group < 64; ++group) {
        ask(ring::ExtraType::mcast_add, group, 511);
    }
    sender.put({60});
    auto answers = statuses();
    EXPECT_EQ(std::ranges::count(answers, okay), 66);
    EXPECT_EQ(std::ranges::count(answers, null), 64);
    EXPECT_EQ(groups.size(), 64U);
    ask(ring::ExtraType::mcast_add, 64, 511);
    EXPECT_EQ(statuses(), (std::vector{error, null}));
    ask(ring::ExtraType::mcast_del, 65, 511);  // is not there
    EXPECT_EQ(statuses(), (std::vector{okay, null}));
    ask(ring::ExtraType::mcast_del, 7, 511);
    ask(ring::ExtraType::mcast_add, 64, 511);
    EXPECT_EQ(statuses(), (std::vector{okay, null, okay, null}));
    EXPECT_EQ(backend.port.sent, sender.expected);
    EXPECT_EQ(backend.queue->counters().drops[static_cast<std::size_t>(TxDrop::too_many_groups)], 2U);
    groups.request(true);
    const auto wanted = [&groups](std::uint8_t group) {
        const std::array<std::uint8_t, 6> address{1, 0, 0x5e, 0, 0, group};
        return groups.wanted(std::as_bytes(std::span(address)));
    };
    EXPECT_FALSE(wanted(7));
    EXPECT_TRUE(wanted(8));
    EXPECT_TRUE(wanted(64));
}

/// A header area: one reference is in every packet of a turn, with more octets than are copied apart.
TEST_P(TxQueueTest, OneReferenceServesManyPacketsOfATurn) {
    Backend backend(guest, GetParam());
    const MockGuest::Page headers = guest.page();
    std::vector<MockGuest::Page> payload;
    std::vector<test::Frame> expected;
    for (std::uint32_t i = 0; i < 16; ++i) {
        payload.push_back(guest.page());
        const auto header = guest.memory.page(headers.frame).subspan(256 * i, 200);
        const auto rest = guest.memory.page(payload.back().frame).first(1000);
        std::ranges::fill(header, static_cast<std::byte>(i + 1));
        std::ranges::fill(rest, static_cast<std::byte>(i + 101));
        expected.emplace_back();
        expected.back().data.assign(header.begin(), header.end());
        expected.back().data.insert(expected.back().data.end(), rest.begin(), rest.end());
        guest.tx.put(TxSlot::from(TxRequest{.gref = std::to_underlying(headers.ref),
                                            .offset = static_cast<std::uint16_t>(256 * i),
                                            .flags = {TxFlags::more_data},
                                            .id = static_cast<std::uint16_t>(256 + i),
                                            .size = 1200}));
        guest.tx.put(TxSlot::from(TxRequest{.gref = std::to_underlying(payload.back().ref),
                                            .offset = 0,
                                            .flags = {},
                                            .id = static_cast<std::uint16_t>(i),
                                            .size = 1000}));
    }
    (void)guest.tx.push_and_check_notify();
    backend.run();
    EXPECT_EQ(backend.port.sent, expected);
    const auto answers = guest.tx_answers();
    EXPECT_EQ(answers.size(), 32U);
    EXPECT_TRUE(std::ranges::all_of(answers, [](const TxResponse& answer) { return answer.status == okay; }));
    EXPECT_TRUE(guest.take_back(headers)) << "in use after its last answer";
    EXPECT_TRUE(std::ranges::all_of(payload, [this](const MockGuest::Page& page) { return guest.take_back(page); }));
}

/// While the backend works, another thread scribbles over every slot and index. Whatever the backend makes of it, it
/// must be the processing of some snapshot: bounded, each answer within the ring, nothing left mapped.
TEST_P(TxQueueTest, SurvivesAGuestThatScribblesOverItsRing) {
    const MockGuest::Page page = guest.page();
    for (int round = 0; round < 30; ++round) {
        Backend backend(guest, GetParam());
        std::atomic<bool> stop{false};
        std::thread scribbler([&, seed = static_cast<std::uint32_t>(round) * 2654435761U + 1]() mutable {
            ring::TxFrontRing::Shared shared(guest.memory.page(guest.tx_frame).data());
            ring::Index prod = 0;
            while (!stop.load(std::memory_order_relaxed)) {
                seed = seed * 1664525 + 1013904223;
                TxRequest request;
                request.gref = (seed >> 24) % 4 == 0 ? seed >> 16 : std::to_underlying(page.ref);
                request.offset = (seed >> 8) % 64 == 0 ? static_cast<std::uint16_t>(seed >> 12) : std::uint16_t{0};
                request.size = static_cast<std::uint16_t>((seed >> 4) % 600);
                request.id = static_cast<std::uint16_t>(seed >> 10);
                request.flags.bits = (seed >> 20) % 8 == 0 ? TxFlags::more_data : std::uint16_t{0};
                shared.write(seed >> 9, TxSlot::from(request));
                if ((seed >> 14) % 4 == 0) {
                    const ring::Index answered = shared.rsp_prod().load(std::memory_order_relaxed);
                    prod = answered + (seed >> 11) % 200;
                    shared.req_prod().store(prod, std::memory_order_release);
                }
            }
        });
        for (int turns = 0; turns < 300 && backend.queue->rogue() == Rogue::none; ++turns) {
            (void)backend.turn();
            backend.port.sent.clear();
        }
        stop.store(true);
        scribbler.join();
        (void)backend.queue->abandon();
        EXPECT_EQ(guest.grants_in_use(), 1U);
        guest.tx = ring::TxFrontRing(guest.memory.page(guest.tx_frame).data());
    }
}

constexpr std::array way_names{"copy", "map", "map_each", "left"};

INSTANTIATE_TEST_SUITE_P(Strategies, TxQueueTest, testing::Values(Way::copy, Way::map, Way::map_each, Way::left),
                         [](const auto& p) { return way_names[static_cast<std::size_t>(p.param)]; });

}  // namespace
}  // namespace uvif::netback
