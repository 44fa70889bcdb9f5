// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "xen/grant_allocator.hpp"
#include "xen/types.hpp"

namespace uvif::xen {

/// Status of one copy segment: GNTST_* of xen/grant_table.h. 0 is success, all else negative.
enum class GrantStatus : std::int16_t {
    okay = 0,
    general_error = -1,
    bad_domain = -2,
    bad_gntref = -3,
    permission_denied = -8,
    bad_page = -9,
    bad_copy_arg = -10,
};

/// One end of a copy: local memory, or octets inside a page that another domain granted.
union CopyEnd {
    void* local;
    struct {
        GrantRef ref;
        std::uint16_t offset;
        DomainId domain;
    } foreign;
};

/// One segment of a batched grant copy. Laid out as xengnttab_grant_copy_segment_t, so that a
/// batch goes to libxengnttab as it stands (asserted in xen/real).
/// A foreign end must satisfy offset + length <= page_size: the real driver fails the whole call
/// with EINVAL otherwise, and names no segment. Callers check before they batch.
struct CopySegment {
    static constexpr std::uint16_t source_is_foreign = 1;
    static constexpr std::uint16_t dest_is_foreign = 2;

    CopyEnd source;
    CopyEnd dest;
    std::uint16_t length;
    std::uint16_t flags;
    std::int16_t status;  ///< out: a GrantStatus

    static CopySegment from_guest(DomainId domain, GrantRef ref, std::uint16_t offset, void* to,
                                  std::uint16_t length) noexcept {
        CopySegment s{};
        s.source.foreign = {ref, offset, domain};
        s.dest.local = to;
        s.length = length;
        s.flags = source_is_foreign;
        return s;
    }
    static CopySegment to_guest(const void* from, DomainId domain, GrantRef ref, std::uint16_t offset,
                                std::uint16_t length) noexcept {
        CopySegment s{};
        s.source.local = const_cast<void*>(from);
        s.dest.foreign = {ref, offset, domain};
        s.length = length;
        s.flags = dest_is_foreign;
        return s;
    }
    /// From one guest's page to another's: both must have granted them to us.
    static CopySegment between_guests(DomainId source, GrantRef source_ref, std::uint16_t source_offset, DomainId dest,
                                      GrantRef dest_ref, std::uint16_t dest_offset, std::uint16_t length) noexcept {
        CopySegment s{};
        s.source.foreign = {source_ref, source_offset, source};
        s.dest.foreign = {dest_ref, dest_offset, dest};
        s.length = length;
        s.flags = source_is_foreign | dest_is_foreign;
        return s;
    }
};

/// Names a live mapping. Only whole mappings can be unmapped (libxengnttab's rule).
struct MappingId {
    std::uintptr_t token = 0;  ///< 0 names nothing
    std::uint32_t pages = 0;
};

/// The backend's view of other domains' grants (libxengnttab, one handle).
/// Thread rule: one thread at a time; every worker opens its own.
/// No call throws or allocates. Any call may fail for any reference: a guest can always see to that.
class GrantTable {
public:
    GrantTable() = default;
    GrantTable(const GrantTable&) = delete;
    GrantTable& operator=(const GrantTable&) = delete;
    virtual ~GrantTable() = default;

    /// Maps all `refs` of `domain`, or none. `pages[i]` becomes the address of refs[i]'s page; pages
    /// need not be adjacent. `pages` is at least as long as `refs`. Returns 0 or an errno value.
    virtual int map(DomainId domain, std::span<const GrantRef> refs, Access access, std::span<std::byte*> pages,
                    MappingId& id) noexcept = 0;

    /// Unmaps whole mappings. Returns 0, or the first errno met after having tried all of them.
    virtual int unmap(std::span<const MappingId> ids) noexcept = 0;

    /// Does every segment and writes every status. Returns 0 (look at the statuses), or an errno value
    /// when the call as a whole failed: then no status can be trusted and every segment failed. May write the ends and
    /// flags too, so a segment is good for one call.
    virtual int copy(std::span<CopySegment> segments) noexcept = 0;

    /// Memory that `copy` reaches at less cost: pages of ours that are granted to this very domain. Null where there is
    /// no such thing, or none to spare; any other memory does as well. To be destroyed before the table.
    virtual std::unique_ptr<SharedPages> grant_to_self(std::uint32_t /*pages*/) { return nullptr; }
};

}  // namespace uvif::xen
