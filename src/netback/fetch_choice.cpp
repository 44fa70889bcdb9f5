// SPDX-License-Identifier: MIT
#include "netback/fetch_choice.hpp"

#include "xen/store_path.hpp"

namespace uvif::netback {
namespace {

Result<GrantCosts> measure(xen::Hypervisor& hypervisor, xen::Store& store) {
    auto self = xen::read_decimal(store, "domid", xen::first_reserved_domain_id - 1U);
    if (!self) {
        return propagate(self);
    }
    auto table = hypervisor.open_grant_table();
    if (!table) {
        return propagate(table);
    }
    auto allocator = hypervisor.open_grant_allocator();
    if (!allocator) {
        return propagate(allocator);
    }
    return GrantCosts::measure(**table, **allocator, xen::DomainId{static_cast<std::uint16_t>(self->value_or(0))});
}

}  // namespace

std::string choose_fetch(xen::Hypervisor& hypervisor, xen::Store& store, FetchPolicy& policy) {
    policy.may_pin = hypervisor.pinning_is_safe();
    if (policy.strategy != FetchStrategy::automatic) {
        return "";
    }
    const auto costs = measure(hypervisor, store);
    if (!costs) {
        return "copies everything, since what mapping costs could not be measured: " + costs.error().message;
    }
    policy.terms = MapTerms::of(*costs);
    return policy.terms.describe(*costs);
}

}  // namespace uvif::netback
