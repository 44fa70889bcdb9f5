// SPDX-License-Identifier: MIT
#include "xen/emulated/local_hypervisor.hpp"

#include <fmt/format.h>

#include <utility>

#include "xen/emulated/emulated_event_channels.hpp"
#include "xen/emulated/emulated_grant_allocator.hpp"
#include "xen/emulated/emulated_grant_table.hpp"
#include "xen/emulated/fault_store.hpp"
#include "xen/emulated/local_hypercalls.hpp"
#include "xen/emulated/local_store.hpp"
#include "xen/emulated/toolstack.hpp"

namespace uvif::xen {

LocalHypervisor::LocalHypervisor(Machine& machine, StoreCore& store, DomainId domain, std::shared_ptr<FaultPlan> faults)
    : machine_(machine),
      store_(store),
      domain_(domain),
      faults_(faults != nullptr ? std::move(faults) : std::make_shared<FaultPlan>()) {}

std::string LocalHypervisor::description() const {
    return fmt::format("emulated: domain {} in this process", std::to_underlying(domain_));
}

template <class Kind, class Interface>
Result<std::unique_ptr<Interface>> LocalHypervisor::open() {
    if (const int fault = faults_->check(Operation::open); fault != 0) {
        return fail(fault, "opening a handle failed as the fault plan wants it");
    }
    auto calls = LocalHypercalls::open(machine_, domain_);
    if (!calls) {
        return propagate(calls);
    }
    return Kind::create(std::move(*calls), faults_);
}

Result<std::unique_ptr<GrantTable>> LocalHypervisor::open_grant_table() {
    return open<EmulatedGrantTable, GrantTable>();
}

Result<std::unique_ptr<GrantAllocator>> LocalHypervisor::open_grant_allocator() {
    return open<EmulatedGrantAllocator, GrantAllocator>();
}

Result<std::unique_ptr<EventChannels>> LocalHypervisor::open_event_channels() {
    return open<EmulatedEventChannels, EventChannels>();
}

Result<std::unique_ptr<Store>> LocalHypervisor::open_store() {
    if (const int fault = faults_->check(Operation::open); fault != 0) {
        return fail(fault, "opening a handle failed as the fault plan wants it");
    }
    auto store = LocalStore::open(store_, domain_);
    if (!store) {
        return propagate(store);
    }
    return with_faults(std::move(*store), faults_);
}

Result<std::unique_ptr<LocalHost>> LocalHost::create(const MachineConfig& config) {
    auto machine = Machine::create(config);
    if (!machine) {
        return propagate(machine);
    }
    auto host = std::unique_ptr<LocalHost>(new LocalHost(std::move(*machine)));
    auto store = host->open(DomainId{0})->open_store();
    if (!store) {
        return propagate(store);
    }
    if (auto written = Toolstack(**store).write_dom0(); !written) {
        return propagate(written);
    }
    return host;
}

Result<DomainId> LocalHost::create_domain(std::string_view name, bool driver_domain) {
    auto domain = machine_->create_domain();
    if (!domain) {
        return domain;
    }
    store_.introduce(*domain);
    auto store = open(DomainId{0})->open_store();
    if (!store) {
        return propagate(store);
    }
    if (auto written = Toolstack(**store).write_domain(*domain, name, driver_domain); !written) {
        return propagate(written);
    }
    return domain;
}

Result<void> LocalHost::destroy_domain(DomainId domain) {
    if (auto destroyed = machine_->destroy_domain(domain); !destroyed) {
        return destroyed;
    }
    store_.release(domain);
    auto store = open(DomainId{0})->open_store();
    if (!store) {
        return propagate(store);
    }
    return Toolstack(**store).remove_domain(domain);
}

std::unique_ptr<Hypervisor> LocalHost::open(DomainId domain, std::shared_ptr<FaultPlan> faults) {
    return std::make_unique<LocalHypervisor>(*machine_, store_, domain, std::move(faults));
}

}  // namespace uvif::xen
