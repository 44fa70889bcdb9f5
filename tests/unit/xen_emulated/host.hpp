// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "xen/emulated/guest_memory.hpp"
#include "xen/emulated/local_hypervisor.hpp"

namespace uvif::xen {

/// The value of a result that a test takes for granted.
template <class T>
T must(Result<T> result) {
    if (!result) {
        ADD_FAILURE() << result.error().message;
        std::abort();
    }
    return std::move(*result);
}

/// A host in this process with one guest.
struct Host {
    explicit Host(const MachineConfig& config = {})
        : host(must(LocalHost::create(config))),
          guest(must(host->create_domain("guest"))),
          guest_memory(must(GuestMemory::create(host->machine(), guest, 64, 128))) {}

    std::unique_ptr<GrantTable> grant_table(DomainId domain = dom0, std::shared_ptr<FaultPlan> faults = nullptr) {
        return must(host->open(domain, std::move(faults))->open_grant_table());
    }
    std::unique_ptr<EventChannels> event_channels(DomainId domain, std::shared_ptr<FaultPlan> faults = nullptr) {
        return must(host->open(domain, std::move(faults))->open_event_channels());
    }
    std::unique_ptr<GrantAllocator> grant_allocator(DomainId domain) {
        return must(host->open(domain)->open_grant_allocator());
    }
    DomainUsage usage(DomainId domain) { return must(host->machine().usage(domain)); }

    std::unique_ptr<LocalHost> host;
    DomainId guest;
    GuestMemory guest_memory;
};

}  // namespace uvif::xen
