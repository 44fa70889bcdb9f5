// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "unit/xen_emulated/host.hpp"
#include "xen/emulated/emulated_grant_table.hpp"
#include "xen/emulated/local_hypercalls.hpp"

namespace uvif::xen {
namespace {

using testing::Each;
using testing::ElementsAre;

constexpr GrantRef hand_written{100};

void fill(std::span<std::byte> memory, char c) {
    std::memset(memory.data(), c, memory.size());
}
char first_of(std::span<const std::byte> memory) {
    return static_cast<char>(memory[0]);
}

/// Every case runs charged and uncharged: the two must not differ in anything but cost.
class GrantTableTest : public testing::TestWithParam<bool> {
protected:
    int map_one(GrantRef ref, Access access, std::byte*& page, MappingId& id) {
        return table->map(host.guest, std::span(&ref, 1), access, std::span(&page, 1), id);
    }
    GrantRef granted(char content, Access access = Access::read_write) {
        const std::uint32_t frame = must(host.guest_memory.allocate_frame());
        fill(host.guest_memory.page(frame), content);
        return must(host.guest_memory.grant(frame, dom0, access));
    }
    std::span<std::byte, page_size> page_of(GrantRef ref) {
        return host.guest_memory.page(host.guest_memory.entry(ref).frame);
    }

