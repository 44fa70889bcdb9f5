// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>

#include "uvif/error.hpp"
#include "xen/emulated/hypercalls.hpp"
#include "xen/emulated/layout.hpp"
#include "xen/emulated/shared_memory.hpp"
#include "xen/grant_table.hpp"

namespace uvif::xen {

/// One domain's grants as one handle sees them. The checks are those of Xen's grant table, and so are the statuses.
/// Thread rule: the handle's thread.
class GrantView {
public:
    static Result<std::unique_ptr<GrantView>> attach(Hypercalls& hypercalls, DomainId domain);

    /// Checks that `self` may use the grant in that way, and keeps it in use until `unpin`. `page` becomes the
    /// page's address: for reading, one in memory that cannot be written through.
    GrantStatus pin(DomainId self, GrantRef ref, Access access, std::byte*& page) noexcept {
        const std::uint32_t number = std::to_underlying(ref);
        if (number >= max_grants) {
            return GrantStatus::bad_gntref;
        }
        const auto pins = memory_.pins(column_, number);
        const std::uint32_t before = pins.load(std::memory_order_relaxed);
        if (((before >> shift(access)) & 0xffff) == 0xffff) {
            return GrantStatus::general_error;
        }
        pins.store(before + (1U << shift(access)), std::memory_order_seq_cst);
        const GrantEntry entry = unpack_grant(memory_.grant(number).load(std::memory_order_seq_cst));
        const GrantStatus status = judge(entry, self, access);
        if (status != GrantStatus::okay) {
            pins.store(before, std::memory_order_release);
            return status;
        }
        page = access == Access::read_only ? read_only_.base() + std::size_t{entry.frame} * page_size
                                           : memory_.frame(entry.frame);
        return GrantStatus::okay;
    }

    /// Of a grant that `pin` pinned with the same access.
    void unpin(GrantRef ref, Access access) noexcept {
        const auto pins = memory_.pins(column_, std::to_underlying(ref));
        pins.store(pins.load(std::memory_order_relaxed) - (1U << shift(access)), std::memory_order_release);
    }

    [[nodiscard]] DomainId domain() const noexcept { return domain_; }
    [[nodiscard]] bool alive() const noexcept { return memory_.alive().load(std::memory_order_relaxed) != 0; }
    [[nodiscard]] int memory_fd() const noexcept { return fd_.get(); }

    /// Where the page at `page`, which `pin` returned, lies in the memory's file.
    [[nodiscard]] std::size_t file_offset(const std::byte* page, Access access) const noexcept {
        const std::byte* first = access == Access::read_only ? read_only_.base() : memory_.frame(0);
        return DomainMemory::frames_offset + static_cast<std::size_t>(page - first);
    }

    std::uint32_t mapped = 0;  ///< pages in live mappings, counted by the handle

private:
    static constexpr unsigned shift(Access access) noexcept { return access == Access::read_only ? 0 : 16; }

    static GrantStatus judge(const GrantEntry& entry, DomainId self, Access access) noexcept {
        if ((entry.flags & grant_type_mask) != grant_permit_access || entry.domain != std::to_underlying(self) ||
            (access == Access::read_write && (entry.flags & grant_read_only) != 0)) {
            return GrantStatus::general_error;
        }
        return entry.frame < max_frames ? GrantStatus::okay : GrantStatus::bad_page;
    }

    GrantView() = default;

    DomainId domain_{};
    std::uint32_t column_ = 0;
    DomainMemory memory_;
    UniqueFd fd_;
    MemoryMap whole_;
    MemoryMap read_only_;
};

}  // namespace uvif::xen
