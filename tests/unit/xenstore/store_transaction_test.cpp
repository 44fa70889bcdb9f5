// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <functional>
#include <string>
#include <vector>

#include "unit/xenstore/store_answers.hpp"
#include "xen/emulated/store_core.hpp"

namespace uvif::xen {
namespace {

class Transactions : public testing::Test {
protected:
    void SetUp() override {
        ASSERT_TRUE(dom0_.write("/a", "1", none));
        ASSERT_TRUE(dom0_.write("/b", "1", none));
        ASSERT_TRUE(dom0_.write("/dir/x", "1", none));
    }

    StoreCore core_;
    StoreSession dom0_{core_, DomainId{0}};
    StoreSession other_{core_, DomainId{0}};
};

TEST_F(Transactions, ShowTheirChangesToNobodyElseBeforeTheCommit) {
    const Transaction t = dom0_.begin().value();
    ASSERT_TRUE(dom0_.write("/a", "2", t));
    ASSERT_TRUE(dom0_.write("/new/deep", "2", t));
    ASSERT_TRUE(dom0_.remove("/dir", t));
    EXPECT_EQ(dom0_.read("/a", t), "2");
    EXPECT_EQ(code(dom0_.read("/dir/x", t)), ENOENT);
    EXPECT_EQ(other_.read("/a", none), "1");
    EXPECT_EQ(dom0_.read("/a", none), "1");
    EXPECT_EQ(code(other_.read("/new", none)), ENOENT);
    EXPECT_EQ(other_.read("/dir/x", none), "1");
    ASSERT_TRUE(dom0_.end(t, true));
    EXPECT_EQ(other_.read("/a", none), "2");
    EXPECT_EQ(other_.read("/new/deep", none), "2");
    EXPECT_EQ(code(other_.read("/dir/x", none)), ENOENT);
}

TEST_F(Transactions, AreForgottenWhenAborted) {
    const Transaction t = dom0_.begin().value();
    ASSERT_TRUE(dom0_.write("/a", "2", t));
    ASSERT_TRUE(dom0_.end(t, false));
    EXPECT_EQ(dom0_.read("/a", none), "1");
    EXPECT_EQ(code(dom0_.read("/a", t)), ENOENT);
    EXPECT_EQ(code(dom0_.end(t, true)), ENOENT);
}

TEST_F(Transactions, BelongToTheirConnection) {
    const Transaction t = dom0_.begin().value();
    EXPECT_EQ(code(other_.read("/a", t)), ENOENT);
    EXPECT_EQ(code(other_.end(t, true)), ENOENT);
}

/// What happens inside, what another client does meanwhile, and whether the commit meets a conflict.
struct ConflictRow {
    const char* name;
    std::function<void(StoreSession&, Transaction)> inside;
    std::function<void(StoreSession&)> meanwhile;
    bool conflict;
};

TEST_F(Transactions, ConflictExactlyWhenWhatTheyTouchedChanged) {
    const auto write_b = [](StoreSession& s, Transaction t) { ASSERT_TRUE(s.write("/b", "mine", t)); };
    const std::vector<ConflictRow> rows = {
        {"nothing meanwhile", write_b, [](StoreSession&) {}, false},
        {"another node", write_b, [](StoreSession& s) { ASSERT_TRUE(s.write("/a", "x", none)); }, false},
        {"same node written", write_b, [](StoreSession& s) { ASSERT_TRUE(s.write("/b", "x", none)); }, true},
        {"read node written",
         [&](StoreSession& s, Transaction t) {
             ASSERT_TRUE(s.read("/a", t));
             write_b(s, t);
         },
         [](StoreSession& s) { ASSERT_TRUE(s.write("/a", "x", none)); }, true},
        {"same value written again", write_b, [](StoreSession& s) { ASSERT_TRUE(s.write("/b", "1", none)); }, true},
        {"read node removed",
         [&](StoreSession& s, Transaction t) {
             ASSERT_TRUE(s.read("/a", t));
             write_b(s, t);
         },
         [](StoreSession& s) { ASSERT_TRUE(s.remove("/a", none)); }, true},
        {"missing node made",
         [&](StoreSession& s, Transaction t) {
             ASSERT_EQ(code(s.read("/c", t)), ENOENT);
             write_b(s, t);
         },
         [](StoreSession& s) { ASSERT_TRUE(s.write("/c", "x", none)); }, true},
        {"permissions of a read node",
         [&](StoreSession& s, Transaction t) {
             ASSERT_TRUE(s.read("/a", t));
             write_b(s, t);
         },
         [](StoreSession& s) { ASSERT_TRUE(s.set_permissions("/a", {{DomainId{0}, 'r'}}, none)); }, true},
        {"listed node got a child",
         [&](StoreSession& s, Transaction t) {
             ASSERT_TRUE(s.list("/dir", t));
             write_b(s, t);
         },
         [](StoreSession& s) { ASSERT_TRUE(s.write("/dir/y", "x", none)); }, true},
        {"listed node's child written",
         [&](StoreSession& s, Transaction t) {
             ASSERT_TRUE(s.list("/dir", t));
             write_b(s, t);
         },
         [](StoreSession& s) { ASSERT_TRUE(s.write("/dir/x", "x", none)); }, false},
        {"both made a child", [](StoreSession& s, Transaction t) { ASSERT_TRUE(s.write("/dir/mine", "", t)); },
         [](StoreSession& s) { ASSERT_TRUE(s.write("/dir/theirs", "", none)); }, true},
        {"removed tree changed inside", [](StoreSession& s, Transaction t) { ASSERT_TRUE(s.remove("/dir", t)); },
         [](StoreSession& s) { ASSERT_TRUE(s.write("/dir/x", "x", none)); }, true},
        {"only read", [](StoreSession& s, Transaction t) { ASSERT_TRUE(s.read("/a", t)); },
         [](StoreSession& s) { ASSERT_TRUE(s.write("/a", "x", none)); }, false},
    };
    for (const ConflictRow& row : rows) {
        SCOPED_TRACE(row.name);
        StoreCore core;
        StoreSession mine(core, DomainId{0});
        StoreSession theirs(core, DomainId{0});
        for (const char* path : {"/a", "/b", "/dir/x"}) {
            ASSERT_TRUE(mine.write(path, "1", none));
        }
        const Transaction t = mine.begin().value();
        row.inside(mine, t);
        row.meanwhile(theirs);
        const auto b_before = mine.read("/b", none);
        EXPECT_EQ(code(mine.end(t, true)), row.conflict ? EAGAIN : 0);
        if (row.conflict) {
            EXPECT_EQ(mine.read("/b", none), b_before);  // nothing of it happened
        }
    }
}

TEST_F(Transactions, MergeWithWhatDoesNotConflict) {
    const Transaction t = dom0_.begin().value();
    ASSERT_TRUE(dom0_.remove("/dir", t));
    ASSERT_TRUE(dom0_.write("/dir/new/deep", "mine", t));
    ASSERT_TRUE(dom0_.set_permissions("/dir/new", {{DomainId{5}, 'r'}}, t));
    ASSERT_TRUE(other_.write("/a", "theirs", none));
    ASSERT_TRUE(dom0_.end(t, true));
    EXPECT_EQ(dom0_.read("/a", none), "theirs");
    EXPECT_EQ(dom0_.read("/dir/new/deep", none), "mine");
    EXPECT_EQ(code(dom0_.read("/dir/x", none)), ENOENT);
    EXPECT_EQ(core_.tree().owned(DomainId{5}), 1U);
    EXPECT_EQ(core_.tree().owned(DomainId{0}), 5U);  // root, a, b, dir and deep
}

TEST_F(Transactions, TouchABoundedNumberOfNodes) {
    ASSERT_TRUE(dom0_.set_permissions("/dir", {{DomainId{1}, 'n'}}, none));
    StoreSession guest(core_, DomainId{1});
    const Transaction t = guest.begin().value();
    std::size_t touched = 0;
    while (code(guest.read("/dir/m" + std::to_string(touched), t)) == ENOENT) {
        ASSERT_LT(++touched, 5000U);
    }
    EXPECT_EQ(touched, StoreQuota{}.transaction_nodes);
    EXPECT_EQ(code(guest.read("/dir/another", t)), ENOSPC);
}

TEST_F(Transactions, CannotSlipPastTheNodeQuota) {
    ASSERT_TRUE(dom0_.set_permissions("/dir", {{DomainId{1}, 'n'}}, none));
    StoreSession guest(core_, DomainId{1});
    for (std::size_t i = core_.tree().owned(DomainId{1}); i < StoreQuota{}.nodes - 1; ++i) {
        ASSERT_TRUE(guest.write("/dir/n" + std::to_string(i), "", none));
    }
    ASSERT_TRUE(guest.make_directory("/dir/n999", none) || true);
    // Two transactions under different parents, each of which fits alone.
    ASSERT_TRUE(guest.remove("/dir/n10", none));
    const Transaction one = guest.begin().value();
    const Transaction two = guest.begin().value();
    ASSERT_TRUE(guest.write("/dir/n1/child", "", one));
    ASSERT_TRUE(guest.write("/dir/n2/child", "", two));
    EXPECT_EQ(code(guest.end(one, true)), 0);
    EXPECT_EQ(code(guest.end(two, true)), ENOSPC);
    EXPECT_EQ(core_.tree().owned(DomainId{1}), StoreQuota{}.nodes);
}

}  // namespace
}  // namespace uvif::xen