    Host host{MachineConfig{.charged = GetParam(), .gntalloc_limit = 1024}};
    std::unique_ptr<GrantTable> table = host.grant_table();
};

INSTANTIATE_TEST_SUITE_P(Costs, GrantTableTest, testing::Bool(),
                         [](const auto& mode) { return mode.param ? "charged" : "uncharged"; });

TEST_P(GrantTableTest, MappedPagesAreTheGuestsPages) {
    const std::array refs{granted('a'), granted('b'), granted('c')};
    std::array<std::byte*, 3> pages{};
    MappingId id;
    ASSERT_EQ(table->map(host.guest, refs, Access::read_write, pages, id), 0);
    EXPECT_EQ(id.pages, 3U);
    for (std::size_t i = 0; i < refs.size(); ++i) {
        EXPECT_EQ(static_cast<char>(*pages[i]), "abc"[i]);
        *pages[i] = std::byte{'x'};
        EXPECT_EQ(first_of(page_of(refs[i])), 'x');
    }
    EXPECT_EQ(host.usage(host.guest).grants_in_use, 3U);
    EXPECT_EQ(host.usage(dom0).grants_held, 3U);
    EXPECT_EQ(table->unmap(std::span(&id, 1)), 0);
    EXPECT_EQ(host.usage(host.guest).grants_in_use, 0U);
    EXPECT_EQ(host.usage(dom0).grants_held, 0U);
}

struct EntryCase {
    const char* name;
    GrantEntry entry;
    GrantStatus read;
    GrantStatus write;
};

TEST_P(GrantTableTest, EntriesAreJudgedAsXenDoes) {
    const std::uint32_t frame = must(host.guest_memory.allocate_frame());
    const std::uint16_t other = std::to_underlying(host.guest);
    const EntryCase cases[] = {
        {"granted", {grant_permit_access, 0, frame}, GrantStatus::okay, GrantStatus::okay},
        {"read only", {grant_permit_access | grant_read_only, 0, frame}, GrantStatus::okay, GrantStatus::general_error},
        {"other domain", {grant_permit_access, other, frame}, GrantStatus::general_error, GrantStatus::general_error},
        {"revoked", {0, 0, 0}, GrantStatus::general_error, GrantStatus::general_error},
        {"transfer", {2, 0, frame}, GrantStatus::general_error, GrantStatus::general_error},
        {"type 3", {3, 0, frame}, GrantStatus::general_error, GrantStatus::general_error},
        {"first bad frame", {grant_permit_access, 0, max_frames}, GrantStatus::bad_page, GrantStatus::bad_page},
        {"last bad frame", {grant_permit_access, 0, ~0U}, GrantStatus::bad_page, GrantStatus::bad_page},
        {"odd flags", {0xfff9, 0, frame}, GrantStatus::okay, GrantStatus::okay},
    };
    std::array<std::byte, 16> buffer{};
    for (const EntryCase& c : cases) {
        SCOPED_TRACE(c.name);
        host.guest_memory.write_entry(hand_written, c.entry);
        std::array segments{CopySegment::from_guest(host.guest, hand_written, 0, buffer.data(), 16),
                            CopySegment::to_guest(buffer.data(), host.guest, hand_written, 0, 16)};
        ASSERT_EQ(table->copy(segments), 0);
        EXPECT_EQ(segments[0].status, std::to_underlying(c.read));
        EXPECT_EQ(segments[1].status, std::to_underlying(c.write));

        std::byte* page = nullptr;
        MappingId id;
        EXPECT_EQ(map_one(hand_written, Access::read_only, page, id), c.read == GrantStatus::okay ? 0 : EINVAL);
        EXPECT_EQ(table->unmap(std::span(&id, 1)), c.read == GrantStatus::okay ? 0 : EINVAL);
        MappingId writable;
        EXPECT_EQ(map_one(hand_written, Access::read_write, page, writable), c.write == GrantStatus::okay ? 0 : EINVAL);
        EXPECT_EQ(table->unmap(std::span(&writable, 1)), c.write == GrantStatus::okay ? 0 : EINVAL);
        EXPECT_FALSE(host.guest_memory.use(hand_written).reading);
    }
}

TEST_P(GrantTableTest, ReferencesAndDomainsThatDoNotExistAreRefused) {
    std::array<std::byte, 16> buffer{};
    const GrantRef good = granted('a');
    const DomainId nobody{77};
    for (const GrantRef ref : {GrantRef{max_grants}, GrantRef{~0U}}) {
        std::array segments{CopySegment::from_guest(host.guest, ref, 0, buffer.data(), 16)};
        ASSERT_EQ(table->copy(segments), 0);
        EXPECT_EQ(segments[0].status, std::to_underlying(GrantStatus::bad_gntref));
        std::byte* page = nullptr;
        MappingId id;
        EXPECT_EQ(map_one(ref, Access::read_only, page, id), EINVAL);
    }
    std::array segments{CopySegment::from_guest(nobody, good, 0, buffer.data(), 16)};
    ASSERT_EQ(table->copy(segments), 0);
    EXPECT_EQ(segments[0].status, std::to_underlying(GrantStatus::bad_domain));
    std::byte* page = nullptr;
    MappingId id;
    EXPECT_EQ(table->map(nobody, std::span(&good, 1), Access::read_only, std::span(&page, 1), id), EINVAL);
}

TEST_P(GrantTableTest, AMappingWithoutAddressSpaceSaysSo) {
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_AS, &before), 0);
    std::size_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    const GrantRef ref = granted('a');
    std::byte* page = nullptr;
    MappingId id;
    const rlimit none{pages * page_size, before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_AS, &none), 0);
    const int error = map_one(ref, Access::read_only, page, id);
    ASSERT_EQ(::setrlimit(RLIMIT_AS, &before), 0);
    EXPECT_EQ(error, ENOMEM);
    EXPECT_EQ(map_one(ref, Access::read_only, page, id), 0);
}

TEST_P(GrantTableTest, MapIsAllOrNothing) {
    const std::array refs{granted('a'), granted('b'), GrantRef{hand_written}, granted('c')};
    std::array<std::byte*, 4> pages{};
    MappingId id;
    EXPECT_EQ(table->map(host.guest, refs, Access::read_only, pages, id), EINVAL);
    EXPECT_EQ(id.token, 0U);
    EXPECT_EQ(host.usage(host.guest).grants_in_use, 0U);
    EXPECT_EQ(table->map(host.guest, {}, Access::read_only, pages, id), EINVAL);
    EXPECT_EQ(table->map(host.guest, refs, Access::read_only, std::span(pages).first(3), id), EINVAL);
}

