// SPDX-License-Identifier: MIT
#include "xen/emulated/store_core.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <string>
#include <utility>

#include "unit/xenstore/store_answers.hpp"
#include "xen/emulated/fault_store.hpp"
#include "xen/emulated/local_store.hpp"

namespace uvif::xen {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::string text(const Permissions& permissions) {
    std::string all;
    for (const Permission& entry : permissions) {
        all +=
            (all.empty() ? "" : ",") + std::string(1, entry.letter) + std::to_string(std::to_underlying(entry.domain));
    }
    return all;
}

class Core : public testing::Test {
protected:
    StoreCore core_;
    StoreSession dom0_{core_, DomainId{0}};
    StoreSession dom1_{core_, DomainId{1}};
    StoreSession dom2_{core_, DomainId{2}};

    void make(const std::string& path, const Permissions& permissions) {
        ASSERT_TRUE(dom0_.make_directory(path, none));
        ASSERT_TRUE(dom0_.set_permissions(path, permissions, none));
    }
};

TEST_F(Core, KeepsValuesAndChildren) {
    EXPECT_EQ(code(dom0_.read("/a/b", none)), ENOENT);
    ASSERT_TRUE(dom0_.write("/a/b", std::string("x\0y", 3), none));
    ASSERT_TRUE(dom0_.write("/a/c", "", none));
    EXPECT_EQ(dom0_.read("/a/b", none), std::string("x\0y", 3));
    EXPECT_EQ(dom0_.read("/a", none), "");
    EXPECT_THAT(dom0_.list("/a", none)->names, ElementsAre("b", "c"));
    ASSERT_TRUE(dom0_.remove("/a/b", none));
    EXPECT_THAT(dom0_.list("/a", none)->names, ElementsAre("c"));
    ASSERT_TRUE(dom0_.remove("/a", none));
    EXPECT_THAT(dom0_.list("/", none)->names, IsEmpty());
}

TEST_F(Core, RemovesWhatIsNotThereIfItsParentIs) {
    ASSERT_TRUE(dom0_.make_directory("/a", none));
    EXPECT_EQ(code(dom0_.remove("/a/missing", none)), 0);
    EXPECT_EQ(code(dom0_.remove("/a/missing/deep", none)), ENOENT);
    EXPECT_EQ(code(dom0_.remove("/", none)), EINVAL);
}

TEST_F(Core, RefusesPathsThatBreakTheRules) {
    const std::string longest = "/" + std::string(store_absolute_path_max - 1, 'a');
    EXPECT_EQ(code(dom0_.write(longest, "", none)), 0);
    const std::string longest_relative(store_relative_path_max, 'b');
    EXPECT_EQ(code(dom0_.write(longest_relative, "", none)), 0);
    for (const std::string& path :
         {std::string(), std::string("/a/"), std::string("//a"), std::string("/a//b"), std::string("/a b"),
          std::string("/a.b"), std::string("/a\0b", 4), std::string("/\xc3\xa4"), std::string("@other"), longest + "a",
          longest_relative + "b", std::string("relative/")}) {
        EXPECT_EQ(code(dom0_.write(path, "", none)), EINVAL) << path.substr(0, 20);
        EXPECT_EQ(code(dom0_.read(path, none)), EINVAL) << path.substr(0, 20);
        EXPECT_EQ(code(dom0_.remove(path, none)), EINVAL) << path.substr(0, 20);
    }
}

TEST_F(Core, RelativePathsStartAtTheDomainsHome) {
    make("/local/domain/1", {{DomainId{1}, 'n'}});
    ASSERT_TRUE(dom1_.write("device/vif/0/state", "1", none));
    EXPECT_EQ(dom0_.read("/local/domain/1/device/vif/0/state", none), "1");
}

TEST_F(Core, PermissionsAllowWhatTheirLettersSay) {
    struct Row {
        Permissions permissions;
        int read, write, own;  // what domain 1 gets
    };
    const std::vector<Row> rows = {
        {{{DomainId{1}, 'n'}}, 0, 0, 0},
        {{{DomainId{0}, 'n'}}, EACCES, EACCES, EACCES},
        {{{DomainId{0}, 'r'}}, 0, EACCES, EACCES},
        {{{DomainId{0}, 'w'}}, EACCES, 0, EACCES},
        {{{DomainId{0}, 'b'}}, 0, 0, EACCES},
        {{{DomainId{0}, 'n'}, {DomainId{1}, 'r'}}, 0, EACCES, EACCES},
        {{{DomainId{0}, 'n'}, {DomainId{1}, 'w'}}, EACCES, 0, EACCES},
        {{{DomainId{0}, 'n'}, {DomainId{1}, 'b'}}, 0, 0, EACCES},
        {{{DomainId{0}, 'b'}, {DomainId{1}, 'n'}}, EACCES, EACCES, EACCES},
        {{{DomainId{0}, 'n'}, {DomainId{2}, 'b'}}, EACCES, EACCES, EACCES},
        {{{DomainId{1}, 'n'}, {DomainId{1}, 'n'}}, 0, 0, 0},
    };
    for (const Row& row : rows) {
        make("/node", row.permissions);
        EXPECT_EQ(code(dom1_.read("/node", none)), row.read) << text(row.permissions);
        EXPECT_EQ(code(dom1_.list("/node", none)), row.read) << text(row.permissions);
        EXPECT_EQ(code(dom1_.permissions("/node", none)), row.read) << text(row.permissions);
        EXPECT_EQ(code(dom1_.write("/node", "x", none)), row.write) << text(row.permissions);
        EXPECT_EQ(code(dom1_.make_directory("/node", none)), row.write) << text(row.permissions);
        // A missing child is the parent's business: who may not look there is not told either.
        EXPECT_EQ(code(dom1_.read("/node/missing", none)), row.read == 0 ? ENOENT : EACCES) << text(row.permissions);
        EXPECT_EQ(code(dom1_.write("/node/new", "x", none)), row.write) << text(row.permissions);
        EXPECT_EQ(code(dom1_.set_permissions("/node", row.permissions, none)), row.own) << text(row.permissions);
        EXPECT_EQ(code(dom1_.remove("/node", none)), row.write) << text(row.permissions);
        ASSERT_TRUE(dom0_.remove("/node", none));
    }
}

TEST_F(Core, ChildrenInheritAndBelongToTheirMaker) {
    make("/shared", {{DomainId{2}, 'r'}, {DomainId{1}, 'b'}});
    ASSERT_TRUE(dom1_.write("/shared/a/b", "", none));
    EXPECT_EQ(text(dom0_.permissions("/shared/a/b", none).value()), "r1,b1");
    ASSERT_TRUE(dom0_.write("/shared/c", "", none));
    EXPECT_EQ(text(dom0_.permissions("/shared/c", none).value()), "r2,b1");
    EXPECT_EQ(core_.tree().owned(DomainId{1}), 2U);
    EXPECT_EQ(core_.tree().owned(DomainId{2}), 2U);
}

TEST_F(Core, OnlyDom0GivesNodesAway) {
    make("/mine", {{DomainId{1}, 'n'}});
    EXPECT_EQ(code(dom1_.set_permissions("/mine", {{DomainId{2}, 'b'}}, none)), EPERM);
    EXPECT_EQ(code(dom1_.set_permissions("/mine", {{DomainId{1}, 'b'}}, none)), 0);
    EXPECT_EQ(code(dom0_.set_permissions("/mine", {{DomainId{2}, 'b'}}, none)), 0);
    EXPECT_EQ(core_.tree().owned(DomainId{1}), 0U);
    EXPECT_EQ(core_.tree().owned(DomainId{2}), 1U);
}

TEST_F(Core, QuotasHoldForAllButDom0) {
    make("/home", {{DomainId{1}, 'n'}});
    const StoreQuota quota;
    EXPECT_EQ(code(dom1_.write("/home/big", std::string(quota.value_size, 'x'), none)), 0);
    EXPECT_EQ(code(dom1_.write("/home/big", std::string(quota.value_size + 1, 'x'), none)), ENOSPC);
    EXPECT_EQ(code(dom0_.write("/home/big", std::string(quota.value_size + 1, 'x'), none)), 0);

    EXPECT_EQ(code(dom1_.set_permissions("/home", Permissions(quota.permissions, {DomainId{1}, 'n'}), none)), 0);
    EXPECT_EQ(code(dom1_.set_permissions("/home", Permissions(quota.permissions + 1, {DomainId{1}, 'n'}), none)),
              ENOSPC);

    while (core_.tree().owned(DomainId{1}) < quota.nodes) {
        ASSERT_TRUE(dom1_.write("/home/n" + std::to_string(core_.tree().owned(DomainId{1})), "", none));
    }
    EXPECT_EQ(code(dom1_.write("/home/one_more", "", none)), ENOSPC);
    EXPECT_EQ(code(dom1_.write("/home/deep/one_more", "", none)), ENOSPC);
    EXPECT_EQ(code(dom1_.write("/home/n5", "still writable", none)), 0);
    EXPECT_EQ(code(dom0_.write("/home/one_more", "", none)), 0);
    ASSERT_TRUE(dom1_.remove("/home/n5", none));
    ASSERT_TRUE(dom1_.remove("/home/n6", none));
    EXPECT_EQ(code(dom1_.write("/home/fits_again", "", none)), 0);
}

TEST_F(Core, QuotasOfSessionsAreTheDomains) {
    StoreSession other(core_, DomainId{1});
    const StoreQuota quota;
    for (std::size_t i = 0; i < quota.transactions / 2; ++i) {
        ASSERT_TRUE(dom1_.begin());
        ASSERT_TRUE(other.begin());
    }
    EXPECT_EQ(code(dom1_.begin()), ENOSPC);
    EXPECT_EQ(code(other.begin()), ENOSPC);
    EXPECT_EQ(code(dom2_.begin()), 0);
    ASSERT_TRUE(other.end(Transaction{1}, false));
    EXPECT_EQ(code(dom1_.begin()), 0);

    for (std::size_t i = 0; i < quota.watches; ++i) {
        ASSERT_TRUE((i % 2 == 0 ? dom1_ : other).watch("/w", std::to_string(i)));
    }
    EXPECT_EQ(code(dom1_.watch("/w", "more")), ENOSPC);
    EXPECT_EQ(code(dom2_.watch("/w", "more")), 0);
    for (std::size_t i = 0; i < quota.watches + 1; ++i) {
        ASSERT_TRUE(dom0_.watch("/w", std::to_string(i)));
    }
}

TEST_F(Core, AReleasedDomainLeavesNothing) {
    core_.introduce(DomainId{1});
    EXPECT_TRUE(core_.introduced(DomainId{1}));
    make("/local/domain/1", {{DomainId{1}, 'n'}});
    ASSERT_TRUE(dom1_.write("device/vif/0/state", "4", none));
    make("/backend", {{DomainId{0}, 'n'}, {DomainId{1}, 'r'}});
    core_.release(DomainId{1});
    EXPECT_FALSE(core_.introduced(DomainId{1}));
    EXPECT_EQ(code(dom0_.read("/local/domain/1", none)), ENOENT);
    EXPECT_EQ(code(dom0_.read("/local/domain", none)), 0);
    EXPECT_EQ(text(dom0_.permissions("/backend", none).value()), "n0");
    EXPECT_EQ(core_.tree().owned(DomainId{1}), 0U);
}

TEST_F(Core, TheRootOutlivesADomainThatOwnedIt) {
    core_.introduce(DomainId{1});
    ASSERT_TRUE(dom0_.set_permissions("/", {{DomainId{1}, 'b'}, {DomainId{2}, 'r'}}, none));
    ASSERT_TRUE(dom1_.write("/of_theirs", "", none));
    core_.release(DomainId{1});
    EXPECT_EQ(text(dom0_.permissions("/", none).value()), "n0,r2");
    EXPECT_EQ(code(dom0_.read("/of_theirs", none)), ENOENT);
}

TEST_F(Core, SameCallsSameTree) {
    const auto run = [](StoreCore& core) {
        StoreSession session(core, DomainId{0});
        for (int i = 0; i < 50; ++i) {
            static_cast<void>(session.write("/n/" + std::to_string(i % 7) + "/" + std::to_string(i), "v", none));
            if (i % 5 == 0) {
                static_cast<void>(session.remove("/n/" + std::to_string(i % 3), none));
            }
        }
        std::string dump;
        core.tree().walk("/", [&](const std::string& path, const StoreNode& node) {
            dump += path + "=" + node.value + "#" + std::to_string(node.generation) + "\n";
        });
        return dump;
    };
    StoreCore one;
    StoreCore two;
    EXPECT_EQ(run(one), run(two));
}

TEST(FaultStoreTest, FailsTheNamedCalls) {
    StoreCore core;
    auto plan = FaultPlan::parse("store.write@2=ENOSPC,store.commit@1=EAGAIN");
    ASSERT_TRUE(plan);
    const auto store = with_faults(LocalStore::open(core, DomainId{0}).value(), *plan);
    EXPECT_TRUE(store->write("/a", "1"));
    const auto second = store->write("/a", "2");
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code, ENOSPC);
    EXPECT_EQ(store->read("/a").value(), "1");
    unsigned runs = 0;
    EXPECT_TRUE(transact(*store, [&](Transaction t) {
        ++runs;
        return store->write("/a", "3", t);
    }));
    EXPECT_EQ(runs, 2U);
    EXPECT_EQ(store->read("/a").value(), "3");
}

}  // namespace
}  // namespace uvif::xen
