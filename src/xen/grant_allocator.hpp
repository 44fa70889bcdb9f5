// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "uvif/error.hpp"
#include "xen/types.hpp"

namespace uvif::xen {

/// Pages of this domain that another domain may use. Zeroed when made; the destructor ends the
/// access and gives them back (the memory itself is freed once the other side has let go).
class SharedPages {
public:
    SharedPages() = default;
    SharedPages(const SharedPages&) = delete;
    SharedPages& operator=(const SharedPages&) = delete;
    virtual ~SharedPages() = default;

    [[nodiscard]] virtual std::span<std::byte> memory() const noexcept = 0;     ///< contiguous, page aligned
    [[nodiscard]] virtual std::span<const GrantRef> refs() const noexcept = 0;  ///< one a page, in order
};

/// The frontend's side of grants (gntalloc through libxengnttab's gntshr). A userspace frontend
/// cannot grant memory that it already has: it must use what this hands out.
/// Thread rule: one thread at a time.
class GrantAllocator {
public:
    GrantAllocator() = default;
    GrantAllocator(const GrantAllocator&) = delete;
    GrantAllocator& operator=(const GrantAllocator&) = delete;
    virtual ~GrantAllocator() = default;

    /// Fails with ENOSPC when the domain's page limit (gntalloc's `limit`) is reached, the message
    /// naming the limit and the remedy.
    virtual Result<std::unique_ptr<SharedPages>> share(DomainId with, std::uint32_t pages, Access access) = 0;
};

}  // namespace uvif::xen
