// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "grant/page_budget.hpp"
#include "xen/grant_table.hpp"

namespace uvif {

/// Guest pages that stay mapped until they are removed: the mappings behind the StaticTables of a vif. Each page is a
/// mapping of its own, since only whole mappings can be unmapped and a guest may take back any of them. So each costs
/// the process a memory area, of which it has some 65000: a budget that all guests share bounds them.
/// Thread rule: one thread; the pages are everybody's.
class StaticGrants {
public:
    StaticGrants(xen::GrantTable& grants, xen::DomainId domain, std::size_t queues, PageBudget& budget)
        : grants_(grants), domain_(domain), queues_(queues), budget_(budget) {}
    StaticGrants(const StaticGrants&) = delete;
    StaticGrants& operator=(const StaticGrants&) = delete;
    /// Unmaps all. The queues have gone, or forgotten them.
    ~StaticGrants();

    struct Page {
        std::uint32_t ref;
        bool writable;
        std::byte* address = nullptr;  ///< out
    };
    /// Maps all of `pages`, which the queue does not have yet, or none.
    [[nodiscard]] bool add(std::size_t queue, std::span<Page> pages);
    /// Unmaps one that is there.
    void remove(std::size_t queue, std::uint32_t ref) noexcept;

    [[nodiscard]] bool has(std::size_t queue, std::uint32_t ref) const { return queues_[queue].contains(ref); }
    /// How many more the queue may have.
    [[nodiscard]] std::size_t room(std::size_t queue) const noexcept;
    [[nodiscard]] std::size_t queues() const noexcept { return queues_.size(); }

private:
    xen::GrantTable& grants_;
    xen::DomainId domain_;
    std::vector<std::unordered_map<std::uint32_t, xen::MappingId>> queues_;
    PageBudget& budget_;  ///< of the vif
};

}  // namespace uvif
