// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <set>

#include "unit/xen_emulated/host.hpp"

namespace uvif::xen {
namespace {

using testing::AllOf;
using testing::Each;
using testing::HasSubstr;

class GrantAllocatorTest : public testing::Test {
protected:
    std::byte* map(GrantRef ref, MappingId& id, Access access = Access::read_write) {
        std::byte* page = nullptr;
        return table->map(host.guest, std::span(&ref, 1), access, std::span(&page, 1), id) == 0 ? page : nullptr;
    }

    Host host{MachineConfig{.charged = false, .gntalloc_limit = 8}};
    std::unique_ptr<GrantAllocator> allocator = host.grant_allocator(host.guest);
    std::unique_ptr<GrantTable> table = host.grant_table();
};

TEST_F(GrantAllocatorTest, SharedPagesAreZeroedContiguousAndGranted) {
    auto pages = must(allocator->share(dom0, 3, Access::read_write));
    ASSERT_EQ(pages->memory().size(), 3 * page_size);
    ASSERT_EQ(pages->refs().size(), 3U);
    EXPECT_THAT(pages->memory(), Each(std::byte{0}));
    for (std::size_t i = 0; i < 3; ++i) {
        EXPECT_GE(std::to_underlying(pages->refs()[i]), reserved_grants);
        MappingId id;
        std::byte* page = map(pages->refs()[i], id);
        ASSERT_NE(page, nullptr);
        pages->memory()[i * page_size + 5] = std::byte{'x'};
        EXPECT_EQ(page[5], std::byte{'x'});
        table->unmap(std::span(&id, 1));
    }
}

TEST_F(GrantAllocatorTest, ReadOnlySharesCannotBeWrittenByTheOther) {
    auto pages = must(allocator->share(dom0, 1, Access::read_only));
    MappingId id;
    EXPECT_EQ(map(pages->refs()[0], id), nullptr);
    EXPECT_NE(map(pages->refs()[0], id, Access::read_only), nullptr);
}

TEST_F(GrantAllocatorTest, UnsharedReferencesAreRevoked) {
    auto pages = must(allocator->share(dom0, 1, Access::read_write));
    const GrantRef ref = pages->refs()[0];
    pages.reset();
    MappingId id;
    EXPECT_EQ(map(ref, id), nullptr);
    EXPECT_EQ(host.usage(host.guest).pages_shared, 0U);
}

TEST_F(GrantAllocatorTest, TheLimitIsNamedWithARemedy) {
    auto pages = must(allocator->share(dom0, 8, Access::read_write));
    auto second = host.grant_allocator(host.guest);  // the limit is the domain's, not the handle's
    const auto more = second->share(dom0, 1, Access::read_write);
    ASSERT_FALSE(more);
    EXPECT_EQ(more.error().code, ENOSPC);
    EXPECT_THAT(more.error().message, AllOf(HasSubstr("8"), HasSubstr("--gntalloc-limit")));
    pages.reset();
    EXPECT_TRUE(second->share(dom0, 8, Access::read_write));
    EXPECT_EQ(second->share(dom0, 9, Access::read_write).error().code, ENOSPC);
    EXPECT_EQ(second->share(dom0, ~0U, Access::read_write).error().code, ENOSPC);
    EXPECT_EQ(second->share(dom0, 0, Access::read_write).error().code, EINVAL);
}

TEST_F(GrantAllocatorTest, PagesInUseAreNotReusedUntilTheOtherSideLetsGo) {
    auto pages = must(allocator->share(dom0, 1, Access::read_write));
    const GrantRef ref = pages->refs()[0];
    MappingId id;
    std::byte* page = map(ref, id);
    ASSERT_NE(page, nullptr);
    *page = std::byte{'x'};
    pages.reset();
    EXPECT_EQ(*page, std::byte{'x'});
    EXPECT_EQ(host.usage(host.guest).pages_deferred, 1U);

    auto rest = must(allocator->share(dom0, 7, Access::read_write));
    EXPECT_THAT(rest->refs(), testing::Not(testing::Contains(ref)));
    EXPECT_EQ(allocator->share(dom0, 1, Access::read_write).error().code, ENOSPC);
    *page = std::byte{'y'};
    EXPECT_THAT(rest->memory(), Each(std::byte{0}));

    ASSERT_EQ(table->unmap(std::span(&id, 1)), 0);
    auto again = must(allocator->share(dom0, 1, Access::read_write));
    EXPECT_THAT(again->memory(), Each(std::byte{0}));
    EXPECT_EQ(host.usage(host.guest).pages_deferred, 0U);
    EXPECT_EQ(host.usage(host.guest).pages_shared, 8U);
}

TEST_F(GrantAllocatorTest, PagesAreZeroedWhateverWasWrittenLate) {
    auto pages = must(allocator->share(dom0, 1, Access::read_write));
    const std::uint32_t frame = host.guest_memory.entry(pages->refs()[0]).frame;
    pages.reset();
    host.guest_memory.page(frame)[7] = std::byte{'x'};
    auto again = must(allocator->share(dom0, 1, Access::read_write));
    ASSERT_EQ(host.guest_memory.entry(again->refs()[0]).frame, frame);
    EXPECT_THAT(again->memory(), Each(std::byte{0}));
}

TEST_F(GrantAllocatorTest, PagesMayOutliveTheirAllocator) {
    auto pages = must(allocator->share(dom0, 2, Access::read_write));
    allocator.reset();
    pages->memory()[0] = std::byte{'x'};
    MappingId id;
    EXPECT_NE(map(pages->refs()[0], id), nullptr);
    table->unmap(std::span(&id, 1));
    pages.reset();
    EXPECT_EQ(host.usage(host.guest), DomainUsage{});
}

}  // namespace
}  // namespace uvif::xen
