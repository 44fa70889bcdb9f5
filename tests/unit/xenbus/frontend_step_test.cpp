// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "unit/xenbus/walk.hpp"
#include "xen/xenbus.hpp"

namespace uvif::xen {
namespace {

using enum XenbusState;

struct Row {
    const char* name;
    FrontendView view;
    const char* steps;
};

std::string row_name(const testing::TestParamInfo<Row>& row) {
    return row.param.name;
}

FrontendView at(XenbusState self, XenbusState backend, bool attached = false) {
    FrontendView view;
    view.self = self;
    view.backend = backend;
    view.attached = attached;
    return view;
}

FrontendView leaving(XenbusState self, XenbusState backend, bool attached = false, bool overdue = false) {
    FrontendView view = at(self, backend, attached);
    view.wanted = false;
    view.overdue = overdue;
    return view;
}

class FrontendSteps : public testing::TestWithParam<Row> {};

TEST_P(FrontendSteps, AreWhatTheProtocolWants) {
    FrontendView view = GetParam().view;
    EXPECT_EQ(walk(view), GetParam().steps);
}

INSTANTIATE_TEST_SUITE_P(Connecting, FrontendSteps,
                         testing::Values(Row{"waits_for_the_backend", at(initialising, initialising), ""},
                                         Row{"backend_missing", at(initialising, unknown), ""},
                                         Row{"connects", at(initialising, init_wait), "connect 4"},
                                         Row{"from_an_unset_state", at(unknown, init_wait), "1 connect 4"},
                                         Row{"keys_written", at(initialising, init_wait, true), "4"},
                                         Row{"backend_not_yet", at(connected, init_wait, true), ""},
                                         Row{"up", at(connected, connected, true), ""},
                                         Row{"earlier_life_crashed", at(connected, connected), "1"},
                                         Row{"earlier_life_closed", at(closed, closed), "1"},
                                         Row{"earlier_life_closing", at(closing, closed), "1"},
                                         Row{"backend_initialised", at(initialising, initialised), ""},
                                         Row{"backend_stale", at(initialising, connected), ""}),
                         row_name);

INSTANTIATE_TEST_SUITE_P(
    BackendLeaves, FrontendSteps,
    testing::Values(Row{"closing", at(connected, closing, true), "5 6"},
                    Row{"closed", at(connected, closed, true), "5 6 disconnect 1"},
                    Row{"missing", at(connected, unknown, true), "5 6 disconnect 1"},
                    Row{"closed_after_us", at(closed, closed, true), "disconnect 1"},
                    Row{"closing_during_connect", at(initialising, closing, true), "disconnect 5 6"},
                    Row{"closing_before_connect", at(initialising, closing), "5 6"},
                    Row{"jumped_to_a_new_start", at(closed, init_wait, true), "disconnect 1 connect 4"},
                    Row{"jumped_while_we_closed", at(closing, init_wait, true), "6 disconnect 1 connect 4"},
                    Row{"back_again", at(closed, init_wait), "1 connect 4"}),
    row_name);

INSTANTIATE_TEST_SUITE_P(
    WeLeave, FrontendSteps,
    testing::Values(Row{"tells", leaving(connected, connected, true), "5"},
                    Row{"waits", leaving(closing, connected, true), ""},
                    Row{"backend_answered", leaving(closing, closing, true), "6"},
                    Row{"backend_let_go", leaving(closed, closed, true), "disconnect finished"},
                    Row{"backend_at_once_closed", leaving(closing, closed, true), "6 disconnect finished"},
                    Row{"backend_hangs", leaving(connected, connected, true, true), "5 6 disconnect finished"},
                    Row{"backend_missing", leaving(connected, unknown, true), "5 6 disconnect finished"},
                    Row{"never_connected", leaving(initialising, init_wait), "5 6"},
                    Row{"never_connected_answered", leaving(closed, closed), "finished"}),
    row_name);

TEST(FrontendStep, AVanishedDeviceIsTheEnd) {
    FrontendView view = at(unknown, connected, true);
    view.frontend_exists = false;
    EXPECT_EQ(walk(view), "disconnect finished");
}

TEST(FrontendStep, AlwaysEndsAndKeepsItsPromises) {
    for (unsigned bits = 0; bits < 16; ++bits) {
        for (int self = 0; self < xenbus_state_count; ++self) {
            for (int backend = 0; backend < xenbus_state_count; ++backend) {
                const FrontendView start = {.frontend_exists = (bits & 1) != 0,
                                            .self = static_cast<XenbusState>(self),
                                            .backend = static_cast<XenbusState>(backend),
                                            .attached = (bits & 2) != 0,
                                            .wanted = (bits & 4) != 0,
                                            .overdue = (bits & 8) != 0};
                FrontendView view = start;
                int steps = 0;
                bool failed = false;
                for (FrontendStep step = frontend_step(view);; step = frontend_step(view)) {
                    if (step.action == FrontendAction::write_state) {
                        failed |= !view.frontend_exists || step.state == view.self;
                        failed |= view.attached && step.state == initialising;
                        failed |= step.state == connected && !view.attached;
                    }
                    // Pages are not taken from a backend that says that it is connected, unless its time is over.
                    failed |= step.action == FrontendAction::disconnect && view.frontend_exists &&
                              view.backend == connected && !view.overdue && view.self != initialising && view.wanted;
                    failed |= step.action == FrontendAction::connect && (view.attached || view.backend != init_wait);
                    failed |= step.action == FrontendAction::finished && view.attached;
                    failed |= ++steps > too_many_steps;
                    if (failed || !take(view, step)) {
                        break;
                    }
                }
                // Whoever is overdue cannot keep us from leaving.
                failed |= !start.wanted && start.overdue && frontend_step(view).action != FrontendAction::finished;
                ASSERT_FALSE(failed) << "self " << to_string(start.self) << ", backend " << to_string(start.backend)
                                     << ", exists " << start.frontend_exists << ", attached " << start.attached
                                     << ", wanted " << start.wanted << ", overdue " << start.overdue;
            }
        }
    }
}

/// Both ends on one pair of nodes, stepping in turn until neither has anything to do.
struct Pair {
    BackendView backend;
    FrontendView frontend;

