// SPDX-License-Identifier: MIT
#include "xen/emulated/emulated_grant_table.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

namespace uvif::xen {

// Theory of operation
// -------------------
// A mapping is a pin on each of its grants (see layout.hpp) and the addresses of the pages inside a view of the
// domain's whole memory, which the handle maps once. `held_` remembers the pins in linked slots, so that unmap finds
// them by the mapping's token alone. A copy pins, moves the octets and unpins.
//
// In charged mode each operation costs what it costs through a kernel, so that measurements do not flatter map and
// copy: mapping is mmap with the page table entries filled in, unmapping is munmap, and a batch of copies is one
// process_vm_readv on ourselves, which copies in the kernel after pinning the pages. gntdev maps any pages by one call,
// which is dear where a page is cheap (DESIGN.md has the figures); mmap does so only for pages that are neighbours in
// the domain's memory. For others as many that are neighbours are mapped: that is what the call costs, and they are
// read where the handle has them anyway.

Result<std::unique_ptr<GrantTable>> EmulatedGrantTable::create(std::unique_ptr<Hypercalls> hypercalls,
                                                               std::shared_ptr<FaultPlan> faults) {
    return std::unique_ptr<GrantTable>(new EmulatedGrantTable(std::move(hypercalls), std::move(faults)));
}

EmulatedGrantTable::EmulatedGrantTable(std::unique_ptr<Hypercalls> hypercalls, std::shared_ptr<FaultPlan> faults)
    : hypercalls_(std::move(hypercalls)),
      faults_(std::move(faults)),
      self_(hypercalls_->domain()),
      charged_(hypercalls_->charged()),
      faulty_segments_(faults_->concerns(Operation::copy_segment)),
      held_(std::make_unique_for_overwrite<Held[]>(max_mapped_grants)) {}

EmulatedGrantTable::~EmulatedGrantTable() {
    // The machine would throw our pins away too, but only once it has noticed; a peer may look before.
    for (std::uint32_t slot = 0; slot < touched_; ++slot) {
        if (held_[slot].pages != 0) {
            release(slot);
        }
    }
}

GrantView* EmulatedGrantTable::find_view(DomainId domain) noexcept {
    view_error_ = EINVAL;
    const auto known = views_.find(std::to_underlying(domain));
    GrantView* view = known == views_.end() ? nullptr : known->second.get();
    if (view == nullptr) {
        forget_dead_domains();
        try {
            auto attached = GrantView::attach(*hypercalls_, domain);
            if (!attached) {
                view_error_ = attached.error().code == ENOMEM ? ENOMEM : EINVAL;
                return nullptr;
            }
            view = attached->get();
            views_.emplace(std::to_underlying(domain), std::move(*attached));
        } catch (const std::bad_alloc&) {
            view_error_ = ENOMEM;
            return nullptr;
        }
    }
    if (!view->alive()) {
        return nullptr;
    }
    recent_ = {view, recent_[0]};
    return view;
}

void EmulatedGrantTable::forget_dead_domains() noexcept {
    std::erase_if(views_, [](const auto& entry) { return !entry.second->alive() && entry.second->mapped == 0; });
    recent_ = {};
}

std::uint32_t EmulatedGrantTable::take_slot() noexcept {
    std::uint32_t slot = free_;
    if (slot != no_slot) {
        free_ = held_[slot].next;
    } else {
        slot = touched_++;
        held_[slot].generation = 1;
    }
    held_[slot].pages = 0;
    held_[slot].next = no_slot;
    ++mapped_;
    return slot;
}

void EmulatedGrantTable::release(std::uint32_t first) noexcept {
    Held& head = held_[first];
    if (head.window != nullptr) {
        ::munmap(head.window, std::size_t{head.pages} * page_size);
    }
    ++head.generation;
    head.pages = 0;
    for (std::uint32_t slot = first; slot != no_slot;) {
        Held& held = held_[slot];
        held.view->unpin(held.ref, held.access);
        --held.view->mapped;
        --mapped_;
        slot = std::exchange(held.next, free_);
        free_ = static_cast<std::uint32_t>(&held - held_.get());
    }
}

int EmulatedGrantTable::map(DomainId domain, std::span<const GrantRef> refs, Access access, std::span<std::byte*> pages,
                            MappingId& id) noexcept {
    if (const int fault = faults_->check(Operation::map); fault != 0) {
        return fault;
    }
    if (refs.empty() || pages.size() < refs.size()) {
        return EINVAL;
    }
    if (refs.size() > max_mapped_grants - mapped_) {
        return ENOSPC;
    }
    GrantView* view = view_of(domain);
    if (view == nullptr) {
        return view_error_;
    }
    std::uint32_t first = no_slot;
    std::uint32_t last = no_slot;
    int error = 0;
    for (std::size_t i = 0; i < refs.size() && error == 0; ++i) {
        std::byte* page = nullptr;
        if (view->pin(self_, refs[i], access, page) != GrantStatus::okay) {
            error = EINVAL;
            break;
        }
        const std::uint32_t slot = take_slot();
        Held& held = held_[slot];
        held.view = view;
        held.window = nullptr;
        held.ref = refs[i];
        held.access = access;
        ++view->mapped;
        (first == no_slot ? first : held_[last].next) = slot;
        last = slot;
        pages[i] = page;
    }
    std::byte* window = nullptr;
    if (charged_ && error == 0) {
        window = map_window(*view, pages.first(refs.size()), access);
        error = window != nullptr ? 0 : ENOMEM;
    }
    if (error != 0) {
        if (first != no_slot) {
            release(first);
        }
        return error;
    }
    Held& head = held_[first];
    head.window = window;
    head.pages = static_cast<std::uint32_t>(refs.size());
    id = {std::uintptr_t{head.generation} << 32 | (first + 1), head.pages};
    return 0;
}

int EmulatedGrantTable::unmap(std::span<const MappingId> ids) noexcept {
    int first_error = 0;
    for (const MappingId& id : ids) {
        const int fault = faults_->check(Operation::unmap);
        const int error = fault != 0 ? fault : unmap_one(id);
        first_error = first_error != 0 ? first_error : error;
    }
    return first_error;
}

int EmulatedGrantTable::unmap_one(MappingId id) noexcept {
    const auto slot = static_cast<std::uint32_t>(id.token) - 1;
    if (slot >= touched_ || held_[slot].pages == 0 || held_[slot].pages != id.pages ||
        held_[slot].generation != id.token >> 32) {
        return EINVAL;
    }
    release(slot);
    return 0;
}

std::byte* EmulatedGrantTable::map_window(const GrantView& view, std::span<std::byte*> pages, Access access) noexcept {
    const std::size_t octets = pages.size() * page_size;
    const auto [lowest, highest] = std::ranges::minmax(pages);
    const bool neighbours = static_cast<std::size_t>(highest - lowest) + page_size == octets;
    const std::size_t last = DomainMemory::frames_offset + DomainMemory::frames_size - octets;
    const int protection = access == Access::read_only ? PROT_READ : PROT_READ | PROT_WRITE;
    void* const mapped = ::mmap(nullptr, octets, protection, MAP_SHARED | MAP_POPULATE, view.memory_fd(),
                                static_cast<off_t>(std::min(view.file_offset(lowest, access), last)));
    if (mapped == MAP_FAILED) {
        return nullptr;
    }
    auto* const window = static_cast<std::byte*>(mapped);
    if (neighbours) {
        for (std::byte*& page : pages) {
            page = window + (page - lowest);
        }
    }
    return window;
}

bool EmulatedGrantTable::well_formed(const CopySegment& segment) noexcept {
    constexpr std::uint16_t both = CopySegment::source_is_foreign | CopySegment::dest_is_foreign;
    const auto inside = [&segment](const CopyEnd& end) {
        return std::size_t{end.foreign.offset} + segment.length <= page_size;
    };
    return (segment.flags & both) != 0 && (segment.flags & ~both) == 0 &&
           ((segment.flags & CopySegment::source_is_foreign) == 0 || inside(segment.source)) &&
           ((segment.flags & CopySegment::dest_is_foreign) == 0 || inside(segment.dest));
}

GrantStatus EmulatedGrantTable::open_end(const CopyEnd& end, bool foreign, Access access, End& opened) noexcept {
    if (!foreign) {
        opened.address = static_cast<std::byte*>(end.local);
        return GrantStatus::okay;
    }
    GrantView* view = view_of(end.foreign.domain);
    if (view == nullptr) {
        return GrantStatus::bad_domain;
    }
    const GrantStatus status = view->pin(self_, end.foreign.ref, access, opened.address);
    if (status == GrantStatus::okay) {
        opened.address += end.foreign.offset;
        opened.view = view;
        opened.ref = end.foreign.ref;
        opened.access = access;
    }
    return status;
}

GrantStatus EmulatedGrantTable::open_segment(const CopySegment& segment, Copy& copy) noexcept {
    if (faulty_segments_) {
        if (const int fault = faults_->check(Operation::copy_segment); fault != 0) {
            return static_cast<GrantStatus>(fault);
        }
    }
    GrantStatus status =
        open_end(segment.source, (segment.flags & CopySegment::source_is_foreign) != 0, Access::read_only, copy.source);
    if (status == GrantStatus::okay) {
        status =
            open_end(segment.dest, (segment.flags & CopySegment::dest_is_foreign) != 0, Access::read_write, copy.dest);
        if (status != GrantStatus::okay) {
            close_end(copy.source);
        }
    }
    return status;
}

int EmulatedGrantTable::copy(std::span<CopySegment> segments) noexcept {
    if (const int fault = faults_->check(Operation::copy); fault != 0) {
        return fault;
    }
    if (charged_) {
        return copy_charged(segments);
    }
    for (CopySegment& segment : segments) {
        if (!well_formed(segment)) {
            return EINVAL;
        }
        Copy copy;
        const GrantStatus status = open_segment(segment, copy);
        if (status == GrantStatus::okay) {
            // The two ends of a copy between grants may be the same page.
            std::memmove(copy.dest.address, copy.source.address, segment.length);
            copied_octets_ += segment.length;
            close_end(copy.dest);
            close_end(copy.source);
        }
        segment.status = std::to_underlying(status);
    }
    return 0;
}

int EmulatedGrantTable::copy_charged(std::span<CopySegment> segments) noexcept {
    while (!segments.empty()) {
        const auto batch = segments.first(std::min(segments.size(), charged_batch));
        if (const int error = copy_charged_batch(batch); error != 0) {
            return error;
        }
        segments = segments.subspan(batch.size());
    }
    return 0;
}

int EmulatedGrantTable::copy_charged_batch(std::span<CopySegment> segments) noexcept {
    std::array<Copy, charged_batch> copies;
    std::array<iovec, charged_batch> sources;
    std::array<iovec, charged_batch> dests;
    std::size_t count = 0;
    std::size_t octets = 0;
    int error = 0;
    for (CopySegment& segment : segments) {
        if (!well_formed(segment)) {
            error = EINVAL;
            break;
        }
        Copy copy;
        const GrantStatus status = open_segment(segment, copy);
        segment.status = std::to_underlying(status);
        if (status == GrantStatus::okay) {
            sources[count] = {copy.source.address, segment.length};
            dests[count] = {copy.dest.address, segment.length};
            copies[count++] = copy;
            octets += segment.length;
        }
    }
    if (count != 0) {
        // To the kernel, the destination is the caller's memory and the source that of another process.
        const ssize_t done = ::process_vm_readv(::getpid(), dests.data(), count, sources.data(), count, 0);
        if (error == 0 && done != static_cast<ssize_t>(octets)) {
            error = done < 0 ? errno : EFAULT;
        }
        copied_octets_ += octets;
    }
    for (std::size_t i = 0; i < count; ++i) {
        close_end(copies[i].dest);
        close_end(copies[i].source);
    }
    return error;
}

}  // namespace uvif::xen
