// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>

#include "runtime/limits.hpp"
#include "xen/grant_table.hpp"

namespace uvif {

/// Guest pages mapped for packets in flight, in regions: what one map call mapped is unmapped whole
/// (libxengnttab's rule), so a region lives until the last packet that uses it lets go. Unmapping is
/// gathered and done in one call a turn. One thread; fixed memory.
class Regions {
public:
    static constexpr std::size_t pages_max = limits::region_pages;
    static constexpr std::size_t regions_max = limits::regions_per_queue;
    using Handle = std::uint16_t;
    static constexpr Handle none = 0xffff;

    /// With `each` a region is unmapped as soon as nobody uses it, by a call of its own.
    explicit Regions(xen::GrantTable& grants, bool each = false) noexcept : grants_(grants), each_(each) {
        for (std::size_t i = 0; i < regions_max; ++i) {
            free_[i] = static_cast<Handle>(i);
        }
    }
    Regions(const Regions&) = delete;
    Regions& operator=(const Regions&) = delete;
    ~Regions() { release_all(); }

    /// Maps read-only, with no users yet. `none` when the hypervisor refused.
    Handle map(xen::DomainId domain, std::span<const xen::GrantRef> refs, std::span<std::byte*> pages) noexcept {
        assert(free_count_ > 0 && refs.size() <= pages_max);
        const Handle handle = free_[free_count_ - 1];
        Region& region = regions_[handle];
        ++map_calls;
        if (grants_.map(domain, refs, xen::Access::read_only, pages, region.id) != 0) {
            return none;
        }
        --free_count_;
        pages_ += refs.size();
        region.users = 0;
        region.live = true;
        return handle;
    }

    void use(Handle handle) noexcept { ++regions_[handle].users; }

    /// True when that was the last user: the region is on the release list now, and the next unmap_released()
    /// unmaps it. Until then all of its pages are still mapped, also those of users that let go before.
    bool drop(Handle handle) noexcept {
        assert(regions_[handle].users > 0);
        if (--regions_[handle].users != 0) {
            return false;
        }
        retire(handle);
        return true;
    }

    /// Unmaps everything on the release list in one call. Before any answer goes out (netfront disables a
    /// device whose grant is still in use when its answer arrives).
    void unmap_released() noexcept {
        if (released_count_ == 0) {
            return;
        }
        ++unmap_calls;
        if (grants_.unmap(std::span(released_.data(), released_count_)) != 0) {
            ++unmap_errors;
        }
        for (const xen::MappingId& id : std::span(released_.data(), released_count_)) {
            pages_ -= id.pages;
        }
        released_count_ = 0;
    }

    /// Pages that are mapped.
    [[nodiscard]] std::size_t pages() const noexcept { return pages_; }
    [[nodiscard]] std::size_t held() const noexcept { return regions_max - free_count_; }

    std::uint64_t map_calls = 0;
    std::uint64_t unmap_calls = 0;
    std::uint64_t unmap_errors = 0;

private:
    struct Region {
        xen::MappingId id;
        std::uint16_t users = 0;
        bool live = false;
    };

    void retire(Handle handle) noexcept {
        Region& region = regions_[handle];
        region.live = false;
        released_[released_count_++] = region.id;
        free_[free_count_++] = handle;
        if (each_ || released_count_ == released_.size()) {
            unmap_released();
        }
    }

    void release_all() noexcept {
        for (std::size_t i = 0; i < regions_max; ++i) {
            if (regions_[i].live) {
                retire(static_cast<Handle>(i));
            }
        }
        unmap_released();
    }

    xen::GrantTable& grants_;
    const bool each_;
    std::array<Region, regions_max> regions_{};
    std::array<Handle, regions_max> free_{};
    std::size_t free_count_ = regions_max;
    std::array<xen::MappingId, regions_max> released_{};
    std::size_t released_count_ = 0;
    std::size_t pages_ = 0;
};

}  // namespace uvif