TEST_P(GrantTableTest, OneReferenceMayBeMappedTwice) {
    const GrantRef ref = granted('a');
    std::array<std::byte*, 2> pages{};
    std::array<MappingId, 2> ids;
    ASSERT_EQ(map_one(ref, Access::read_only, pages[0], ids[0]), 0);
    ASSERT_EQ(map_one(ref, Access::read_write, pages[1], ids[1]), 0);
    EXPECT_TRUE(host.guest_memory.use(ref).writing);
    ASSERT_EQ(table->unmap(std::span(&ids[1], 1)), 0);
    EXPECT_TRUE(host.guest_memory.use(ref).reading);
    EXPECT_FALSE(host.guest_memory.use(ref).writing);
    EXPECT_EQ(static_cast<char>(*pages[0]), 'a');
    ASSERT_EQ(table->unmap(std::span(&ids[0], 1)), 0);
    EXPECT_FALSE(host.guest_memory.use(ref).reading);
}

TEST_P(GrantTableTest, OnlyWholeLiveMappingsAreUnmapped) {
    const std::array refs{granted('a'), granted('b')};
    std::array<std::byte*, 2> pages{};
    MappingId id;
    ASSERT_EQ(table->map(host.guest, refs, Access::read_only, pages, id), 0);
    const MappingId wrong[] = {
        {}, {id.token, 1}, {id.token, 3}, {id.token + 1, 1}, {id.token + 100, 2}, {~std::uintptr_t{0}, 2}};
    for (const MappingId& bad : wrong) {
        EXPECT_EQ(table->unmap(std::span(&bad, 1)), EINVAL);
    }
    EXPECT_EQ(host.usage(host.guest).grants_in_use, 2U);
    EXPECT_EQ(table->unmap(std::span(&id, 1)), 0);
    EXPECT_EQ(table->unmap(std::span(&id, 1)), EINVAL);

    // A stale id does not name the mapping that took its place.
    std::byte* page = nullptr;
    MappingId stale;
    ASSERT_EQ(map_one(refs[0], Access::read_only, page, stale), 0);
    ASSERT_EQ(table->unmap(std::span(&stale, 1)), 0);
    ASSERT_EQ(map_one(refs[0], Access::read_only, page, id), 0);
    EXPECT_EQ(table->unmap(std::span(&stale, 1)), EINVAL);
    EXPECT_EQ(host.usage(host.guest).grants_in_use, 1U);
}

TEST_P(GrantTableTest, UnmapTriesAllAndReportsTheFirstFailure) {
    const std::array refs{granted('a'), granted('b')};
    std::array<MappingId, 3> ids;
    std::byte* page = nullptr;
    ASSERT_EQ(map_one(refs[0], Access::read_only, page, ids[0]), 0);
    ASSERT_EQ(map_one(refs[1], Access::read_only, page, ids[2]), 0);
    EXPECT_EQ(table->unmap(ids), EINVAL);
    EXPECT_EQ(host.usage(host.guest).grants_in_use, 0U);
}

TEST_P(GrantTableTest, ReadOnlyMappingsCannotBeWrittenThrough) {
    const GrantRef ref = granted('a', Access::read_only);
    std::byte* page = nullptr;
    MappingId id;
    ASSERT_EQ(map_one(ref, Access::read_only, page, id), 0);
    EXPECT_EQ(static_cast<char>(*page), 'a');
    EXPECT_DEATH(*page = std::byte{'b'}, "");
}

TEST_P(GrantTableTest, AccessCannotBeEndedWhileItIsUsed) {
    const GrantRef ref = granted('a');
    std::byte* page = nullptr;
    MappingId id;
    ASSERT_EQ(map_one(ref, Access::read_only, page, id), 0);
    EXPECT_FALSE(host.guest_memory.end_access(ref));
    EXPECT_EQ(host.guest_memory.entry(ref).flags, grant_permit_access);
    ASSERT_EQ(table->unmap(std::span(&id, 1)), 0);
    EXPECT_TRUE(host.guest_memory.end_access(ref));
    EXPECT_EQ(map_one(ref, Access::read_only, page, id), EINVAL);
}

