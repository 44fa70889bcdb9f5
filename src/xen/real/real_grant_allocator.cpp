// SPDX-License-Identifier: MIT
#include "xen/real/real_grant_allocator.hpp"

extern "C" {
#include <xengnttab.h>
}

#include <cerrno>
#include <utility>
#include <vector>

#include "xen/real/device_error.hpp"
#include "xen/real/silent_log.hpp"

namespace uvif::xen {

namespace {

struct Close {
    void operator()(xengntshr_handle* handle) const noexcept { ::xengntshr_close(handle); }
};

/// Shared by the allocator and all pages from it, so that either may be destroyed first.
using Handle = std::shared_ptr<xengntshr_handle>;

class RealSharedPages final : public SharedPages {
public:
    RealSharedPages(Handle handle, std::byte* start, std::vector<GrantRef> refs)
        : handle_(std::move(handle)), start_(start), refs_(std::move(refs)) {}
    ~RealSharedPages() override {
        ::xengntshr_unshare(handle_.get(), start_, static_cast<std::uint32_t>(refs_.size()));
    }

    [[nodiscard]] std::span<std::byte> memory() const noexcept override { return {start_, refs_.size() * page_size}; }
    [[nodiscard]] std::span<const GrantRef> refs() const noexcept override { return refs_; }

private:
    Handle handle_;
    std::byte* start_;
    std::vector<GrantRef> refs_;
};

class RealGrantAllocator final : public GrantAllocator {
public:
    explicit RealGrantAllocator(Handle handle) : handle_(std::move(handle)) {}

    Result<std::unique_ptr<SharedPages>> share(DomainId with, std::uint32_t pages, Access access) override {
        std::vector<GrantRef> refs(pages);
        void* const start =
            ::xengntshr_share_pages(handle_.get(), std::to_underlying(with), static_cast<int>(pages),
                                    reinterpret_cast<std::uint32_t*>(refs.data()), access == Access::read_write);
        if (start == nullptr && errno == ENOSPC) {
            return fail(ENOSPC,
                        fmt::format("cannot share {} pages: this domain's limit on shared pages is reached (1024 by "
                                    "default), raise /sys/module/xen_gntalloc/parameters/limit",
                                    pages));
        }
        if (start == nullptr) {
            const int error = errno;
            return fail(error, fmt::format("cannot share {} pages with domain {}: {}", pages, std::to_underlying(with),
                                           std::generic_category().message(error)));
        }
        return std::make_unique<RealSharedPages>(handle_, static_cast<std::byte*>(start), std::move(refs));
    }

private:
    Handle handle_;
};

}  // namespace

Result<std::unique_ptr<GrantAllocator>> open_real_grant_allocator() {
    xengntshr_handle* const handle = ::xengntshr_open(silent_log(), 0);
    if (handle == nullptr) {
        return device_failure(errno, "gntalloc", "xen-gntalloc");
    }
    return std::make_unique<RealGrantAllocator>(Handle(handle, Close{}));
}

}  // namespace uvif::xen
