// SPDX-License-Identifier: MIT
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>

#include "uvif/error.hpp"
#include "xen/emulated/fault_plan.hpp"
#include "xen/emulated/grant_view.hpp"
#include "xen/emulated/hypercalls.hpp"
#include "xen/grant_table.hpp"

namespace uvif::xen {

/// Pages that one handle can have mapped at a time, as gntdev's limit.
inline constexpr std::uint32_t max_mapped_grants = 65536;

class EmulatedGrantTable final : public GrantTable {
public:
    static Result<std::unique_ptr<GrantTable>> create(std::unique_ptr<Hypercalls> hypercalls,
                                                      std::shared_ptr<FaultPlan> faults);
    ~EmulatedGrantTable() override;

    int map(DomainId domain, std::span<const GrantRef> refs, Access access, std::span<std::byte*> pages,
            MappingId& id) noexcept override;
    int unmap(std::span<const MappingId> ids) noexcept override;
    int copy(std::span<CopySegment> segments) noexcept override;

    /// Octets that copy() has moved: what a test takes a data path at its word with.
    [[nodiscard]] std::uint64_t copied_octets() const noexcept { return copied_octets_; }

private:
    static constexpr std::uint32_t no_slot = ~std::uint32_t{0};
    static constexpr std::size_t charged_batch = 256;

    /// One mapped page. The first one of a mapping stands for the mapping.
    struct Held {
        GrantView* view;
        std::byte* window;  ///< charged mode: what munmap is to end
        GrantRef ref;
        std::uint32_t next;        ///< of the mapping, or of the free list
        std::uint32_t pages;       ///< 0 unless this is the first page of a live mapping
        std::uint32_t generation;  ///< tells a live mapping from an earlier one in the same slot
        Access access;
    };

    /// One end of a segment for as long as it is copied.
    struct End {
        std::byte* address = nullptr;
        GrantView* view = nullptr;  ///< null: local memory
        GrantRef ref{};
        Access access = Access::read_only;
    };
    struct Copy {
        End source;
        End dest;
    };

    EmulatedGrantTable(std::unique_ptr<Hypercalls> hypercalls, std::shared_ptr<FaultPlan> faults);

    GrantView* view_of(DomainId domain) noexcept {
        for (GrantView* view : recent_) {
            if (view != nullptr && view->domain() == domain && view->alive()) {
                return view;
            }
        }
        return find_view(domain);
    }
    GrantView* find_view(DomainId domain) noexcept;  ///< null: view_error_ says why
    void forget_dead_domains() noexcept;

    std::uint32_t take_slot() noexcept;
    void release(std::uint32_t first) noexcept;
    int unmap_one(MappingId id) noexcept;
    /// Charged mode: what mapping such pages costs. nullptr: no room.
    static std::byte* map_window(const GrantView& view, std::span<std::byte*> pages, Access access) noexcept;

    GrantStatus open_end(const CopyEnd& end, bool foreign, Access access, End& opened) noexcept;
    static void close_end(const End& end) noexcept {
        if (end.view != nullptr) {
            end.view->unpin(end.ref, end.access);
        }
    }
    GrantStatus open_segment(const CopySegment& segment, Copy& copy) noexcept;
    static bool well_formed(const CopySegment& segment) noexcept;
    int copy_charged(std::span<CopySegment> segments) noexcept;
    int copy_charged_batch(std::span<CopySegment> segments) noexcept;

    std::unique_ptr<Hypercalls> hypercalls_;
    std::shared_ptr<FaultPlan> faults_;
    DomainId self_;
    bool charged_;
    bool faulty_segments_;

    std::unordered_map<std::uint16_t, std::unique_ptr<GrantView>> views_;
    int view_error_ = 0;                  ///< EINVAL, as from gntdev for whatever the guest did wrong, or ENOMEM
    std::array<GrantView*, 2> recent_{};  ///< two, since a copy between guests names two domains in turn

    std::unique_ptr<Held[]> held_;
    std::uint32_t touched_ = 0;  ///< slots from here on have never been used
    std::uint32_t free_ = no_slot;
    std::uint32_t mapped_ = 0;
    std::uint64_t copied_octets_ = 0;
};

}  // namespace uvif::xen
