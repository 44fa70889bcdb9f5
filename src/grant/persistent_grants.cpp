// SPDX-License-Identifier: MIT
#include "grant/persistent_grants.hpp"

#include <algorithm>
#include <utility>

namespace uvif {

PersistentGrants::PersistentGrants(xen::GrantTable& grants, xen::DomainId domain, StaticTable& table,
                                   PageBudget& budget)
    : grants_(grants), domain_(domain), table_(table), budget_(budget) {
    kept_.reserve(limits::static_grants_per_queue);
    retired_.reserve(limits::static_grants_per_queue);
}

PersistentGrants::~PersistentGrants() {
    forget_all();
    while (give_back([](const std::byte*) { return false; })) {
    }
}

void PersistentGrants::learn_missed() noexcept {
    for (const Missed& missed : std::span(missed_).first(std::exchange(missed_count_, 0))) {
        learn(missed);
    }
}

void PersistentGrants::learn(const Missed& missed) noexcept {
    const auto [ref, access] = missed;
    if (!table_.lacks(ref, access)) {
        return;  // the same turn missed it twice
    }
    const bool read_only = table_.find(ref) != nullptr;
    const auto known = read_only ? std::ranges::find(kept_, ref, &Kept::ref) : kept_.end();
    if (read_only && known == kept_.end()) {
        table_.refuse(ref);  // a static grant: the guest itself wants us to map it so
        return;
    }
    if (kept_.size() + retired_.size() == limits::static_grants_per_queue || !budget_.take(1)) {
        full_ = true;
        return;
    }
    std::array<std::byte*, 1> page{};
    xen::MappingId id;
    if (grants_.map(domain_, std::array{xen::GrantRef{ref}}, access, page, id) != 0) {
        budget_.give(1);
        ++refused;
        if (!read_only) {
            kept_.push_back({.ref = ref, .silent_looks = 0, .id = {}, .page = nullptr});
        }
        table_.refuse(ref);
        return;
    }
    ++learned;
    ++pages_;
    const Kept kept{.ref = ref, .silent_looks = 0, .id = id, .page = page[0]};
    if (read_only) {
        retire(*known);
        *known = kept;
    } else {
        kept_.push_back(kept);
    }
    table_.enter(ref, page[0], access == xen::Access::read_write);
}

void PersistentGrants::age() noexcept {
    full_ = false;
    for (std::size_t i = kept_.size(); i-- != 0;) {
        Kept& kept = kept_[i];
        if (table_.clear_found(kept.ref)) {
            kept.silent_looks = 0;
        } else if (++kept.silent_looks > limits::persistent_silent_looks) {
            drop(i);
        }
    }
}

void PersistentGrants::forget(std::uint32_t ref) noexcept {
    const auto found = std::ranges::find(kept_, ref, &Kept::ref);
    if (found != kept_.end()) {
        drop(static_cast<std::size_t>(found - kept_.begin()));
    }
}

void PersistentGrants::forget_all() noexcept {
    while (!kept_.empty()) {
        drop(kept_.size() - 1);
    }
}

void PersistentGrants::retire(const Kept& kept) noexcept {
    if (kept.page != nullptr) {
        retired_.push_back({kept.id, kept.page});
    }
}

void PersistentGrants::drop(std::size_t index) noexcept {
    table_.remove(kept_[index].ref);
    retire(kept_[index]);
    kept_[index] = kept_.back();
    kept_.pop_back();
}

void PersistentGrants::unmap(std::span<const xen::MappingId> ids) noexcept {
    if (ids.empty()) {
        return;
    }
    unmap_errors += grants_.unmap(ids) != 0 ? 1 : 0;
    pages_ -= ids.size();
    given_back += ids.size();
    budget_.give(ids.size());
}

}  // namespace uvif