    bool settle(bool backend_first) {
        for (int rounds = 0; rounds < 20; ++rounds) {
            const std::string first = backend_first ? back() : front();
            const std::string second = backend_first ? front() : back();
            if (first.empty() && second.empty()) {
                return true;
            }
        }
        return false;
    }
    std::string back() {
        backend.frontend = frontend.self;
        return walk(backend);
    }
    std::string front() {
        frontend.backend = backend.self;
        return walk(frontend);
    }
};

TEST(BothEnds, ComeTogetherFromAnyStates) {
    for (int self = 0; self < xenbus_state_count; ++self) {
        for (int other = 0; other < xenbus_state_count; ++other) {
            for (const bool backend_first : {false, true}) {
                // The frontend has just started; the backend stands wherever an earlier life left it.
                Pair pair;
                pair.backend.self = static_cast<XenbusState>(self);
                pair.backend.attached = self == 4;
                pair.frontend.self = static_cast<XenbusState>(other);
                SCOPED_TRACE("backend " + std::to_string(self) + ", frontend " + std::to_string(other) +
                             (backend_first ? ", backend first" : ""));
                ASSERT_TRUE(pair.settle(backend_first));
                EXPECT_EQ(pair.backend.self, connected);
                EXPECT_EQ(pair.frontend.self, connected);
                EXPECT_TRUE(pair.backend.attached && pair.frontend.attached);
            }
        }
    }
}

TEST(BothEnds, SurviveABackendThatLeavesAndComesBack) {
    for (const bool backend_first : {false, true}) {
        Pair pair;
        ASSERT_TRUE(pair.settle(backend_first));
        // A daemon that stops in good order closes first.
        pair.backend.attached = false;
        pair.backend.self = closing;
        EXPECT_EQ(pair.front(), "5 6");
        pair.backend.self = closed;
        EXPECT_EQ(pair.front(), "disconnect 1");
        ASSERT_TRUE(pair.settle(backend_first));
        EXPECT_EQ(pair.backend.self, connected);
        EXPECT_EQ(pair.frontend.self, connected);
    }
}

TEST(BothEnds, PartInGoodOrder) {
    Pair pair;
    ASSERT_TRUE(pair.settle(true));
    pair.frontend.wanted = false;
    EXPECT_EQ(pair.front(), "5");
    EXPECT_EQ(pair.back(), "disconnect 5");
    EXPECT_EQ(pair.front(), "6");
    EXPECT_EQ(pair.back(), "6");
    EXPECT_EQ(pair.front(), "disconnect finished");

    Pair detached;
    ASSERT_TRUE(detached.settle(true));
    detached.backend.online = false;
    detached.backend.self = closing;
    EXPECT_EQ(detached.back(), "disconnect");
    EXPECT_EQ(detached.front(), "5 6");
    EXPECT_EQ(detached.back(), "6 remove");
}

}  // namespace
}  // namespace uvif::xen