TEST_P(GrantTableTest, ARevokedPageStaysMappedUntilItIsUnmapped) {
    // A hostile guest clears the entry of a page in use: what is mapped stays, as with Xen.
    const GrantRef ref = granted('a');
    std::byte* page = nullptr;
    MappingId id;
    ASSERT_EQ(map_one(ref, Access::read_only, page, id), 0);
    host.guest_memory.write_entry(ref, {});
    EXPECT_EQ(static_cast<char>(*page), 'a');
    MappingId second;
    EXPECT_EQ(map_one(ref, Access::read_only, page, second), EINVAL);
    EXPECT_EQ(table->unmap(std::span(&id, 1)), 0);
}

TEST_P(GrantTableTest, CopiesReportEachSegment) {
    const GrantRef source = granted('s');
    const GrantRef dest = granted('d');
    std::array<std::byte, 64> local{};
    std::array<std::byte, 64> unchanged{};
    std::array segments{
        CopySegment::from_guest(host.guest, source, 4032, local.data(), 64),
        CopySegment::from_guest(host.guest, hand_written, 0, unchanged.data(), 64),
        CopySegment::to_guest(local.data(), host.guest, dest, 1, 63),
        CopySegment::from_guest(host.guest, source, 4096, local.data(), 0),
    };
    ASSERT_EQ(table->copy(segments), 0);
    const auto status = [&segments](std::size_t i) { return segments[i].status; };
    EXPECT_THAT((std::array{status(0), status(1), status(2), status(3)}), ElementsAre(0, -1, 0, 0));
    EXPECT_THAT(local, Each(std::byte{'s'}));
    EXPECT_THAT(unchanged, Each(std::byte{0}));
    EXPECT_EQ(static_cast<char>(page_of(dest)[0]), 'd');
    EXPECT_EQ(static_cast<char>(page_of(dest)[1]), 's');
    EXPECT_EQ(static_cast<char>(page_of(dest)[63]), 's');
    EXPECT_EQ(static_cast<char>(page_of(dest)[64]), 'd');
    EXPECT_EQ(host.usage(host.guest).grants_in_use, 0U);
}

TEST_P(GrantTableTest, GuestToGuestIsOneCopy) {
    const DomainId second = must(host.host->create_domain("second"));
    GuestMemory receiver = must(GuestMemory::create(host.host->machine(), second, 4, 4));
    const GrantRef from = granted('s', Access::read_only);
    const std::uint32_t frame = must(receiver.allocate_frame());
    const GrantRef to = must(receiver.grant(frame, dom0, Access::read_write));
    CopySegment segment{};
    segment.flags = CopySegment::source_is_foreign | CopySegment::dest_is_foreign;
    segment.source.foreign = {from, 16, host.guest};
    segment.dest.foreign = {to, 32, second};
    segment.length = 100;
    ASSERT_EQ(table->copy(std::span(&segment, 1)), 0);
    EXPECT_EQ(segment.status, 0);
    EXPECT_EQ(static_cast<char>(receiver.page(frame)[32]), 's');
    EXPECT_EQ(static_cast<char>(receiver.page(frame)[131]), 's');
    EXPECT_EQ(receiver.page(frame)[132], std::byte{0});
    // The sender's side alone is refused for writing.
    std::swap(segment.source, segment.dest);
    ASSERT_EQ(table->copy(std::span(&segment, 1)), 0);
    EXPECT_EQ(segment.status, std::to_underlying(GrantStatus::general_error));
    EXPECT_FALSE(receiver.use(to).reading);
}

TEST_P(GrantTableTest, MalformedSegmentsFailTheWholeCall) {
    const GrantRef ref = granted('a');
    std::array<std::byte, 4096> local{};
    CopySegment beyond = CopySegment::from_guest(host.guest, ref, 4000, local.data(), 97);
    EXPECT_EQ(table->copy(std::span(&beyond, 1)), EINVAL);
    CopySegment local_only{};
    local_only.source.local = local.data();
    local_only.dest.local = local.data();
    EXPECT_EQ(table->copy(std::span(&local_only, 1)), EINVAL);
    CopySegment flags = CopySegment::from_guest(host.guest, ref, 0, local.data(), 1);
    flags.flags |= 4;
    EXPECT_EQ(table->copy(std::span(&flags, 1)), EINVAL);
    EXPECT_EQ(host.usage(host.guest).grants_in_use, 0U);
}

