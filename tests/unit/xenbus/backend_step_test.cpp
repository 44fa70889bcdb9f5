// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "unit/xenbus/walk.hpp"
#include "xen/xenbus.hpp"

namespace uvif::xen {
namespace {

using enum XenbusState;

struct Row {
    const char* name;
    BackendView view;
    const char* steps;
};

std::string row_name(const testing::TestParamInfo<Row>& row) {
    return row.param.name;
}

BackendView at(XenbusState self, XenbusState frontend, bool attached = false) {
    BackendView view;
    view.self = self;
    view.frontend = frontend;
    view.attached = attached;
    return view;
}

BackendView offline(BackendView view) {
    view.online = false;
    return view;
}

BackendView gone(XenbusState self, bool attached = false) {
    BackendView view = at(self, unknown, attached);
    view.frontend_exists = false;
    return view;
}

BackendView scripted(BackendView view, Hotplug hotplug) {
    view.hotplug = hotplug;
    return view;
}

BackendView with(BackendView view, bool BackendView::* flag) {
    view.*flag = true;
    return view;
}

class BackendSteps : public testing::TestWithParam<Row> {};

TEST_P(BackendSteps, AreWhatTheProtocolWants) {
    BackendView view = GetParam().view;
    EXPECT_EQ(walk(view), GetParam().steps);
}

// What netback does for each state of the frontend, from each state of its own.
INSTANTIATE_TEST_SUITE_P(
    Frontend1Initialising, BackendSteps,
    testing::Values(Row{"fresh", at(initialising, initialising), "2"}, Row{"no_state", at(unknown, initialising), "2"},
                    Row{"waiting", at(init_wait, initialising), ""},
                    Row{"reconnects", at(connected, initialising, true), "disconnect 5 6 2"},
                    Row{"reconnects_after_restart", at(connected, initialising), "5 6 2"},
                    Row{"resumed_before_the_script", at(init_wait, initialising, true), "disconnect"},
                    Row{"closing", at(closing, initialising), "6 2"}, Row{"closed", at(closed, initialising), "2"},
                    Row{"reconfigured", at(reconfigured, initialising, true), "disconnect 5 6 2"},
                    Row{"leaves", offline(at(closing, initialising)), "6 remove"},
                    Row{"left", offline(at(closed, initialising)), "remove"}),
    row_name);

INSTANTIATE_TEST_SUITE_P(Frontend3Initialised, BackendSteps,
                         testing::Values(Row{"ignored_fresh", at(initialising, initialised), ""},
                                         Row{"ignored_waiting", at(init_wait, initialised), ""},
                                         Row{"ignored_connected", at(connected, initialised, true), ""},
                                         Row{"detached", offline(at(closing, initialised, true)),
                                             "disconnect 6 remove"}),
                         row_name);

INSTANTIATE_TEST_SUITE_P(
    Frontend4Connected, BackendSteps,
    testing::Values(Row{"connects", at(init_wait, connected), "connect 4"},
                    Row{"connects_from_fresh", at(initialising, connected), "2 connect 4"},
                    Row{"connects_from_closed", at(closed, connected), "2 connect 4"},
                    Row{"is_connected", at(connected, connected, true), ""},
                    Row{"taken_over", at(connected, connected), "connect"},
                    Row{"taken_over_whatever_the_script", scripted(at(connected, connected), Hotplug::pending),
                        "connect"},
                    Row{"finishes_what_was_begun", at(init_wait, connected, true), "4"},
                    Row{"waits_for_the_script", scripted(at(init_wait, connected), Hotplug::pending), ""},
                    Row{"waits_after_a_failed_script", scripted(at(init_wait, connected), Hotplug::error), ""},
                    Row{"script_done", scripted(at(init_wait, connected), Hotplug::connected), "connect 4"},
                    Row{"closing_waits_for_the_frontend", at(closing, connected), ""},
                    Row{"after_reconfiguring", at(reconfigured, connected, true), "4"}),
    row_name);

INSTANTIATE_TEST_SUITE_P(Frontend5Closing, BackendSteps,
                         testing::Values(Row{"connected", at(connected, closing, true), "disconnect 5"},
                                         Row{"waiting", at(init_wait, closing), "5"},
                                         Row{"fresh", at(initialising, closing), "2 5"},
                                         Row{"closing", at(closing, closing), ""},
                                         Row{"closed", at(closed, closing), "5"},
                                         Row{"leaves", offline(at(connected, closing, true)), "disconnect 5"}),
                         row_name);

INSTANTIATE_TEST_SUITE_P(Frontend6Closed, BackendSteps,
                         testing::Values(Row{"connected", at(connected, closed, true), "disconnect 5 6"},
                                         Row{"waiting", at(init_wait, closed), "5 6"},
                                         Row{"fresh", at(initialising, closed), "6"},
                                         Row{"closing", at(closing, closed), "6"},
                                         Row{"closed_waits_for_initialising", at(closed, closed), ""},
                                         Row{"offline", offline(at(closing, closed)), "6 remove"}),
                         row_name);

INSTANTIATE_TEST_SUITE_P(
    FrontendGone, BackendSteps,
    testing::Values(Row{"connected", gone(connected, true), "disconnect 5 6 remove"},
                    Row{"waiting", gone(init_wait), "5 6 remove"}, Row{"fresh", gone(initialising), "6 remove"},
                    Row{"closed", gone(closed), "remove"},
                    Row{"destroyed", offline(gone(closing, true)), "disconnect 6 remove"},
                    Row{"state_0", at(connected, unknown, true), "disconnect 5 6"},
                    Row{"state_0_offline", offline(at(connected, unknown, true)), "disconnect 5 6 remove"}),
    row_name);

INSTANTIATE_TEST_SUITE_P(Frontend7Reconfiguring, BackendSteps,
                         testing::Values(Row{"connected", at(connected, reconfiguring, true), "8"},
                                         Row{"done", at(reconfigured, reconfiguring, true), ""},
                                         Row{"taken_over", at(connected, reconfiguring), "connect 8"},
                                         Row{"waiting", at(init_wait, reconfiguring), ""},
                                         Row{"other", at(connected, reconfigured, true), ""}),
                         row_name);

// The toolstack's detach writes online=0 and Closing into our own node.
INSTANTIATE_TEST_SUITE_P(
    Detached, BackendSteps,
    testing::Values(Row{"frontend_still_connected", offline(at(closing, connected, true)), "disconnect"},
                    Row{"frontend_closing", offline(at(closing, closing, true)), "disconnect"},
                    Row{"frontend_closed", offline(at(closing, closed, true)), "disconnect 6 remove"},
                    Row{"frontend_gone", offline(gone(closing, true)), "disconnect 6 remove"},
                    Row{"no_driver_in_the_guest", offline(at(closing, initialising)), "6 remove"},
                    Row{"frontend_hangs", with(offline(at(closing, connected)), &BackendView::overdue), "6 remove"},
                    Row{"frontend_hangs_closing", with(offline(at(closing, closing)), &BackendView::overdue),
                        "6 remove"},
                    Row{"closing_seen_before_online", at(closing, connected, true), "disconnect"}),
    row_name);

INSTANTIATE_TEST_SUITE_P(
    Broken, BackendSteps,
    testing::Values(Row{"rogue", with(at(connected, connected, true), &BackendView::broken), "disconnect 5"},
                    Row{"connect_failed", with(at(init_wait, connected), &BackendView::broken), "5"},
                    Row{"closed", with(at(closed, connected), &BackendView::broken), ""},
                    Row{"forgiven", with(at(closed, initialising), &BackendView::broken), "2"}),
    row_name);

TEST(BackendStep, ARemovedNodeIsNeverWrittenAgain) {
    for (int self = 0; self < xenbus_state_count; ++self) {
        BackendView view = at(static_cast<XenbusState>(self), connected, true);
        view.backend_exists = false;
        EXPECT_EQ(walk(view), "disconnect remove");
    }
}

TEST(BackendStep, WindowsClosesBeforeItConnects) {
    BackendView view = at(initialising, initialising);
    EXPECT_EQ(walk(view), "2");
    view.frontend = closing;
    EXPECT_EQ(walk(view), "5");
    view.frontend = closed;
    EXPECT_EQ(walk(view), "6");
    view.frontend = initialising;
    EXPECT_EQ(walk(view), "2");
    view.frontend = connected;
    EXPECT_EQ(walk(view), "connect 4");
}

TEST(BackendStep, LinuxUnloadsAndLoadsItsDriver) {
    BackendView view = at(connected, closing, true);
    EXPECT_EQ(walk(view), "disconnect 5");
    view.frontend = closed;
    EXPECT_EQ(walk(view), "6");
    view.frontend = initialising;
    EXPECT_EQ(walk(view), "2");
    view.frontend = connected;
    EXPECT_EQ(walk(view), "connect 4");
}

TEST(BackendStep, LibxlAttachesAndDetaches) {
    BackendView view = scripted(at(initialising, initialising), Hotplug::pending);
    EXPECT_EQ(walk(view), "2");
    view.frontend = connected;
    EXPECT_EQ(walk(view), "");
    view.hotplug = Hotplug::connected;
    EXPECT_EQ(walk(view), "connect 4");
    view.online = false;
    view.self = closing;
    EXPECT_EQ(walk(view), "disconnect");
    view.frontend = closed;
    EXPECT_EQ(walk(view), "6 remove");
}

/// Every view there is.
void for_every_view(const std::function<void(const BackendView&)>& visit) {
    for (unsigned bits = 0; bits < 64; ++bits) {
        for (int self = 0; self < xenbus_state_count; ++self) {
            for (int frontend = 0; frontend < xenbus_state_count; ++frontend) {
                for (int hotplug = 0; hotplug < 4; ++hotplug) {
                    visit({.backend_exists = (bits & 1) != 0,
                           .self = static_cast<XenbusState>(self),
                           .frontend_exists = (bits & 2) != 0,
                           .frontend = static_cast<XenbusState>(frontend),
                           .online = (bits & 4) != 0,
                           .hotplug = static_cast<Hotplug>(hotplug),
                           .attached = (bits & 8) != 0,
                           .broken = (bits & 16) != 0,
                           .overdue = (bits & 32) != 0});
                }
            }
        }
    }
}

TEST(BackendStep, AlwaysEndsAndKeepsItsPromises) {
    for_every_view([](const BackendView& start) {
        BackendView view = start;
        int steps = 0;
        bool failed = false;
        for (BackendStep step = backend_step(view);; step = backend_step(view)) {
            if (step.action == BackendAction::write_state) {
                failed |= !view.backend_exists || step.state == view.self;
                // Nobody is told Closed, or offered a fresh start, while their pages are still mapped.
                failed |= view.attached && step.state != connected && step.state != reconfigured;
                // States are not skipped on the way down, and Connected is only written over mapped rings.
                failed |= view.self == connected && step.state == closed;
                failed |= step.state == connected && (!view.attached || view.frontend != connected);
            }
            failed |= step.action == BackendAction::connect &&
                      (view.attached || !view.frontend_exists || view.broken || !view.backend_exists);
            failed |= step.action == BackendAction::disconnect && !view.attached;
            failed |= step.action == BackendAction::remove && view.attached;
            failed |= ++steps > too_many_steps;
            if (failed || !take(view, step)) {
                break;
            }
        }
        // A device that is no longer wanted by a frontend that is not there goes.
        failed |= !start.online && !start.frontend_exists && backend_step(view).action != BackendAction::remove;
        ASSERT_FALSE(failed) << "self " << to_string(start.self) << ", frontend " << to_string(start.frontend)
                             << ", exists " << start.backend_exists << start.frontend_exists << ", online "
                             << start.online << ", attached " << start.attached << ", broken " << start.broken
                             << ", overdue " << start.overdue << ", hotplug " << static_cast<int>(start.hotplug);
    });
}

}  // namespace
}  // namespace uvif::xen
