// SPDX-License-Identifier: MIT
#pragma once

#include <memory>

#include "uvif/error.hpp"
#include "xen/emulated/fault_plan.hpp"
#include "xen/emulated/hypercalls.hpp"
#include "xen/grant_allocator.hpp"

namespace uvif::xen {

class EmulatedGrantAllocator final : public GrantAllocator {
public:
    static Result<std::unique_ptr<GrantAllocator>> create(std::unique_ptr<Hypercalls> hypercalls,
                                                          std::shared_ptr<FaultPlan> faults);

    Result<std::unique_ptr<SharedPages>> share(DomainId with, std::uint32_t pages, Access access) override;

private:
    EmulatedGrantAllocator(std::unique_ptr<Hypercalls> hypercalls, std::shared_ptr<FaultPlan> faults)
        : hypercalls_(std::move(hypercalls)), faults_(std::move(faults)) {}

    std::shared_ptr<Hypercalls> hypercalls_;  ///< shared with the pages, which may outlive their allocator
    std::shared_ptr<FaultPlan> faults_;
    UniqueFd memory_;
};

}  // namespace uvif::xen