TEST_P(GrantTableTest, LargeBatchesAreDoneInOrder) {
    const GrantRef ref = granted('a');
    std::vector<std::byte> source(1000);
    std::vector<CopySegment> segments;
    for (std::size_t i = 0; i < source.size(); ++i) {
        source[i] = static_cast<std::byte>(i);
        segments.push_back(CopySegment::to_guest(&source[i], host.guest, ref, static_cast<std::uint16_t>(i % 10), 1));
    }
    ASSERT_EQ(table->copy(segments), 0);
    for (std::size_t i = 0; i < 10; ++i) {
        EXPECT_EQ(page_of(ref)[i], static_cast<std::byte>(990 + i));
    }
}

TEST_P(GrantTableTest, ADestroyedDomainCannotBeReachedButMappingsStay) {
    const GrantRef ref = granted('a');
    std::byte* page = nullptr;
    MappingId id;
    ASSERT_EQ(map_one(ref, Access::read_only, page, id), 0);
    ASSERT_TRUE(host.host->destroy_domain(host.guest));
    EXPECT_EQ(static_cast<char>(*page), 'a');
    MappingId second;
    EXPECT_EQ(map_one(ref, Access::read_only, page, second), EINVAL);
    EXPECT_EQ(table->unmap(std::span(&id, 1)), 0);
}

TEST_P(GrantTableTest, ClosingTheHandleEndsItsMappings) {
    const GrantRef ref = granted('a');
    std::byte* page = nullptr;
    MappingId id;
    ASSERT_EQ(map_one(ref, Access::read_write, page, id), 0);
    table.reset();
    EXPECT_FALSE(host.guest_memory.use(ref).reading);
    EXPECT_EQ(host.usage(dom0), DomainUsage{});
}

/// Calls of a handle that the machine still believes open when its user has gone.
class LateClosing final : public Hypercalls {
public:
    explicit LateClosing(Hypercalls& calls) : calls_(calls) {}

    [[nodiscard]] DomainId domain() const noexcept override { return calls_.domain(); }
    [[nodiscard]] bool charged() const noexcept override { return calls_.charged(); }
    Result<Attachment> attach(DomainId domain) override { return calls_.attach(domain); }
    Result<UniqueFd> memory(DomainId domain) override { return calls_.memory(domain); }
    Result<UniqueFd> event_fd() override { return calls_.event_fd(); }
    Result<EventTarget> event_target(EventPort port) override { return calls_.event_target(port); }
    Result<EventPort> bind_interdomain(DomainId remote, EventPort port) override {
        return calls_.bind_interdomain(remote, port);
    }
    Result<EventPort> alloc_unbound(DomainId remote) override { return calls_.alloc_unbound(remote); }
    void unbind(EventPort port) noexcept override { calls_.unbind(port); }
    Result<SharedRange> share(DomainId with, std::uint32_t pages, Access access) override {
        return calls_.share(with, pages, access);
    }
    void unshare(ShareId id) noexcept override { calls_.unshare(id); }

private:
    Hypercalls& calls_;
};

TEST_P(GrantTableTest, MappingsEndWithTheTableNotWhenTheMachineNotices) {
    auto calls = must(LocalHypercalls::open(host.host->machine(), dom0));
    table = must(EmulatedGrantTable::create(std::make_unique<LateClosing>(*calls), std::make_shared<FaultPlan>()));
    const GrantRef ref = granted('a');
    std::byte* page = nullptr;
    MappingId id;
    ASSERT_EQ(map_one(ref, Access::read_write, page, id), 0);
    ASSERT_TRUE(host.guest_memory.use(ref).writing);
    table.reset();
    EXPECT_FALSE(host.guest_memory.use(ref).reading);
}

