// SPDX-License-Identifier: MIT
#include "xen/real/real_grant_table.hpp"

#include <sys/mman.h>
extern "C" {
#include <xengnttab.h>
}

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <fstream>
#include <utility>

#include "xen/real/device_error.hpp"
#include "xen/real/real_grant_allocator.hpp"
#include "xen/real/self_grants.hpp"
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

/// Pages of gntalloc that stay for others in the domain: as many as it lends by default. So none are taken unless its
/// limit was raised for us.
constexpr std::uint32_t pages_of_others = 1024;

/// Of all tables of the process: the limit is the domain's.
std::atomic<std::uint32_t> self_granted{0};

bool reserve_self_granted(std::uint32_t pages) {
    std::uint32_t limit = 0;
    std::ifstream("/sys/module/xen_gntalloc/parameters/limit") >> limit;
    if (self_granted.fetch_add(pages) + pages + pages_of_others <= limit) {
        return true;
    }
    self_granted.fetch_sub(pages);
    return false;
}

class SelfGrantedPages final : public SharedPages {
public:
    SelfGrantedPages(std::unique_ptr<SharedPages> pages, SelfGrants& grants, DomainId self)
        : pages_(std::move(pages)), grants_(grants) {
        grants_.add(self, pages_->memory(), pages_->refs());
    }
    ~SelfGrantedPages() override {
        const auto pages = static_cast<std::uint32_t>(refs().size());
        grants_.remove(memory());
        pages_.reset();  // before others may count on them
        self_granted.fetch_sub(pages);
    }

    [[nodiscard]] std::span<std::byte> memory() const noexcept override { return pages_->memory(); }
    [[nodiscard]] std::span<const GrantRef> refs() const noexcept override { return pages_->refs(); }

private:
    std::unique_ptr<SharedPages> pages_;
    SelfGrants& grants_;
};

class RealGrantTable final : public GrantTable {
public:
    RealGrantTable(xengnttab_handle* handle, std::optional<DomainId> self) : handle_(handle), self_(self) {}
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
        if (!self_grants_.empty()) {
            for (CopySegment& segment : segments) {
                self_grants_.name(segment);
            }
        }
        auto* const native = reinterpret_cast<Native*>(segments.data());
        return ::xengnttab_grant_copy(handle_, static_cast<std::uint32_t>(segments.size()), native) == 0 ? 0 : errno;
    }

    std::unique_ptr<SharedPages> grant_to_self(std::uint32_t pages) override {
        if (!self_ || !reserve_self_granted(pages)) {
            return nullptr;
        }
        std::unique_ptr<SharedPages> shared;
        if (auto allocator = open_real_grant_allocator(); allocator) {
            if (auto made = (*allocator)->share(*self_, pages, Access::read_write); made) {
                shared = std::move(*made);
            }
        }
        if (!shared) {
            self_granted.fetch_sub(pages);
            return nullptr;
        }
        return std::make_unique<SelfGrantedPages>(std::move(shared), self_grants_, *self_);
    }

private:
    xengnttab_handle* handle_;
    std::optional<DomainId> self_;
    SelfGrants self_grants_;
};

}  // namespace

Result<std::unique_ptr<GrantTable>> open_real_grant_table(std::optional<DomainId> self) {
    xengnttab_handle* const handle = ::xengnttab_open(silent_log(), 0);
    if (handle == nullptr) {
        return device_failure(errno, "gntdev", "xen-gntdev");
    }
    return std::make_unique<RealGrantTable>(handle, self);
}

}  // namespace uvif::xen
