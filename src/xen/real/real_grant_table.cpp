// SPDX-License-Identifier: MIT
#include "xen/real/real_grant_table.hpp"

#include <sys/mman.h>
extern "C" {
#include <xengnttab.h>
}

#include <cerrno>
#include <cstddef>

#include "xen/real/device_error.hpp"
#include "xen/real/silent_log.hpp"

namespace uvif::xen {

namespace {

// A batch of ours goes to the library as it stands.
using Native = xengnttab_grant_copy_segment_t;
static_assert(sizeof(CopySegment) == sizeof(Native) && alignof(CopySegment) == alignof(Native));
static_assert(sizeof(CopyEnd) == sizeof(Native::source));
static_assert(offsetof(CopySegment, source.local) == offsetof(Native, source.virt));
static_assert(offsetof(CopySegment, source.foreign.ref) == offsetof(Native, source.foreign.ref));
static_assert(offsetof(CopySegment, source.foreign.offset) == offsetof(Native, source.foreign.offset));
static_assert(offsetof(CopySegment, source.foreign.domain) == offsetof(Native, source.foreign.domid));
static_assert(offsetof(CopySegment, dest) == offsetof(Native, dest));
static_assert(offsetof(CopySegment, length) == offsetof(Native, len));
static_assert(offsetof(CopySegment, flags) == offsetof(Native, flags));
static_assert(offsetof(CopySegment, status) == offsetof(Native, status));
static_assert(CopySegment::source_is_foreign == GNTCOPY_source_gref);
static_assert(CopySegment::dest_is_foreign == GNTCOPY_dest_gref);
static_assert(sizeof(GrantRef) == sizeof(std::uint32_t));

class RealGrantTable final : public GrantTable {
public:
    explicit RealGrantTable(xengnttab_handle* handle) : handle_(handle) {}
    ~RealGrantTable() override { ::xengnttab_close(handle_); }

    int map(DomainId domain, std::span<const GrantRef> refs, Access access, std::span<std::byte*> pages,
            MappingId& id) noexcept override {
        const int protection = access == Access::read_only ? PROT_READ : PROT_READ | PROT_WRITE;
        // The library takes them as its own to change, and does not change them.
        auto* const native = const_cast<std::uint32_t*>(reinterpret_cast<const std::uint32_t*>(refs.data()));
        const auto count = static_cast<std::uint32_t>(refs.size());
        void* const start =
            ::xengnttab_map_domain_grant_refs(handle_, count, std::to_underlying(domain), native, protection);
        if (start == nullptr) {
            return errno;
        }
        for (std::size_t i = 0; i < refs.size(); ++i) {
            pages[i] = static_cast<std::byte*>(start) + i * page_size;
        }
        id = {reinterpret_cast<std::uintptr_t>(start), count};
        return 0;
    }

    int unmap(std::span<const MappingId> ids) noexcept override {
        int first_error = 0;
        for (const MappingId& id : ids) {
            const int failed = ::xengnttab_unmap(handle_, reinterpret_cast<void*>(id.token), id.pages);
            if (failed != 0 && first_error == 0) {
                first_error = errno;
            }
        }
        return first_error;
    }

    int copy(std::span<CopySegment> segments) noexcept override {
        auto* const native = reinterpret_cast<Native*>(segments.data());
        return ::xengnttab_grant_copy(handle_, static_cast<std::uint32_t>(segments.size()), native) == 0 ? 0 : errno;
    }

private:
    xengnttab_handle* handle_;
};

}  // namespace

Result<std::unique_ptr<GrantTable>> open_real_grant_table() {
    xengnttab_handle* const handle = ::xengnttab_open(silent_log(), 0);
    if (handle == nullptr) {
        return device_failure(errno, "gntdev", "xen-gntdev");
    }
    return std::make_unique<RealGrantTable>(handle);
}

}  // namespace uvif::xen
