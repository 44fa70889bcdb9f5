// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <cerrno>
#include <string>
#include <vector>

#include "unit/xenstore/store_answers.hpp"
#include "xen/emulated/local_store.hpp"
#include "xen/emulated/store_core.hpp"

namespace uvif::xen {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

/// Takes all waiting events, as "path token".
std::vector<std::string> events(StoreSession& session) {
    std::vector<std::string> all;
    while (const auto event = session.next_event()) {
        all.push_back(event->path + " " + event->token);
    }
    return all;
}

class Watches : public testing::Test {
protected:
    StoreCore core_;
    StoreSession dom0_{core_, DomainId{0}};
    StoreSession guest_{core_, DomainId{1}};
    StoreSession writer_{core_, DomainId{0}};
};

TEST_F(Watches, FireOnRegistrationEvenForNothing) {
    ASSERT_TRUE(dom0_.watch("/not/there", "t"));
    EXPECT_THAT(events(dom0_), ElementsAre("/not/there t"));
    EXPECT_EQ(code(dom0_.watch("/not/there", "t")), EEXIST);
    EXPECT_EQ(code(dom0_.watch("/not/there", "other")), 0);
    EXPECT_EQ(code(dom0_.unwatch("/not/there", "unknown")), ENOENT);
    EXPECT_EQ(code(dom0_.watch("/bad/", "t")), EINVAL);
}

TEST_F(Watches, SeeTheNodeAndAllBelowIt) {
    ASSERT_TRUE(dom0_.watch("/a/b", "t"));
    events(dom0_);
    ASSERT_TRUE(writer_.write("/a/b", "1", none));
    EXPECT_THAT(events(dom0_), ElementsAre("/a/b t"));
    ASSERT_TRUE(writer_.write("/a/b/c/d", "1", none));
    EXPECT_THAT(events(dom0_), ElementsAre("/a/b/c/d t"));
    ASSERT_TRUE(writer_.make_directory("/a/b/e", none));
    EXPECT_THAT(events(dom0_), ElementsAre("/a/b/e t"));
    ASSERT_TRUE(writer_.set_permissions("/a/b/e", {{DomainId{0}, 'r'}}, none));
    EXPECT_THAT(events(dom0_), ElementsAre("/a/b/e t"));
    for (const char* elsewhere : {"/a", "/a/bb", "/a/c", "/b"}) {
        ASSERT_TRUE(writer_.write(elsewhere, "1", none));
    }
    EXPECT_THAT(events(dom0_), IsEmpty());
    ASSERT_TRUE(dom0_.unwatch("/a/b", "t"));
    ASSERT_TRUE(writer_.write("/a/b", "2", none));
    EXPECT_THAT(events(dom0_), IsEmpty());
}

TEST_F(Watches, RemovalTellsThoseAboveOnceAndThoseBelowTheirOwnPath) {
    for (const char* path : {"/a/b/c", "/a/b/d"}) {
        ASSERT_TRUE(writer_.write(path, "", none));
    }
    ASSERT_TRUE(dom0_.watch("/a", "above"));
    ASSERT_TRUE(dom0_.watch("/a/b/c", "below"));
    ASSERT_TRUE(dom0_.watch("/a/b/missing", "never"));
    events(dom0_);
    ASSERT_TRUE(writer_.remove("/a/b", none));
    EXPECT_THAT(events(dom0_), ElementsAre("/a/b above", "/a/b/c below"));
    ASSERT_TRUE(writer_.remove("/a/b", none));  // was not there: nothing happened
    EXPECT_THAT(events(dom0_), IsEmpty());
}

TEST_F(Watches, RelativeOnesGetRelativePaths) {
    ASSERT_TRUE(dom0_.watch("backend/vif", "relative"));
    ASSERT_TRUE(dom0_.watch("/local/domain/0/backend/vif", "absolute"));
    EXPECT_THAT(events(dom0_), ElementsAre("backend/vif relative", "/local/domain/0/backend/vif absolute"));
    ASSERT_TRUE(writer_.write("/local/domain/0/backend/vif/1/0/state", "1", none));
    EXPECT_THAT(events(dom0_),
                ElementsAre("backend/vif/1/0/state relative", "/local/domain/0/backend/vif/1/0/state absolute"));
}

TEST_F(Watches, OfATransactionFireAtTheCommit) {
    ASSERT_TRUE(dom0_.watch("/a", "t"));
    events(dom0_);
    Transaction t = writer_.begin().value();
    ASSERT_TRUE(writer_.write("/a/x", "1", t));
    ASSERT_TRUE(writer_.write("/a/y", "1", t));
    ASSERT_TRUE(writer_.write("/a/x", "2", t));
    EXPECT_THAT(events(dom0_), IsEmpty());
    ASSERT_TRUE(writer_.end(t, true));
    EXPECT_THAT(events(dom0_), ElementsAre("/a/x t", "/a/y t"));

    t = writer_.begin().value();
    ASSERT_TRUE(writer_.write("/a/x", "3", t));
    ASSERT_TRUE(writer_.end(t, false));
    EXPECT_THAT(events(dom0_), IsEmpty());

    t = writer_.begin().value();
    ASSERT_TRUE(writer_.write("/a/x", "3", t));
    ASSERT_TRUE(dom0_.write("/a/x", "meanwhile", none));
    EXPECT_THAT(events(dom0_), ElementsAre("/a/x t"));
    ASSERT_EQ(code(writer_.end(t, true)), EAGAIN);
    EXPECT_THAT(events(dom0_), IsEmpty());

    t = writer_.begin().value();
    ASSERT_TRUE(writer_.remove("/a", t));
    ASSERT_TRUE(writer_.end(t, true));
    EXPECT_THAT(events(dom0_), ElementsAre("/a t"));
}

TEST_F(Watches, OnlyTellWhatMayBeRead) {
    ASSERT_TRUE(guest_.watch("/dir", "t"));
    events(guest_);
    ASSERT_TRUE(writer_.write("/dir/secret", "1", none));
    EXPECT_THAT(events(guest_), IsEmpty());
    ASSERT_TRUE(writer_.set_permissions("/dir/secret", {{DomainId{0}, 'n'}, {DomainId{1}, 'r'}}, none));
    EXPECT_THAT(events(guest_), ElementsAre("/dir/secret t"));
    ASSERT_TRUE(writer_.write("/dir/secret", "2", none));
    EXPECT_THAT(events(guest_), ElementsAre("/dir/secret t"));
    // Losing the right is the last that is told.
    ASSERT_TRUE(writer_.set_permissions("/dir/secret", {{DomainId{0}, 'n'}}, none));
    EXPECT_THAT(events(guest_), ElementsAre("/dir/secret t"));
    ASSERT_TRUE(writer_.write("/dir/secret", "3", none));
    EXPECT_THAT(events(guest_), IsEmpty());
    // Whoever may list the parent sees its children come and go anyway.
    ASSERT_TRUE(writer_.set_permissions("/dir", {{DomainId{0}, 'r'}}, none));
    events(guest_);
    ASSERT_TRUE(writer_.write("/dir/secret", "4", none));
    EXPECT_THAT(events(guest_), ElementsAre("/dir/secret t"));
}

TEST_F(Watches, TellDom0OfDomains) {
    ASSERT_TRUE(dom0_.watch("@introduceDomain", "in"));
    ASSERT_TRUE(dom0_.watch("@releaseDomain", "out"));
    ASSERT_TRUE(guest_.watch("@releaseDomain", "out"));
    EXPECT_THAT(events(dom0_), ElementsAre("@introduceDomain in", "@releaseDomain out"));
    EXPECT_THAT(events(guest_), ElementsAre("@releaseDomain out"));
    core_.introduce(DomainId{5});
    EXPECT_THAT(events(dom0_), ElementsAre("@introduceDomain in"));
    core_.introduce(DomainId{5});
    EXPECT_THAT(events(dom0_), IsEmpty());
    core_.release(DomainId{5});
    EXPECT_THAT(events(dom0_), ElementsAre("@releaseDomain out"));
    EXPECT_THAT(events(guest_), IsEmpty());
    // A driver domain may be let in.
    ASSERT_TRUE(dom0_.set_permissions("@releaseDomain", {{DomainId{0}, 'n'}, {DomainId{1}, 'r'}}, none));
    core_.introduce(DomainId{6});
    core_.release(DomainId{6});
    EXPECT_THAT(events(guest_), ElementsAre("@releaseDomain out"));
    EXPECT_EQ(code(guest_.set_permissions("@releaseDomain", {{DomainId{1}, 'b'}}, none)), EACCES);
}

TEST_F(Watches, ReleaseTellsWatchersOfTheNodesThatGo) {
    core_.introduce(DomainId{1});
    ASSERT_TRUE(writer_.make_directory("/local/domain/1", none));
    ASSERT_TRUE(writer_.set_permissions("/local/domain/1", {{DomainId{1}, 'n'}}, none));
    ASSERT_TRUE(guest_.write("device/vif/0/state", "4", none));
    ASSERT_TRUE(dom0_.watch("/local/domain/1/device/vif/0/state", "t"));
    events(dom0_);
    core_.release(DomainId{1});
    EXPECT_THAT(events(dom0_), ElementsAre("/local/domain/1/device/vif/0/state t"));
}

TEST_F(Watches, SamePathAndTokenWaitsOnce) {
    ASSERT_TRUE(dom0_.watch("/a", "t"));
    ASSERT_TRUE(dom0_.watch("/a", "u"));
    for (int i = 0; i < 1000; ++i) {
        ASSERT_TRUE(writer_.write("/a", std::to_string(i), none));
    }
    EXPECT_THAT(events(dom0_), ElementsAre("/a t", "/a u"));
    ASSERT_TRUE(writer_.write("/a", "again", none));
    EXPECT_THAT(events(dom0_), ElementsAre("/a t", "/a u"));
}

TEST_F(Watches, AReaderThatDoesNotReadIsToldToLookFromTheTop) {
    ASSERT_TRUE(dom0_.watch("/a", "t"));
    for (std::size_t i = 0; i < store_pending_events_max * 3; ++i) {
        ASSERT_TRUE(writer_.write("/a/" + std::to_string(i), "", none));
    }
    EXPECT_EQ(events(dom0_).size(), store_pending_events_max);
    for (std::size_t i = 0; i < store_pending_events_max; ++i) {
        ASSERT_TRUE(writer_.write("/a/" + std::to_string(i), "", none));
    }
    ASSERT_TRUE(writer_.write("/a/last", "", none));
    const auto all = events(dom0_);
    EXPECT_EQ(all.size(), store_pending_events_max + 1);
    EXPECT_EQ(all.back(), "/a t");
}

TEST_F(Watches, ResetForgetsEverything) {
    ASSERT_TRUE(dom0_.watch("/a", "t"));
    const Transaction t = dom0_.begin().value();
    dom0_.reset();
    EXPECT_THAT(events(dom0_), IsEmpty());
    EXPECT_EQ(code(dom0_.end(t, true)), ENOENT);
    ASSERT_TRUE(writer_.write("/a", "", none));
    EXPECT_THAT(events(dom0_), IsEmpty());
}

bool readable(int fd) {
    pollfd entry{fd, POLLIN, 0};
    return ::poll(&entry, 1, 0) == 1;
}

TEST(LocalStoreTest, DescriptorIsReadableWhileEventsWait) {
    StoreCore core;
    const auto store = LocalStore::open(core, DomainId{0}).value();
    EXPECT_FALSE(readable(store->fd()));
    ASSERT_TRUE(store->watch("/a", "t"));
    ASSERT_TRUE(store->write("/a/b", "1"));
    EXPECT_TRUE(readable(store->fd()));
    EXPECT_EQ(store->next_event()->path, "/a");
    EXPECT_TRUE(readable(store->fd()));
    EXPECT_EQ(store->next_event()->path, "/a/b");
    EXPECT_FALSE(readable(store->fd()));
    EXPECT_EQ(store->next_event(), std::nullopt);
    ASSERT_TRUE(store->write("/a/b", "2"));
    EXPECT_TRUE(readable(store->fd()));
}

}  // namespace
}  // namespace uvif::xen
