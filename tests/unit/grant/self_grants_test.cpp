// SPDX-License-Identifier: MIT
#include "xen/real/self_grants.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace uvif::xen {
namespace {

constexpr DomainId self{3};
constexpr DomainId guest{7};
constexpr auto both = CopySegment::source_is_foreign | CopySegment::dest_is_foreign;

class SelfGrantsTest : public testing::Test {
protected:
    SelfGrantsTest() {
        grants_.add(self, first_, first_refs_);
        grants_.add(self, second_, second_refs_);
    }

    alignas(page_size) std::array<std::byte, 2 * page_size> first_{};
    alignas(page_size) std::array<std::byte, page_size> second_{};
    alignas(page_size) std::array<std::byte, page_size> other_{};
    std::array<GrantRef, 2> first_refs_{GrantRef{100}, GrantRef{200}};
    std::array<GrantRef, 1> second_refs_{GrantRef{300}};
    SelfGrants grants_;
};

TEST_F(SelfGrantsTest, NamesTheLocalEndWithinAPage) {
    struct Case {
        const char* what;
        std::byte* local;
        std::uint16_t length;
        GrantRef ref;
        std::uint16_t offset;
    };
    const std::array cases{
        Case{"the first octets", first_.data(), 1, GrantRef{100}, 0},
        Case{"a whole page", first_.data(), page_size, GrantRef{100}, 0},
        Case{"the end of a page", first_.data() + 4000, 96, GrantRef{100}, 4000},
        Case{"the second page", first_.data() + page_size + 8, page_size - 8, GrantRef{200}, 8},
        Case{"another memory", second_.data() + 4095, 1, GrantRef{300}, 4095},
    };
    for (const Case& one : cases) {
        SCOPED_TRACE(one.what);
        CopySegment from = CopySegment::from_guest(guest, GrantRef{9}, 16, one.local, one.length);
        CopySegment to = CopySegment::to_guest(one.local, guest, GrantRef{9}, 16, one.length);
        grants_.name(from);
        grants_.name(to);
        EXPECT_EQ(from.flags, both);
        EXPECT_EQ(to.flags, both);
        for (const CopyEnd& ours : {from.dest, to.source}) {
            EXPECT_EQ(ours.foreign.ref, one.ref);
            EXPECT_EQ(ours.foreign.offset, one.offset);
            EXPECT_EQ(ours.foreign.domain, self);
        }
        for (const CopyEnd& of_guest : {from.source, to.dest}) {
            EXPECT_EQ(of_guest.foreign.ref, GrantRef{9});
            EXPECT_EQ(of_guest.foreign.offset, 16);
            EXPECT_EQ(of_guest.foreign.domain, guest);
        }
        EXPECT_EQ(from.length, one.length);
    }
}

TEST_F(SelfGrantsTest, LeavesAllElse) {
    struct Case {
        const char* what;
        CopySegment segment;
    };
    const std::array cases{
        Case{"across two pages", CopySegment::from_guest(guest, GrantRef{9}, 0, first_.data() + 4000, 97)},
        Case{"across two pages, out", CopySegment::to_guest(first_.data() + 1, guest, GrantRef{9}, 0, page_size)},
        Case{"memory that is not granted", CopySegment::from_guest(guest, GrantRef{9}, 0, other_.data(), 64)},
        Case{"between guests", CopySegment::between_guests(guest, GrantRef{9}, 0, DomainId{8}, GrantRef{5}, 0, 64)},
    };
    for (const Case& one : cases) {
        SCOPED_TRACE(one.what);
        CopySegment segment = one.segment;
        grants_.name(segment);
        EXPECT_EQ(segment.flags, one.segment.flags);
        EXPECT_EQ(segment.source.local, one.segment.source.local);
        EXPECT_EQ(segment.dest.local, one.segment.dest.local);
    }
}

TEST_F(SelfGrantsTest, ForgetsWhatIsTakenBack) {
    grants_.remove(first_);
    CopySegment old = CopySegment::from_guest(guest, GrantRef{9}, 0, first_.data(), 64);
    CopySegment kept = CopySegment::from_guest(guest, GrantRef{9}, 0, second_.data(), 64);
    grants_.name(old);
    grants_.name(kept);
    EXPECT_EQ(old.flags, CopySegment::source_is_foreign);
    EXPECT_EQ(kept.flags, both);
    EXPECT_FALSE(grants_.empty());
    grants_.remove(second_);
    EXPECT_TRUE(grants_.empty());
    grants_.name(old);
    EXPECT_EQ(old.flags, CopySegment::source_is_foreign);
}

}  // namespace
}  // namespace uvif::xen
