// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "uvif/error.hpp"

// Theory of operation
//
// One anonymous mapping holds all buffers, but for those in better memory that the owner may have; the kernel gives it
// memory where it is touched, so a pool of 64 KiB buffers that see 1500 octet packets costs a page each. The free list
// is a stack: the buffer given back last is still in the cache. Buffers begin with a page: a grant copy whose local
// side crosses a page is two to the kernel (gntdev).

namespace uvif {

/// Buffers of one size. Nothing allocates after construction.
/// Thread rule: one thread.
class BufferPool {
public:
    /// `count` buffers of at least `octets` each. As many as fit are in `preferred`, which begins with a page and
    /// outlives the pool, and are taken before the others. Fails when there is no address space for them.
    static Result<BufferPool> create(std::size_t count, std::size_t octets, std::span<std::byte> preferred = {});

    BufferPool(BufferPool&& other) noexcept;
    BufferPool& operator=(BufferPool&& other) noexcept;
    ~BufferPool();

    /// A buffer, aligned to a page; nullptr when all are taken.
    [[nodiscard]] std::byte* take() noexcept {
        if (free_.empty()) {
            return nullptr;
        }
        std::byte* buffer = free_.back();
        free_.pop_back();
        return buffer;
    }

    /// Gives back what take() gave.
    void give(std::byte* buffer) noexcept;

    [[nodiscard]] std::size_t available() const noexcept { return free_.size(); }
    [[nodiscard]] std::size_t count() const noexcept { return count_; }
    [[nodiscard]] std::size_t buffer_size() const noexcept { return octets_; }

    /// What a buffer of `octets` takes of memory: whole pages.
    static constexpr std::size_t stride_of(std::size_t octets) noexcept { return (octets + page - 1) / page * page; }

private:
    static constexpr std::size_t page = 4096;

    BufferPool() = default;
    [[nodiscard]] bool is_buffer(const std::byte* buffer) const noexcept;

    std::byte* base_ = nullptr;
    std::size_t mapped_ = 0;
    std::span<std::byte> preferred_;
    std::size_t stride_ = 0;
    std::size_t count_ = 0;
    std::size_t octets_ = 0;
    std::vector<std::byte*> free_;
};

}  // namespace uvif
