// SPDX-License-Identifier: MIT
#include "packet/buffer_pool.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <set>
#include <span>
#include <utility>

namespace uvif {
namespace {

TEST(BufferPool, GivesEachBufferOnce) {
    auto pool = BufferPool::create(100, 65536);
    ASSERT_TRUE(pool);
    EXPECT_EQ(pool->count(), 100U);
    EXPECT_EQ(pool->buffer_size(), 65536U);
    std::set<std::byte*> taken;
    for (int i = 0; i < 100; ++i) {
        std::byte* buffer = pool->take();
        ASSERT_NE(buffer, nullptr);
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer) % 4096, 0U);
        std::memset(buffer, i, 65536);
        taken.insert(buffer);
    }
    EXPECT_EQ(taken.size(), 100U);
    EXPECT_EQ(pool->take(), nullptr);
    EXPECT_EQ(pool->available(), 0U);
    std::byte* before = nullptr;
    for (std::byte* buffer : taken) {
        EXPECT_TRUE(before == nullptr || before + 65536 <= buffer) << "buffers overlap";
        before = buffer;
        for (const std::size_t at : {std::size_t{0}, std::size_t{65535}}) {
            EXPECT_EQ(buffer[at], buffer[1]) << "another buffer's octets";
        }
        pool->give(buffer);
    }
    EXPECT_EQ(pool->available(), 100U);
}

TEST(BufferPool, GivesTheWarmestFirst) {
    auto pool = BufferPool::create(4, 100);
    ASSERT_TRUE(pool);
    std::byte* one = pool->take();
    std::byte* two = pool->take();
    pool->give(one);
    pool->give(two);
    EXPECT_EQ(pool->take(), two);
    EXPECT_EQ(pool->take(), one);
}

TEST(BufferPool, TakesPreferredMemoryFirst) {
    struct Sizes {
        std::size_t count, preferred_octets, in_preferred;
    };
    alignas(4096) static std::array<std::byte, 7 * 4096> memory;
    for (const Sizes& one : {Sizes{5, 4 * 4096, 2}, Sizes{2, 7 * 4096, 2}, Sizes{3, 5 * 4096, 2}, Sizes{2, 4096, 0}}) {
        SCOPED_TRACE(one.preferred_octets);
        auto pool = BufferPool::create(one.count, 5000, std::span(memory).first(one.preferred_octets));
        ASSERT_TRUE(pool);
        EXPECT_EQ(pool->available(), one.count);
        std::set<std::byte*> taken;
        for (std::size_t i = 0; i < one.count; ++i) {
            std::byte* const buffer = pool->take();
            ASSERT_NE(buffer, nullptr);
            const bool preferred = buffer >= memory.data() && buffer < memory.data() + memory.size();
            EXPECT_EQ(preferred, i < one.in_preferred) << i;
            std::memset(buffer, 1, 5000);
            taken.insert(buffer);
        }
        EXPECT_EQ(taken.size(), one.count);
        EXPECT_EQ(pool->take(), nullptr);
        BufferPool moved(std::move(*pool));
        for (std::byte* buffer : taken) {
            moved.give(buffer);
        }
        EXPECT_EQ(moved.available(), one.count);
    }
}

TEST(BufferPool, MovesWithItsBuffers) {
    auto pool = BufferPool::create(2, 100);
    ASSERT_TRUE(pool);
    std::byte* buffer = pool->take();
    BufferPool moved(std::move(*pool));
    std::memset(buffer, 1, 100);
    moved.give(buffer);
    EXPECT_EQ(moved.available(), 2U);
    auto other = BufferPool::create(5, 100);
    ASSERT_TRUE(other);
    *other = std::move(moved);
    EXPECT_EQ(other->count(), 2U);
    EXPECT_EQ(other->take(), buffer);
}

TEST(BufferPool, RefusesTheImpossible) {
    for (const auto& [count, octets] : {std::pair<std::size_t, std::size_t>{0, 1},
                                        {1, 0},
                                        {SIZE_MAX, 4096},
                                        {1, SIZE_MAX},
                                        {SIZE_MAX / 2, SIZE_MAX / 2}}) {
        const auto pool = BufferPool::create(count, octets);
        ASSERT_FALSE(pool);
        EXPECT_EQ(pool.error().code, EINVAL);
    }
    const auto pool = BufferPool::create(std::size_t{1} << 40, 65536);
    ASSERT_FALSE(pool);
    EXPECT_EQ(pool.error().code, ENOMEM);
}

}  // namespace
}  // namespace uvif
