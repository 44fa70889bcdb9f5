// SPDX-License-Identifier: MIT
#include "grant/static_grants.hpp"

#include <algorithm>
#include <array>

#include "runtime/limits.hpp"

namespace uvif {

StaticGrants::~StaticGrants() {
    for (auto& queue : queues_) {
        for (const auto& [ref, id] : queue) {
            (void)grants_.unmap(std::array{id});
        }
        budget_.give(queue.size());
    }
}

bool StaticGrants::add(std::size_t queue, std::span<Page> pages) {
    if (!budget_.take(pages.size())) {
        return false;
    }
    for (std::size_t i = 0; i < pages.size(); ++i) {
        Page& page = pages[i];
        const auto access = page.writable ? xen::Access::read_write : xen::Access::read_only;
        std::array<std::byte*, 1> address{};
        xen::MappingId id;
        if (grants_.map(domain_, std::array{xen::GrantRef{page.ref}}, access, address, id) != 0) {
            for (const Page& done : pages.first(i)) {
                remove(queue, done.ref);
            }
            budget_.give(pages.size() - i);
            return false;
        }
        page.address = address[0];
        queues_[queue].emplace(page.ref, id);
    }
    return true;
}

void StaticGrants::remove(std::size_t queue, std::uint32_t ref) noexcept {
    const auto found = queues_[queue].find(ref);
    (void)grants_.unmap(std::array{found->second});
    queues_[queue].erase(found);
    budget_.give(1);
}

std::size_t StaticGrants::room(std::size_t queue) const noexcept {
    return std::min(limits::static_grants_per_queue - queues_[queue].size(), budget_.left());
}

}  // namespace uvif
