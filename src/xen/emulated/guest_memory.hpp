// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "uvif/error.hpp"
#include "xen/emulated/layout.hpp"
#include "xen/emulated/machine.hpp"
#include "xen/types.hpp"

namespace uvif::xen {

/// The memory and the grant table of a guest that a test plays, honest or hostile: it may write anything into its
/// own grant entries, and its pages are there to be scribbled on while the backend reads them.
/// The frames and references are taken from the machine once; after that no call touches the machine.
/// They stay taken until the domain is destroyed. Thread rule: one thread at a time, which need not be the machine's.
class GuestMemory {
public:
    static Result<GuestMemory> create(Machine& machine, DomainId domain, std::uint32_t frames = 1024,
                                      std::uint32_t refs = 2048);

    /// A zeroed frame, ENOMEM when all are taken.
    Result<std::uint32_t> allocate_frame();
    void free_frame(std::uint32_t frame);
    [[nodiscard]] std::span<std::byte, page_size> page(std::uint32_t frame) const noexcept {
        return std::span<std::byte, page_size>(memory_.frame(frame), page_size);
    }

    /// Lets `to` use the frame, under a fresh reference. ENOSPC when all are taken.
    Result<GrantRef> grant(std::uint32_t frame, DomainId to, Access access);
    /// False, and nothing has changed, while the other domain uses it; else the reference is free again.
    bool end_access(GrantRef ref);
    [[nodiscard]] GrantUse use(GrantRef ref) const noexcept { return grant_use(memory_, std::to_underlying(ref)); }

    /// Writes an entry as it stands, whatever it says. `ref` is below max_grants.
    void write_entry(GrantRef ref, GrantEntry entry) noexcept {
        memory_.grant(std::to_underlying(ref)).store(pack(entry));
    }
    [[nodiscard]] GrantEntry entry(GrantRef ref) const noexcept {
        return unpack_grant(memory_.grant(std::to_underlying(ref)).load());
    }

private:
    GuestMemory() = default;

    DomainMemory memory_;
    std::vector<std::uint32_t> free_frames_;
    std::vector<GrantRef> free_refs_;
};

}  // namespace uvif::xen
