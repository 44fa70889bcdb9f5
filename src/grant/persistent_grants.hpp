// SPDX-License-Identifier: MIT
//
// Theory of operation: persistent grants
//
// A guest that announces `feature-persistent` (proposed for the vif in 2015, as block devices have it: xen/io/blkif.h)
// promises to use the same grants again and again, and not to end access to them while it is connected. So its queue
// learns: a grant of which it finds no page in its StaticTable is served as any other, noted (miss), and mapped for
// keeps when the turn is over (learn), read-only for what the guest sends, writable for what it receives. From then on
// it is an entry of that table, and costs what a static grant does.
//
//   not there --- learn ---> kept --- age, forget ---> retired --- give_back ---> unmapped
//                   |                                  (not in the table any more, still mapped:
//                   +--> refused (in the table,          a packet in flight may lie in it)
//                        without a page)
//
// A page that was mapped read-only and is then needed writable is mapped anew, and the first mapping retired. A grant
// that cannot be mapped is remembered as refused, so that it costs one call and not one a packet.
//
// The table marks entries that were found, as a page table marks pages that were accessed. Every few seconds age()
// looks at the marks and clears them: what was silent for limits::persistent_silent_looks is retired. So a guest has
// what it does not use any more back after a minute (as Linux's blkback gives it back), and refused grants have a
// second try.
//
// Each page is a mapping of its own: only whole mappings can be unmapped, and of a group the busiest page would hold
// all. The price is one call a page and a connection, a few of which are made between two turns.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "grant/page_budget.hpp"
#include "grant/static_table.hpp"
#include "runtime/limits.hpp"
#include "xen/grant_table.hpp"

namespace uvif {

/// The mappings behind what a queue has learned. One thread, the queue's; fixed memory from the constructor on, but for
/// the table's leaves.
class PersistentGrants {
public:
    /// All of these outlive it.
    PersistentGrants(xen::GrantTable& grants, xen::DomainId domain, StaticTable& table, PageBudget& budget);
    PersistentGrants(const PersistentGrants&) = delete;
    PersistentGrants& operator=(const PersistentGrants&) = delete;
    /// Unmaps all. No packet lies in them any more.
    ~PersistentGrants();

    /// The queue needed the grant's page, and the table did not have it. On the data path.
    void miss(std::uint32_t ref, xen::Access access) noexcept {
        if (missed_count_ != missed_.size() && !full_ && table_.lacks(ref, access)) {
            missed_[missed_count_++] = {ref, access};
        }
    }
    /// Maps what was missed, a few. Between turns.
    void learn() noexcept {
        if (missed_count_ != 0) {
            learn_missed();
        }
    }

    /// A look at what was used: retires what has not been for long. To be called every 5 s.
    void age() noexcept;
    /// Retires a grant, if it is one of these: the guest has made it static.
    void forget(std::uint32_t ref) noexcept;
    /// Retires all.
    void forget_all() noexcept;

    /// Unmaps some of what is retired and not `in_use(page)`. True: there may be more.
    template <class InUse>
    [[nodiscard]] bool give_back(InUse in_use) noexcept {
        std::array<xen::MappingId, limits::persistent_given_back_at_a_time> ids;
        std::size_t count = 0;
        for (std::size_t i = retired_.size(); i-- != 0 && count != ids.size();) {
            if (!in_use(retired_[i].page)) {
                ids[count++] = retired_[i].id;
                retired_[i] = retired_.back();
                retired_.pop_back();
            }
        }
        unmap(std::span(ids).first(count));
        return count == ids.size();
    }

    /// Entries of the table that are ours, refused ones included.
    [[nodiscard]] std::size_t entries() const noexcept { return kept_.size(); }
    /// Pages that are mapped.
    [[nodiscard]] std::size_t pages() const noexcept { return pages_; }

    std::uint64_t learned = 0;     ///< pages mapped for keeps
    std::uint64_t refused = 0;     ///< grants that could not be mapped
    std::uint64_t given_back = 0;  ///< pages unmapped again
    std::uint64_t unmap_errors = 0;

private:
    struct Missed {
        std::uint32_t ref;
        xen::Access access;
    };
    struct Kept {
        std::uint32_t ref;
        std::uint8_t silent_looks;
        xen::MappingId id;  ///< none: it was refused
        std::byte* page;
    };
    struct Retired {
        xen::MappingId id;
        std::byte* page;
    };

    void learn_missed() noexcept;
    void learn(const Missed& missed) noexcept;
    void retire(const Kept& kept) noexcept;
    void drop(std::size_t index) noexcept;
    void unmap(std::span<const xen::MappingId> ids) noexcept;

    xen::GrantTable& grants_;
    const xen::DomainId domain_;
    StaticTable& table_;
    PageBudget& budget_;
    std::array<Missed, limits::persistent_learned_at_a_time> missed_;
    std::size_t missed_count_ = 0;
    bool full_ = false;  ///< as last seen: a budget or the queue's limit is reached
    std::size_t pages_ = 0;
    std::vector<Kept> kept_;  ///< with retired_ no more than limits::static_grants_per_queue
    std::vector<Retired> retired_;
};

}  // namespace uvif
