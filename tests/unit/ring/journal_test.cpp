// SPDX-License-Identifier: MIT
//
// What a journal says to a successor, with answers in any order. That nothing is lost between two instructions,
// takeover_property_test.cpp shows.
#include "ring/journal.hpp"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <memory>
#include <vector>

#include "ring/back_ring.hpp"
#include "ring/front_ring.hpp"

namespace uvif::ring {
namespace {

TxSlot numbered(std::uint32_t number) {
    return TxSlot{{number, 0, 0}};
}

struct Kept {
    alignas(xen::page_size) std::array<std::byte, xen::page_size> page;
    TxBackRing::Journal journal;
};

/// What a successor would take from the ring.
std::vector<std::uint32_t> left_behind(const Kept& kept) {
    const auto copy = std::make_unique<Kept>(kept);
    auto ring = TxBackRing::attach(copy->page.data());
    std::vector<std::uint32_t> numbers;
    if (!ring || !ring->recover(copy->journal)) {
        return {~std::uint32_t{0}};
    }
    for (std::array<TxSlot, 1> slot; ring->take(slot).count != 0;) {
        numbers.push_back(slot[0].words[0]);
    }
    return numbers;
}

TEST(Journal, TellsWhatIsOwedHoweverAnswersOvertakeEachOther) {
    EXPECT_TRUE(rc::check("journal", [] {
        const auto start = *rc::gen::arbitrary<Index>();
        const auto steps = *rc::gen::resize(2000, rc::gen::arbitrary<std::vector<std::uint8_t>>());
        const auto kept = std::make_unique<Kept>();
        TxFrontRing front(kept->page.data(), start);
        auto back = TxBackRing::attach(kept->page.data());
        back->keep(kept->journal);
        std::vector<std::pair<std::uint32_t, Line>> owed;  // in the order in which they were taken
        std::vector<std::uint32_t> waiting;
        std::uint32_t next = 0;
        for (const std::uint8_t step : steps) {
            switch (step % 4) {
                case 0:
                    for (int i = step / 4; i > 0 && front.room() != 0; --i) {
                        front.put(numbered(next));
                        waiting.push_back(next++);
                    }
                    (void)front.push_and_check_notify();
                    break;
                case 1: {
                    std::array<TxSlot, TxBackRing::size> slots;
                    std::array<Line, TxBackRing::size> lines;
                    const Index count = back->take(std::span(slots).first(step), lines).count;
                    for (Index i = 0; i < count; ++i) {
                        owed.emplace_back(slots[i].words[0], lines[i]);
                    }
                    waiting.erase(waiting.begin(), waiting.begin() + count);
                    break;
                }
                default: {
                    std::vector<TxResponse> answers;
                    std::vector<Line> lines;
                    for (int i = step / 8; i > 0 && !owed.empty(); --i) {
                        const auto one = owed.begin() + (step * 7 + i * 13) % static_cast<int>(owed.size());
                        answers.push_back({static_cast<std::uint16_t>(one->first), 0});
                        lines.push_back(one->second);
                        owed.erase(one);
                    }
                    back->respond(answers, lines);
                    (void)back->push_and_check_notify();
                    std::array<TxResponse, TxBackRing::size> taken;
                    RC_ASSERT(front.take(taken).count == answers.size());
                    break;
                }
            }
        }
        std::vector<std::uint32_t> expected;
        for (const auto& [number, line] : owed) {
            expected.push_back(number);
        }
        expected.insert(expected.end(), waiting.begin(), waiting.end());
        RC_ASSERT(left_behind(*kept) == expected);
    }));
}

TEST(Journal, AnswersThatNobodyWasToldOfAreNone) {
    const auto kept = std::make_unique<Kept>();
    TxFrontRing front(kept->page.data());
    auto back = TxBackRing::attach(kept->page.data());
    back->keep(kept->journal);
    for (std::uint32_t i = 0; i < 5; ++i) {
        front.put(numbered(i));
    }
    (void)front.push_and_check_notify();
    std::array<TxSlot, 4> slots;
    std::array<Line, 4> lines;
    ASSERT_EQ(back->take(slots, lines).count, 4U);
    const std::array answers{TxResponse{77, 0}, TxResponse{78, 0}};
    back->respond(answers, std::array{lines[3], lines[1]});
    EXPECT_EQ(left_behind(*kept), (std::vector<std::uint32_t>{0, 1, 2, 3, 4}));
    (void)back->push_and_check_notify();
    EXPECT_EQ(left_behind(*kept), (std::vector<std::uint32_t>{0, 2, 4}));
}

/// `consumed` and the first lines, as in the file.
Index& consumed(Kept& kept) {
    return *reinterpret_cast<Index*>(&kept.journal);
}
Line& line_of_slot(Kept& kept, Index slot) {
    return reinterpret_cast<Line*>(&kept.journal)[sizeof(Index) + slot];
}

struct Refused : testing::Test {
    Refused() : kept(std::make_unique<Kept>()), front(kept->page.data()), back(*TxBackRing::attach(kept->page.data())) {
        back.keep(kept->journal);
        for (std::uint32_t i = 0; i < 10; ++i) {
            front.put(numbered(i));
        }
        (void)front.push_and_check_notify();
        std::array<TxSlot, 6> slots;
        EXPECT_EQ(back.take(slots).count, 6U);
    }
    const std::vector<std::uint32_t> refused{~std::uint32_t{0}};
    std::unique_ptr<Kept> kept;
    TxFrontRing front;
    TxBackRing back;
};

TEST_F(Refused, WhenMoreIsConsumedThanTheGuestHasAsked) {
    EXPECT_NE(left_behind(*kept), refused);
    consumed(*kept) = 11;
    EXPECT_EQ(left_behind(*kept), refused);
}

TEST_F(Refused, WhenTheGuestHasMoreAnswersThanWereConsumed) {
    TxBackRing::Shared(kept->page.data()).rsp_prod().store(7);
    EXPECT_EQ(left_behind(*kept), refused);
}

TEST_F(Refused, WhenALineBelongsToTwoSlots) {
    line_of_slot(*kept, 20) = 21;
    EXPECT_EQ(left_behind(*kept), refused);
}

}  // namespace
}  // namespace uvif::ring