TEST_P(GrantTableTest, HandlesAreCountedPerDomain) {
    const GrantRef ref = granted('a');
    std::vector<std::unique_ptr<GrantTable>> tables;
    std::byte* page = nullptr;
    MappingId id;
    for (std::uint32_t i = 0; i < max_columns; ++i) {
        tables.push_back(host.grant_table());
        ASSERT_EQ(tables.back()->map(host.guest, std::span(&ref, 1), Access::read_only, std::span(&page, 1), id), 0);
    }
    EXPECT_EQ(map_one(ref, Access::read_only, page, id), EINVAL);
    tables.pop_back();
    EXPECT_EQ(map_one(ref, Access::read_only, page, id), 0);
}

TEST_P(GrantTableTest, FaultsHitTheCallsTheyName) {
    auto faulty =
        host.grant_table(dom0, must(FaultPlan::parse("map@2=ENOMEM,copy@2,copy.segment@3=-3,unmap@1=EAGAIN")));
    const GrantRef ref = granted('a');
    std::byte* page = nullptr;
    MappingId id;
    const auto map = [&] {
        return faulty->map(host.guest, std::span(&ref, 1), Access::read_only, std::span(&page, 1), id);
    };
    EXPECT_EQ(map(), 0);
    MappingId first = id;
    EXPECT_EQ(map(), ENOMEM);
    EXPECT_EQ(faulty->unmap(std::span(&first, 1)), EAGAIN);
    EXPECT_EQ(faulty->unmap(std::span(&first, 1)), 0);
    std::array<std::byte, 2> local{};
    std::array segments{CopySegment::from_guest(host.guest, ref, 0, &local[0], 1),
                        CopySegment::from_guest(host.guest, ref, 0, &local[1], 1)};
    EXPECT_EQ(faulty->copy(segments), 0);
    EXPECT_EQ(faulty->copy(segments), EIO);
    EXPECT_EQ(faulty->copy(segments), 0);
    EXPECT_EQ(segments[0].status, -3);
    EXPECT_EQ(segments[1].status, 0);
}

TEST_P(GrantTableTest, AnUnmapThatFailsKeepsNoOtherMapping) {
    auto faulty = host.grant_table(dom0, must(FaultPlan::parse("unmap@1=EAGAIN")));
    const GrantRef ref = granted('a');
    std::byte* page = nullptr;
    std::array<MappingId, 2> ids;
    for (MappingId& id : ids) {
        ASSERT_EQ(faulty->map(host.guest, std::span(&ref, 1), Access::read_only, std::span(&page, 1), id), 0);
    }
    EXPECT_EQ(faulty->unmap(ids), EAGAIN);
    EXPECT_EQ(faulty->unmap(std::span(ids).subspan(1)), EINVAL) << "the second one was not tried";
    EXPECT_EQ(faulty->unmap(std::span(ids).first(1)), 0);
}

// Uncharged only: charged, the process's own limit of mappings comes first.
TEST(GrantTableLimitTest, AHandleMapsALimitedNumberOfPages) {
    Host host;
    auto table = host.grant_table();
    const std::array granted{must(host.guest_memory.grant(0, dom0, Access::read_write)),
                             must(host.guest_memory.grant(0, dom0, Access::read_write))};
    std::vector<GrantRef> refs(max_mapped_grants / 4, granted[0]);
    std::ranges::fill(std::span(refs).first(refs.size() / 2), granted[1]);
    std::vector<std::byte*> pages(refs.size());
    std::array<MappingId, 4> ids;
    for (MappingId& id : ids) {
        ASSERT_EQ(table->map(host.guest, refs, Access::read_only, pages, id), 0);
    }
    const auto map_one_more = [&] {
        MappingId more;
        return table->map(host.guest, std::span(granted).first(1), Access::read_write, pages, more);
    };
    EXPECT_EQ(map_one_more(), ENOSPC);
    ASSERT_EQ(table->unmap(std::span(ids).first(1)), 0);
    EXPECT_EQ(map_one_more(), 0);
}

}  // namespace
}  // namespace uvif::xen
