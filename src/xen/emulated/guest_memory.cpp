// SPDX-License-Identifier: MIT
#include "xen/emulated/guest_memory.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace uvif::xen {

Result<GuestMemory> GuestMemory::create(Machine& machine, DomainId domain, std::uint32_t frames, std::uint32_t refs) {
    GuestMemory guest;
    auto memory = machine.mapped_memory(domain);
    if (!memory) {
        return propagate(memory);
    }
    auto first = machine.allocate_frames(domain, frames);
    if (!first) {
        return propagate(first);
    }
    auto free_refs = machine.allocate_refs(domain, refs);
    if (!free_refs) {
        return propagate(free_refs);
    }
    guest.memory_ = *memory;
    for (std::uint32_t i = frames; i-- > 0;) {
        guest.free_frames_.push_back(*first + i);
    }
    std::ranges::reverse(*free_refs);
    guest.free_refs_ = std::move(*free_refs);
    return guest;
}

Result<std::uint32_t> GuestMemory::allocate_frame() {
    if (free_frames_.empty()) {
        return fail(ENOMEM, "the guest has no page left: give it more at its creation");
    }
    const std::uint32_t frame = free_frames_.back();
    free_frames_.pop_back();
    std::ranges::fill(page(frame), std::byte{0});
    return frame;
}

void GuestMemory::free_frame(std::uint32_t frame) {
    free_frames_.push_back(frame);
}

Result<GrantRef> GuestMemory::grant(std::uint32_t frame, DomainId to, Access access) {
    if (free_refs_.empty()) {
        return fail(ENOSPC, "the guest has no grant reference left: give it more at its creation");
    }
    const GrantRef ref = free_refs_.back();
    free_refs_.pop_back();
    const std::uint16_t read_only = access == Access::read_only ? grant_read_only : 0;
    write_entry(ref, {static_cast<std::uint16_t>(grant_permit_access | read_only), std::to_underlying(to), frame});
    return ref;
}

bool GuestMemory::end_access(GrantRef ref) {
    if (!end_grant_access(memory_, std::to_underlying(ref))) {
        return false;
    }
    free_refs_.push_back(ref);
    return true;
}

}  // namespace uvif::xen
