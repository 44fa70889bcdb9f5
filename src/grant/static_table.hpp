// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "runtime/limits.hpp"
#include "xen/types.hpp"

namespace uvif {

/// From a queue's grant references to pages of the guest's that stay mapped: static grants (netif.h, "Static Grants").
/// Two levels, as a page table: finding one takes two loads, whether it is there or not. One thread; knows pages, and
/// neither maps nor unmaps them.
class StaticTable {
public:
    StaticTable() noexcept { leaves_.fill(&nothing); }
    StaticTable(const StaticTable&) = delete;
    StaticTable& operator=(const StaticTable&) = delete;
    ~StaticTable() = default;

    /// Can be entered: references that are larger than any guest's grant table are not.
    [[nodiscard]] static constexpr bool takes(std::uint32_t ref) noexcept { return ref < limits::static_grant_refs; }

    /// nullptr: not there.
    [[nodiscard]] std::byte* find(std::uint32_t ref) const noexcept { return page_of(entry(ref)); }
    /// The same, where the guest lets us write.
    [[nodiscard]] std::byte* find_writable(std::uint32_t ref) const noexcept {
        const std::uintptr_t found = entry(ref);
        return (found & writable) != 0 ? page_of(found) : nullptr;
    }

    void enter(std::uint32_t ref, std::byte* page, bool can_write) {
        auto& leaf = owned_[ref / per_leaf];
        if (!leaf) {
            leaf = std::make_unique<Leaf>();
            leaves_[ref / per_leaf] = leaf.get();
        }
        leaf->entries[ref % per_leaf] = reinterpret_cast<std::uintptr_t>(page) | (can_write ? writable : 0);
        ++leaf->used;
        ++size_;
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
    static constexpr std::uintptr_t writable = 1;  // in the bits that a page's address has not

    struct Leaf {
        std::array<std::uintptr_t, per_leaf> entries;
        std::uint32_t used;
    };
    inline static const Leaf nothing{};

    [[nodiscard]] std::uintptr_t entry(std::uint32_t ref) const noexcept {
        return takes(ref) ? leaves_[ref / per_leaf]->entries[ref % per_leaf] : 0;
    }
    [[nodiscard]] static std::byte* page_of(std::uintptr_t found) noexcept {
        return reinterpret_cast<std::byte*>(found & ~writable);
    }

    std::array<const Leaf*, leaf_count> leaves_{};  // never null
    std::array<std::unique_ptr<Leaf>, leaf_count> owned_{};
    std::size_t size_ = 0;
};

}  // namespace uvif
