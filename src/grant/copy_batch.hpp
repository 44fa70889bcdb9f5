// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cassert>
#include <cstdint>
#include <span>

#include "xen/grant_table.hpp"

namespace uvif {

/// The copies of one turn of one queue pair, done in one call. One thread; reused, never grows.
class CopyBatch {
public:
    /// A turn touches at most two rings' worth of slots, and a slot is one segment; from guest to guest some are two.
    static constexpr std::uint32_t capacity = 4 * 256;

    [[nodiscard]] std::uint32_t size() const noexcept { return size_; }
    [[nodiscard]] std::uint32_t room() const noexcept { return capacity - size_; }
    [[nodiscard]] bool empty() const noexcept { return size_ == 0; }

    /// Returns the number of the segment, for `ok` after the flush.
    std::uint32_t add(const xen::CopySegment& segment) noexcept {
        assert(size_ < capacity);
        segments_[size_] = segment;
        return size_++;
    }

    /// Does all copies. Afterwards every segment has a status: when the call as a whole failed, all have failed
    /// (XSA-367: no status is looked at that the call did not write).
    void flush(xen::GrantTable& grants) noexcept {
        const std::span<xen::CopySegment> batch(segments_.data(), size_);
        if (!batch.empty() && grants.copy(batch) != 0) {
            for (xen::CopySegment& segment : batch) {
                segment.status = static_cast<std::int16_t>(xen::GrantStatus::general_error);
            }
        }
    }

    [[nodiscard]] bool ok(std::uint32_t segment) const noexcept { return segments_[segment].status == 0; }

    void clear() noexcept { size_ = 0; }

private:
    std::uint32_t size_ = 0;
    std::array<xen::CopySegment, capacity> segments_;
};

}  // namespace uvif
