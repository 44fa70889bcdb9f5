// SPDX-License-Identifier: MIT
//
// What grant operations cost on this host, and when mapping a guest's pages is therefore cheaper than copying them.
//
// A copy call costs a constant, a bit for each segment and a bit for each octet. A map call, with the unmap call that
// it leads to, costs a constant and a bit for each page. The turn's copy call is made in any case, for headers. So a
// frame that is mapped saves its octets and all segments but that of its header, and costs its pages; and a map call
// pays when what its frames save together is more than its constant.
#pragma once

#include <cstdint>
#include <string>

#include "uvif/error.hpp"
#include "xen/grant_allocator.hpp"
#include "xen/grant_table.hpp"

namespace uvif {

/// Medians, in nanoseconds. A page is a segment.
struct GrantCosts {
    static constexpr std::uint32_t many = 64;           ///< as a region has pages
    static constexpr std::uint32_t short_octets = 128;  ///< as a header has
    std::int64_t copy_one = 0;                          ///< a copy call of one page
    std::int64_t copy_many = 0;                         ///< and of 64
    std::int64_t copy_short = 0;                        ///< of 64 times 128 octets
    std::int64_t map_one = 0;                           ///< mapping, touching and unmapping one page
    std::int64_t map_many = 0;                          ///< and 64

    /// Grants pages to this very domain and uses them: some milliseconds. An error when any call fails, as they do
    /// without gntalloc, or in a PVH dom0.
    static Result<GrantCosts> measure(xen::GrantTable& table, xen::GrantAllocator& allocator, xen::DomainId self);
};

/// When to map. In picoseconds, so that octets have a price.
struct MapTerms {
    std::int64_t octet = 0;    ///< saved by each
    std::int64_t segment = 0;  ///< likewise
    std::int64_t page = 0;     ///< paid for each
    std::int64_t call = 0;     ///< paid once
    /// What follows from these: the shortest frame that is ever mapped, and how many whole pages a call needs. 0:
    /// nothing is ever mapped.
    std::uint32_t frame_octets = 0;
    std::uint32_t call_pages = 0;

    /// Pure. Mapping has to be cheaper by a quarter: what it does to the caches of other CPUs is not in the
    /// measurement.
    static MapTerms of(const GrantCosts& costs) noexcept;

    /// What a frame of so many octets, slots and pages beyond its header saves when it is mapped; negative: it does
    /// not.
    [[nodiscard]] std::int64_t gain(std::uint32_t octets, std::uint32_t slots, std::uint32_t pages) const noexcept {
        return std::int64_t{octets} * octet + (std::int64_t{slots} - 1) * segment - std::int64_t{pages} * page;
    }

    /// One sentence for people.
    [[nodiscard]] std::string describe(const GrantCosts& costs) const;
};

}  // namespace uvif
