// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <vector>

#include "uvif/error.hpp"

// Theory of operation
//
// One anonymous mapping holds all buffers; the kernel gives it memory where it is touched, so a pool of 64 KiB buffers
// that see 1500 octet packets costs a page each. The free list is a stack: the buffer given back last is still in the
// cache. Buffers begin with a page: a grant copy whose local side crosses a page is two to the kernel (gntdev).

namespace uvif {

/// Buffers of one size. Nothing allocates after construction.
/// Thread rule: one thread.
class BufferPool {
public:
    /// `count` buffers of at least `octets` each. Fails when there is no address space for them.
    static Result<BufferPool> create(std::size_t count, std::size_t octets);

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

private:
    BufferPool() = default;

    std::byte* base_ = nullptr;
    std::size_t mapped_ = 0;
    std::size_t stride_ = 0;
    std::size_t count_ = 0;
    std::size_t octets_ = 0;
    std::vector<std::byte*> free_;
};

}  // namespace uvif
