// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "packet/buffer_pool.hpp"
#include "xen/grant_table.hpp"

namespace uvif {

/// Buffers that guests' pages are copied to and from. The first of them are granted to ourselves, where there is such
/// memory: a queue that is not crowded works with these alone.
struct CopyBuffers {
    /// `count` buffers of `octets`, of which `granted` are to be granted to ourselves: all of those, or none.
    static Result<CopyBuffers> create(xen::GrantTable& grants, std::size_t count, std::size_t granted,
                                      std::size_t octets) {
        const std::size_t pages = granted * BufferPool::stride_of(octets) / xen::page_size;
        auto memory = grants.grant_to_self(static_cast<std::uint32_t>(pages));
        auto pool = BufferPool::create(count, octets, memory ? memory->memory() : std::span<std::byte>());
        if (!pool) {
            return propagate(pool);
        }
        return CopyBuffers{std::move(memory), std::move(*pool)};
    }

    [[nodiscard]] std::size_t granted_pages() const noexcept { return granted ? granted->refs().size() : 0; }

    std::unique_ptr<xen::SharedPages> granted;  ///< null: none
    BufferPool pool;
};

}  // namespace uvif
