// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "runtime/limits.hpp"
#include "xen/types.hpp"

namespace uvif {

/// From a queue's grant references to pages of the guest's that stay mapped: static grants (netif.h, "Static Grants"),
/// and persistent ones (persistent_grants.hpp). Two levels, as a page table: finding one takes two loads, whether it is
/// there or not; and like one it marks what was found. One thread; knows pages, and neither maps nor unmaps them.
class StaticTable {
public:
    StaticTable() noexcept { leaves_.fill(&nothing); }
    StaticTable(const StaticTable&) = delete;
    StaticTable& operator=(const StaticTable&) = delete;
    ~StaticTable() = default;

    /// Can be entered: references that are larger than any guest's grant table are not.
    [[nodiscard]] static constexpr bool takes(std::uint32_t ref) noexcept { return ref < limits::static_grant_refs; }

    /// nullptr: not there.
    [[nodiscard]] std::byte* find(std::uint32_t ref) const noexcept { return found(ref, entry(ref)); }
    /// The same, where the guest lets us write.
    [[nodiscard]] std::byte* find_writable(std::uint32_t ref) const noexcept {
        const std::uintptr_t there = entry(ref);
        return (there & writable) != 0 ? found(ref, there) : nullptr;
    }

    /// Instead of what was there, if something was.
    void enter(std::uint32_t ref, std::byte* page, bool can_write) {
        set(ref, reinterpret_cast<std::uintptr_t>(page) | (can_write ? writable : 0));
    }
    /// There will be no page, or no writable one.
    void refuse(std::uint32_t ref) { set(ref, entry(ref) | refused); }
    /// A page for this could be entered, or a writable one instead of the one that is there.
    [[nodiscard]] bool lacks(std::uint32_t ref, xen::Access access) const noexcept {
        const std::uintptr_t there = entry(ref);
        const std::uintptr_t enough = access == xen::Access::read_write ? writable : ~flags;
        return takes(ref) && (there & (enough | refused)) == 0;
    }
    /// Whether it was found since the last time; it is there.
    bool clear_found(std::uint32_t ref) noexcept {
        std::uintptr_t& there = owned_[ref / per_leaf]->entries[ref % per_leaf];
        return (std::exchange(there, there & ~was_found) & was_found) != 0;
    }
    /// One that is there.
    void remove(std::uint32_t ref) noexcept {
        auto& leaf = owned_[ref / per_leaf];
        leaf->entries[ref % per_leaf] = 0;
        --size_;
        if (--leaf->used == 0) {
            leaves_[ref / per_leaf] = &nothing;
            leaf.reset();
        }
    }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }

private:
    static constexpr std::uint32_t per_leaf = 512;
    static constexpr std::uint32_t leaf_count = limits::static_grant_refs / per_leaf;
    // In the bits that a page's address has not:
    static constexpr std::uintptr_t writable = 1;
    static constexpr std::uintptr_t was_found = 2;
    static constexpr std::uintptr_t refused = 4;
    static constexpr std::uintptr_t flags = xen::page_size - 1;

    struct Leaf {
        std::array<std::uintptr_t, per_leaf> entries;
        std::uint32_t used;
    };
    inline static const Leaf nothing{};

    [[nodiscard]] std::uintptr_t entry(std::uint32_t ref) const noexcept {
        return takes(ref) ? leaves_[ref / per_leaf]->entries[ref % per_leaf] : 0;
    }
    [[nodiscard]] std::byte* found(std::uint32_t ref, std::uintptr_t there) const noexcept {
        if (there > flags && (there & was_found) == 0) {
            owned_[ref / per_leaf]->entries[ref % per_leaf] |= was_found;
        }
        return reinterpret_cast<std::byte*>(there & ~flags);
    }
    void set(std::uint32_t ref, std::uintptr_t what) {
        auto& leaf = owned_[ref / per_leaf];
        if (!leaf) {
            leaf = std::make_unique<Leaf>();
            leaves_[ref / per_leaf] = leaf.get();
        }
        std::uintptr_t& there = leaf->entries[ref % per_leaf];
        const std::uint32_t more = there == 0 ? 1 : 0;
        leaf->used += more;
        size_ += more;
        there = what;
    }

    std::array<const Leaf*, leaf_count> leaves_{};  // never null
    std::array<std::unique_ptr<Leaf>, leaf_count> owned_{};
    std::size_t size_ = 0;
};

}  // namespace uvif
