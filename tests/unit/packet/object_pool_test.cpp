// SPDX-License-Identifier: MIT
#include "packet/object_pool.hpp"

#include <gtest/gtest.h>

#include <set>

namespace uvif {
namespace {

int made = 0;
struct Counted {
    Counted() noexcept { ++made; }
    int held = 0;
};

TEST(ObjectPool, MakesWhatIsNeededAndGivesTheLastBackFirst) {
    made = 0;
    ObjectPool<Counted> pool(3);
    EXPECT_EQ(made, 0);
    Counted& first = pool.take();
    Counted& second = pool.take();
    EXPECT_EQ(made, 2);
    EXPECT_EQ(pool.taken(), 2U);
    first.held = 7;
    pool.give(second);
    pool.give(first);
    EXPECT_EQ(pool.taken(), 0U);
    EXPECT_EQ(pool.made().size(), 2U);
    EXPECT_EQ(&pool.take(), &first);
    EXPECT_EQ(first.held, 7) << "what it held stays in it";
    EXPECT_EQ(&pool.take(), &second);
    EXPECT_EQ(made, 2);
    EXPECT_FALSE(pool.empty());
    const std::set<Counted*> all{&first, &second, &pool.take()};
    EXPECT_EQ(all.size(), 3U);
    EXPECT_TRUE(pool.empty());
    pool.give(second);
    EXPECT_FALSE(pool.empty());
}

}  // namespace
}  // namespace uvif
