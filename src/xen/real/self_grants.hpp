// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "xen/grant_table.hpp"

namespace uvif::xen {

/// Memory of ours whose pages are granted to this very domain. gntdev looks up and pins the page behind each local end
/// of a copy, and marks it dirty; an end that is named by its grant is the hypervisor's matter alone.
/// Thread rule: one thread, that of the grant table.
class SelfGrants {
public:
    /// `memory` is whole pages, `refs` one for each. Both stay where they are until remove().
    void add(DomainId self, std::span<const std::byte> memory, std::span<const GrantRef> refs) {
        self_ = self;
        ranges_.push_back({memory, refs});
        last_ = 0;
    }

    void remove(std::span<const std::byte> memory) noexcept {
        std::erase_if(ranges_, [&](const Range& range) { return range.memory.data() == memory.data(); });
        last_ = 0;
    }

    /// Names the local end of `segment` by its grant, if it lies within one page of such memory.
    void name(CopySegment& segment) noexcept {
        const bool into_ours = segment.flags == CopySegment::source_is_foreign;
        if (!into_ours && segment.flags != CopySegment::dest_is_foreign) {
            return;  // between guests
        }
        CopyEnd& end = into_ours ? segment.dest : segment.source;
        const auto* const at = static_cast<const std::byte*>(end.local);
        const Range* const range = find(at);
        if (range == nullptr) {
            return;
        }
        const auto offset = static_cast<std::size_t>(at - range->memory.data());
        const std::size_t in_page = offset % page_size;
        if (in_page + segment.length <= page_size) {
            end.foreign = {range->refs[offset / page_size], static_cast<std::uint16_t>(in_page), self_};
            segment.flags = CopySegment::source_is_foreign | CopySegment::dest_is_foreign;
        }
    }

    [[nodiscard]] bool empty() const noexcept { return ranges_.empty(); }

private:
    struct Range {
        std::span<const std::byte> memory;
        std::span<const GrantRef> refs;

        [[nodiscard]] bool holds(const std::byte* at) const noexcept {
            return at >= memory.data() && at < memory.data() + memory.size();
        }
    };

    /// Most of a turn's copies are to or from the memory of the one before.
    [[nodiscard]] const Range* find(const std::byte* at) noexcept {
        for (std::size_t tried = 0; tried < ranges_.size(); ++tried) {
            if (ranges_[last_].holds(at)) {
                return &ranges_[last_];
            }
            last_ = (last_ + 1) % ranges_.size();
        }
        return nullptr;
    }

    DomainId self_{};
    std::vector<Range> ranges_;
    std::size_t last_ = 0;  ///< where the last was found
};

}  // namespace uvif::xen
