// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "uvif/error.hpp"
#include "xen/emulated/fault_plan.hpp"
#include "xen/emulated/machine.hpp"
#include "xen/emulated/store_core.hpp"
#include "xen/hypervisor.hpp"

namespace uvif::xen {

/// A domain of a machine and a store in this process, both of which outlive it and its handles. Nothing in it
/// depends on time or thread order: the same calls give the same answers.
/// Thread rule: that of Machine and StoreCore, one thread for all control calls. The data path of a handle
/// (map, copy, notify, pending, unmask) may run in the handle's own thread once it has been used there before.
class LocalHypervisor final : public Hypervisor {
public:
    /// `faults` none: nothing fails.
    LocalHypervisor(Machine& machine, StoreCore& store, DomainId domain, std::shared_ptr<FaultPlan> faults = nullptr);

    [[nodiscard]] std::string description() const override;
    [[nodiscard]] bool pinning_is_safe() const override { return true; }
    Result<std::unique_ptr<GrantTable>> open_grant_table() override;
    Result<std::unique_ptr<GrantAllocator>> open_grant_allocator() override;
    Result<std::unique_ptr<EventChannels>> open_event_channels() override;
    Result<std::unique_ptr<Store>> open_store() override;

private:
    template <class Kind, class Interface>
    Result<std::unique_ptr<Interface>> open();

    Machine& machine_;
    StoreCore& store_;
    DomainId domain_;
    std::shared_ptr<FaultPlan> faults_;
};

/// A whole emulated host in this process: machine, store, and domains made as libxl makes them. Thread rule: one
/// thread.
class LocalHost {
public:
    static Result<std::unique_ptr<LocalHost>> create(const MachineConfig& config = {});

    [[nodiscard]] Machine& machine() noexcept { return *machine_; }
    [[nodiscard]] StoreCore& store() noexcept { return store_; }

    Result<DomainId> create_domain(std::string_view name, bool driver_domain = false);
    Result<void> destroy_domain(DomainId domain);
    [[nodiscard]] std::unique_ptr<Hypervisor> open(DomainId domain, std::shared_ptr<FaultPlan> faults = nullptr);

private:
    explicit LocalHost(std::unique_ptr<Machine> machine) : machine_(std::move(machine)) {}

    std::unique_ptr<Machine> machine_;
    StoreCore store_;
};

}  // namespace uvif::xen
