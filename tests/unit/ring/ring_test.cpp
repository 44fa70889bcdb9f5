// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <deque>
#include <thread>
#include <vector>

#include "ring/back_ring.hpp"
#include "ring/front_ring.hpp"

namespace uvif::ring {
namespace {

struct alignas(xen::page_size) Page {
    std::array<std::byte, xen::page_size> bytes{};
    [[nodiscard]] Index& index(std::size_t n) { return reinterpret_cast<Index*>(bytes.data())[n]; }
};
constexpr std::size_t req_prod = 0, req_event = 1, rsp_prod = 2, rsp_event = 3;

TxSlot tx(std::uint16_t id) {
    TxRequest request;
    request.id = id;
    return TxSlot::from(request);
}

struct Ring : testing::Test {
    Page page;
};

TEST_F(Ring, FreshPageIsAsXenInitialisesIt) {
    page.bytes.fill(std::byte{0xee});
    TxFrontRing front(page.bytes.data());
    EXPECT_EQ(page.index(req_prod), 0U);
    EXPECT_EQ(page.index(req_event), 1U);
    EXPECT_EQ(page.index(rsp_prod), 0U);
    EXPECT_EQ(page.index(rsp_event), 1U);
    for (std::size_t i = 16; i < xen::page_size; ++i) {
        ASSERT_EQ(page.bytes[i], std::byte{0}) << i;
    }
}

TEST_F(Ring, NothingIsVisibleBeforePush) {
    TxFrontRing front(page.bytes.data());
    auto back = TxBackRing::attach(page.bytes.data());
    std::array<TxSlot, 4> slots;
    front.put(tx(7));
    EXPECT_EQ(back->take(slots).count, 0U);
    EXPECT_TRUE(front.push_and_check_notify());
    ASSERT_EQ(back->take(slots).count, 1U);
    EXPECT_EQ(slots[0].request().id, 7U);
}

TEST_F(Ring, AttachToLiveRingBeginsAtPublishedResponses) {
    TxFrontRing front(page.bytes.data(), 0xfffffff0U);
    {
        auto dead = TxBackRing::attach(page.bytes.data());
        for (std::uint16_t i = 0; i < 40; ++i) {
            front.put(tx(i));
        }
        (void)front.push_and_check_notify();
        std::array<TxSlot, 30> slots;
        ASSERT_EQ(dead->take(slots).count, 30U);
        std::array<TxResponse, 10> answers{};
        dead->respond(answers);
        (void)dead->push_and_check_notify();
    }
    auto back = TxBackRing::attach(page.bytes.data());
    ASSERT_TRUE(back);
    std::array<TxSlot, 64> slots;
    ASSERT_EQ(back->take(slots).count, 30U) << "20 taken and not answered, 10 never taken";
    EXPECT_EQ(slots[0].request().id, 10U);
    EXPECT_EQ(slots[29].request().id, 39U);
}

TEST_F(Ring, AttachRefusesWhatIsNoRing) {
    TxFrontRing front(page.bytes.data());
    page.index(req_prod) = 257;
    EXPECT_FALSE(TxBackRing::attach(page.bytes.data()));
    page.index(req_prod) = 256;
    EXPECT_TRUE(TxBackRing::attach(page.bytes.data()));
}

struct ProducerCase {
    Index start;
    Index claimed;  // beyond start
    bool impossible;
};

class Producer : public testing::TestWithParam<ProducerCase> {};

TEST_P(Producer, ImpossibleIndexIsReportedWhoeverLooksFirst) {
    const ProducerCase& c = GetParam();
    std::array<TxSlot, 256> slots;
    for (int first_look = 0; first_look < 3; ++first_look) {
        Page page;
        TxFrontRing front(page.bytes.data(), c.start);
        auto back = TxBackRing::attach(page.bytes.data());
        page.index(req_prod) = c.start + c.claimed;
        if (first_look == 1) {
            (void)back->available();
        } else if (first_look == 2) {
            (void)back->arm();
        }
        const Taken taken = back->take(slots);
        EXPECT_EQ(taken.impossible, c.impossible) << first_look;
        EXPECT_EQ(taken.count, c.impossible ? 0 : c.claimed) << first_look;
    }
}

INSTANTIATE_TEST_SUITE_P(Table, Producer,
                         testing::Values(ProducerCase{0, 0, false}, ProducerCase{0, 1, false},
                                         ProducerCase{0, 256, false}, ProducerCase{0, 257, true},
                                         ProducerCase{0, 0x80000000U, true}, ProducerCase{0, 0xffffffffU, true},
                                         ProducerCase{0xffffff80U, 256, false}, ProducerCase{0xffffff80U, 257, true},
                                         ProducerCase{0xffffffffU, 1, false}));

TEST_F(Ring, TakenSlotsCountAgainstTheRingUntilAnswered) {
    TxFrontRing front(page.bytes.data());
    auto back = TxBackRing::attach(page.bytes.data());
    std::array<TxSlot, 256> slots;
    page.index(req_prod) = 200;
    ASSERT_EQ(back->take(slots).count, 200U);
    page.index(req_prod) = 456;  // 256 more, of which 200 overwrite what is owed: not impossible yet, but bounded
    EXPECT_EQ(back->take(slots).count, 56U);
    EXPECT_EQ(back->owed(), 256U);
    EXPECT_EQ(back->take(slots).count, 0U);
}

TEST_F(Ring, FrontReportsMoreAnswersThanRequests) {
    TxFrontRing front(page.bytes.data());
    for (int look = 0; look < 2; ++look) {
        std::array<TxResponse, 256> answers;
        page.index(rsp_prod) = 1;
        if (look == 1) {
            (void)front.arm();
        }
        EXPECT_TRUE(front.take(answers).impossible);
    }
    Page other;
    TxFrontRing unpublished(other.bytes.data());
    unpublished.put(tx(1));
    other.index(rsp_prod) = 1;
    std::array<TxResponse, 4> answers;
    EXPECT_TRUE(unpublished.take(answers).impossible) << "a request that was never published cannot be answered";
}

TEST_F(Ring, SlotIsReadOnce) {
    TxFrontRing front(page.bytes.data());
    auto back = TxBackRing::attach(page.bytes.data());
    front.put(tx(1));
    (void)front.push_and_check_notify();
    std::array<TxSlot, 1> slots;
    ASSERT_EQ(back->take(slots).count, 1U);
    page.bytes.fill(std::byte{0xff});
    EXPECT_EQ(slots[0].request().id, 1U);
}

TEST_F(Ring, WhatIsPeekedAtStandsThereUntilItIsConsumedAsItWasThen) {
    TxFrontRing front(page.bytes.data());
    auto back = TxBackRing::attach(page.bytes.data());
    TxBackRing::Journal journal{};
    back->keep(journal);
    for (std::uint16_t id = 1; id <= 3; ++id) {
        front.put(tx(id));
    }
    (void)front.push_and_check_notify();
    std::array<TxSlot, 4> slots;
    ASSERT_EQ(back->peek(slots).count, 3U);
    EXPECT_EQ(back->owed(), 0U);
    EXPECT_EQ(journal.owed(0).count, 0U);
    EXPECT_EQ(back->available_seen(), 3U);
    std::fill(page.bytes.begin() + 64, page.bytes.begin() + 64 + 2 * sizeof(TxSlot), std::byte{0xff});
    back->consume(std::span(slots).first(2));
    EXPECT_EQ(back->owed(), 2U);
    const auto owed = journal.owed(0);
    ASSERT_EQ(owed.count, 2U);
    EXPECT_EQ(journal.request(owed.lines[1]).request().id, 2U) << "the copy, not what stands in the ring by now";
    ASSERT_EQ(back->take(slots).count, 1U);
    EXPECT_EQ(slots[0].request().id, 3U);
}

TEST_F(Ring, NotificationOnlyWhenAskedFor) {
    TxFrontRing front(page.bytes.data());
    auto back = TxBackRing::attach(page.bytes.data());
    std::array<TxSlot, 8> slots;
    front.put(tx(0));
    EXPECT_TRUE(front.push_and_check_notify()) << "req_event is 1 at first";
    EXPECT_FALSE(front.push_and_check_notify()) << "nothing new";
    front.put(tx(1));
    EXPECT_FALSE(front.push_and_check_notify()) << "the backend polls";
    (void)back->take(slots);
    EXPECT_TRUE(back->arm(3));
    front.put(tx(2));
    front.put(tx(3));
    EXPECT_FALSE(front.push_and_check_notify()) << "two of three";
    front.put(tx(4));
    EXPECT_TRUE(front.push_and_check_notify()) << "the third";
    EXPECT_FALSE(back->arm()) << "there is work";
}

TEST(RingWords, RequestAndExtraKeepTheirBytes) {
    const ExtraInfo gso = ExtraInfo::gso(GsoType::tcpv6, 0x1234);
    const TxSlot slot = TxSlot::from(gso);
    EXPECT_EQ(slot.extra().gso_size(), 0x1234);
    EXPECT_EQ(slot.extra().gso_type(), 2);
    EXPECT_EQ(slot.words[2], 0U) << "the rest of the slot is ours to define, and zero";
    EXPECT_EQ(slot.words[0], 0x12340001U) << "type, flags, size little endian";
}

/// The model: two deques. Any interleaving of an honest front and back, from any start.
TEST(RingProperty, AnyInterleavingKeepsOrderAndLosesNoWakeup) {
    EXPECT_TRUE(rc::check("ring", [](Index start, const std::vector<std::uint8_t>& steps) {
        Page page;
        TxFrontRing front(page.bytes.data(), start);
        auto back = TxBackRing::attach(page.bytes.data());
        std::deque<std::uint16_t> in_ring, owed, answered;
        std::uint16_t next = 0;
        std::size_t unpublished = 0;
        bool back_asleep = false, back_woken = false;
        for (const std::uint8_t step : steps) {
            const Index n = 1 + step / 8;
            switch (step % 6) {
                case 0:
                    for (Index i = 0; i < n && front.room() > 0; ++i, ++unpublished) {
                        front.put(tx(next));
                        in_ring.push_back(next++);
                    }
                    break;
                case 1:
                    if (front.push_and_check_notify()) {
                        back_woken = true;
                    }
                    unpublished = 0;
                    break;
                case 2: {
                    std::vector<TxSlot> slots(n);
                    const Taken taken = back->take(slots);
                    RC_ASSERT(!taken.impossible);
                    RC_ASSERT(taken.count == std::min<std::size_t>(n, in_ring.size() - unpublished));
                    for (Index i = 0; i < taken.count; ++i) {
                        RC_ASSERT(slots[i].request().id == in_ring.front());
                        owed.push_back(in_ring.front());
                        in_ring.pop_front();
                    }
                    back_asleep = false;
                    break;
                }
                case 3:
                    for (Index i = 0; i < n && !owed.empty(); ++i) {
                        const TxResponse response{owed.front(), 0};
                        back->respond(std::span(&response, 1));
                        answered.push_back(owed.front());
                        owed.pop_front();
                    }
                    (void)back->push_and_check_notify();
                    break;
                case 4: {
                    std::vector<TxResponse> answers(n);
                    const Taken taken = front.take(answers);
                    RC_ASSERT(!taken.impossible);
                    for (Index i = 0; i < taken.count; ++i) {
                        RC_ASSERT(answers[i].id == answered.front());
                        answered.pop_front();
                    }
                    break;
                }
                default:
                    back_woken = false;
                    back_asleep = back->arm();
                    RC_ASSERT(back_asleep == (in_ring.size() == unpublished));
            }
            RC_ASSERT(!back_asleep || back_woken || in_ring.size() == unpublished);
        }
    }));
}

/// Dekker's fences, with real threads: both sides sleep only when armed; a lost wakeup hangs the test.
TEST(RingThreads, NoWakeupIsLost) {
    Page page;
    TxFrontRing front(page.bytes.data(), 0xffffff00U);
    auto back = TxBackRing::attach(page.bytes.data());
    std::atomic<std::uint32_t> to_back{0}, to_front{0};
    constexpr std::uint32_t total = 200000;
    std::thread backend([&] {
        std::array<TxSlot, 64> slots;
        std::array<TxResponse, 64> answers{};
        for (std::uint32_t done = 0; done < total;) {
            const std::uint32_t seen = to_back.load();
            const Taken taken = back->take(slots);
            if (taken.count == 0) {
                if (back->arm()) {
                    to_back.wait(seen);
                }
                continue;
            }
            back->respond(std::span(answers.data(), taken.count));
            done += taken.count;
            if (back->push_and_check_notify()) {
                ++to_front;
                to_front.notify_one();
            }
        }
    });
    std::array<TxResponse, 64> answers;
    for (std::uint32_t sent = 0, reaped = 0; reaped < total;) {
        const std::uint32_t seen = to_front.load();
        for (int burst = 0; burst < 7 && sent < total && front.room() > 0; ++burst) {
            front.put(tx(static_cast<std::uint16_t>(sent++)));
        }
        if (front.push_and_check_notify()) {
            ++to_back;
            to_back.notify_one();
        }
        const Taken taken = front.take(answers);
        ASSERT_FALSE(taken.impossible);
        reaped += taken.count;
        if (taken.count == 0 && (front.room() == 0 || sent == total) && front.arm()) {
            to_front.wait(seen);
        }
    }
    backend.join();
}

}  // namespace
}  // namespace uvif::ring
