// SPDX-License-Identifier: MIT
#include "xen/emulated/grant_view.hpp"

#include <cerrno>
#include <utility>

namespace uvif::xen {

Result<std::unique_ptr<GrantView>> GrantView::attach(Hypercalls& hypercalls, DomainId domain) {
    auto attachment = hypercalls.attach(domain);
    if (!attachment) {
        return propagate(attachment);
    }
    if (attachment->column >= max_columns) {
        return fail(EPROTO, "the emulated hypervisor assigned a column of pins that does not exist");
    }
    auto whole = MemoryMap::map(attachment->memory.get(), 0, DomainMemory::size, MemoryMap::Protection::read_write);
    if (!whole) {
        return propagate(whole);
    }
    auto frames = MemoryMap::map(attachment->memory.get(), DomainMemory::frames_offset, DomainMemory::frames_size,
                                 MemoryMap::Protection::read_only);
    if (!frames) {
        return propagate(frames);
    }
    auto view = std::unique_ptr<GrantView>(new GrantView);
    view->domain_ = domain;
    view->column_ = attachment->column;
    view->fd_ = std::move(attachment->memory);
    view->whole_ = std::move(*whole);
    view->read_only_ = std::move(*frames);
    view->memory_ = DomainMemory(view->whole_.base());
    return view;
}

}  // namespace uvif::xen
