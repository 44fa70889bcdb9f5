// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "uvif/error.hpp"
#include "xen/event_channels.hpp"
#include "xen/grant_allocator.hpp"
#include "xen/grant_table.hpp"
#include "xen/store.hpp"

namespace uvif::xen {

/// The seam: everything that uvif asks of Xen, seen from one domain. Handles opened here are
/// independent of each other and each belongs to the thread that uses it. Opening is thread safe.
/// No handle survives fork().
class Hypervisor {
public:
    Hypervisor() = default;
    Hypervisor(const Hypervisor&) = delete;
    Hypervisor& operator=(const Hypervisor&) = delete;
    virtual ~Hypervisor() = default;

    /// "real" or "emulated:SOCKET", for logs and --version.
    [[nodiscard]] virtual std::string description() const = 0;

    virtual Result<std::unique_ptr<GrantTable>> open_grant_table() = 0;
    virtual Result<std::unique_ptr<GrantAllocator>> open_grant_allocator() = 0;
    virtual Result<std::unique_ptr<EventChannels>> open_event_channels() = 0;
    virtual Result<std::unique_ptr<Store>> open_store() = 0;

    /// Whether the kernel may be given mapped pages of other domains to send from after the call. Not where the domain
    /// is paravirtual: there unmapping them, or dying, before the kernel is done spoils its account of pages. Nor where
    /// it has a vif of its own: such pages cannot be granted on to that one's backend.
    [[nodiscard]] virtual bool pinning_is_safe() const { return false; }

    /// Whether a backend in this domain's kernel would serve every new vif: then none of ours can (EBUSY, with the
    /// remedy).
    [[nodiscard]] virtual Result<void> check_no_other_netback() const { return {}; }
    /// Whether a backend in the kernel serves this one.
    [[nodiscard]] virtual bool other_netback_serves(DomainId /*guest*/, std::uint32_t /*handle*/) const {
        return false;
    }
};

/// `choice` is the text of --hypervisor: "real", "emulated:SOCKET" (a domain's socket of a running
/// uvif-machine), or empty: then UVIF_HYPERVISOR decides, and without it real Xen where this is a
/// Xen domain. Anything else is an error that names the choices.
Result<std::unique_ptr<Hypervisor>> open_hypervisor(std::string_view choice);

/// Whether there can be such a hypervisor at all: for programs that open none. EINVAL, naming the choices.
Result<void> check_hypervisor(std::string_view choice);

}  // namespace uvif::xen
