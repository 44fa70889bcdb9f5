// SPDX-License-Identifier: MIT
//
// A backend may be killed at any instruction. That is what these tests do, and this is what they ask for:
//
//   * every slot is answered exactly once, TX by its id, RX in its place;
//   * a packet that was answered is not sent again, any other is sent, from the right pages, at most once more;
//   * what the guest receives is whole and in order, and lies in the buffers that it posted: in no other page.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "property/takeover_stage.hpp"

namespace uvif {
namespace {

using netback::FetchStrategy;
using test::Stage;
using test::Way;

class Takeover : public testing::TestWithParam<Way> {
protected:
    void SetUp() override {
#ifdef UVIF_SANITIZED
        GTEST_SKIP() << "a turn of a sanitized backend has too many instructions to trace them";
#endif
        if (!test::may_trace()) {
            GTEST_SKIP() << "a process may not trace its child here";
        }
    }
};

/// Up to a turn with everything in it: packets of all shapes, some done with in another order than they came, some not,
/// and a ring whose places are used for the second time.
void play(Stage& stage) {
    stage.start();
    stage.tell('d');
    for (std::uint8_t round = 0; round < 9; ++round) {
        for (std::uint8_t shape = 0; shape < 8; ++shape) {
            stage.send(static_cast<std::uint8_t>(shape + round));
        }
        for (const char what : {round % 2 == 0 ? 'o' : 'O', 't', 'l', 'l', round % 3 == 0 ? 'f' : 'l', 't'}) {
            stage.tell(what);
        }
        ASSERT_TRUE(stage.collect(stage.guest)) << stage.complaint;
        stage.post_rx();
    }
    for (std::uint8_t shape = 0; shape < 8; ++shape) {
        stage.send(shape);
    }
    for (const char what : {'o', 'O', 'o', 'l', 'f', 'l'}) {
        stage.tell(what);
    }
}

TEST_P(Takeover, AtAnyInstruction) {
    Stage stage(GetParam(), 0xffffffe0U);
    ASSERT_NO_FATAL_FAILURE(play(stage));
    const std::size_t states = stage.trace_turn();
    EXPECT_EQ(stage.complaint, "") << "in state " << states;
    EXPECT_GT(states, 50U);
}

/// The successor is killed too, while it puts back what was left.
TEST_P(Takeover, AtAnyInstructionOfATakeover) {
    constexpr std::size_t apart = 7;
    bool reached = true;
    std::size_t most = 0;
    for (std::size_t state = apart; reached; state += apart) {
        Stage stage(GetParam(), 0xffffffe0U);
        ASSERT_NO_FATAL_FAILURE(play(stage));
        reached = stage.trace_turn(state) == state;
        stage.kill();
        const std::size_t states = stage.start_traced();
        ASSERT_EQ(stage.complaint, "") << "in state " << states << " after state " << state;
        most = std::max(most, states);
    }
    EXPECT_GT(most, 20U);
}

/// Any way to get there, over several backends.
TEST_P(Takeover, FromAnyState) {
    EXPECT_TRUE(rc::check("takeover", [way = GetParam()] {
        const auto before_wrap = *rc::gen::arbitrary<std::uint8_t>();
        const auto steps = *rc::gen::resize(300, rc::gen::arbitrary<std::vector<std::uint8_t>>());
        Stage stage(way, ring::Index{0} - before_wrap);
        stage.start();
        for (const std::uint8_t step : steps) {
            const auto detail = static_cast<std::uint8_t>(step / 8);
            switch (step % 8) {
                case 0:
                case 1:
                case 2:
                    stage.send(detail);
                    break;
                case 3:
                    stage.tell(detail % 2 == 0 ? 'o' : 'O');
                    break;
                case 4:
                    stage.tell('t');
                    break;
                case 5:
                    stage.tell(detail % 2 == 0 ? 'f' : 'l');
                    break;
                case 6:
                    RC_ASSERT(stage.collect(stage.guest));
                    stage.post_rx();
                    break;
                default:
                    if (detail == 0) {
                        stage.kill();
                        stage.start();
                    } else if (detail < 8) {
                        stage.tell('d');
                    } else {
                        stage.tell('t');
                    }
                    break;
            }
        }
        const std::size_t states = stage.trace_turn();
        RC_LOG() << stage.complaint << " in state " << states << "\n";
        RC_ASSERT(stage.complaint.empty());
        RC_ASSERT(states != 0U);
    }));
}

INSTANTIATE_TEST_SUITE_P(Ways, Takeover,
                         testing::Values(Way{FetchStrategy::copy, false}, Way{FetchStrategy::map, false},
                                         Way{FetchStrategy::copy, true}),
                         [](const auto& test) {
                             return test.param.granted                          ? "Left"
                                    : test.param.strategy == FetchStrategy::map ? "Map"
                                                                                : "Copy";
                         });

}  // namespace
}  // namespace uvif
