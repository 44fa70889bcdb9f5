// SPDX-License-Identifier: MIT
#include "packet/buffer_pool.hpp"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <limits>
#include <utility>

namespace uvif {

Result<BufferPool> BufferPool::create(std::size_t count, std::size_t octets, std::span<std::byte> preferred) {
    if (count == 0 || octets == 0 || octets > std::numeric_limits<std::size_t>::max() / 2 - page ||
        count > std::numeric_limits<std::size_t>::max() / 2 / stride_of(octets)) {
        return fail(EINVAL, fmt::format("cannot make a pool of {} buffers of {} octets", count, octets));
    }
    BufferPool pool;
    pool.stride_ = stride_of(octets);
    pool.count_ = count;
    pool.octets_ = octets;
    const std::size_t better = std::min(count, preferred.size() / pool.stride_);
    pool.preferred_ = preferred.first(better * pool.stride_);
    if (const std::size_t mapped = (count - better) * pool.stride_; mapped != 0) {
        void* memory =
            ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) {
            return fail(errno,
                        fmt::format("no memory for {} packet buffers of {} octets; use fewer queues or raise the "
                                    "limit of address space",
                                    count - better, octets));
        }
        pool.base_ = static_cast<std::byte*>(memory);
        pool.mapped_ = mapped;
    }
    pool.free_.reserve(count);
    for (std::size_t i = count - better; i-- > 0;) {
        pool.free_.push_back(pool.base_ + i * pool.stride_);
    }
    for (std::size_t i = better; i-- > 0;) {
        pool.free_.push_back(preferred.data() + i * pool.stride_);
    }
    return pool;
}

BufferPool::BufferPool(BufferPool&& other) noexcept
    : base_(std::exchange(other.base_, nullptr)),
      mapped_(std::exchange(other.mapped_, 0)),
      preferred_(std::exchange(other.preferred_, {})),
      stride_(other.stride_),
      count_(std::exchange(other.count_, 0)),
      octets_(other.octets_),
      free_(std::move(other.free_)) {
    other.free_.clear();
}

BufferPool& BufferPool::operator=(BufferPool&& other) noexcept {
    BufferPool taken(std::move(other));
    std::swap(base_, taken.base_);
    std::swap(mapped_, taken.mapped_);
    std::swap(preferred_, taken.preferred_);
    std::swap(stride_, taken.stride_);
    std::swap(count_, taken.count_);
    std::swap(octets_, taken.octets_);
    std::swap(free_, taken.free_);
    return *this;
}

BufferPool::~BufferPool() {
    if (base_ != nullptr) {
        ::munmap(base_, mapped_);
    }
}

bool BufferPool::is_buffer(const std::byte* buffer) const noexcept {
    const auto begins_in = [&](const std::byte* start, std::size_t octets) {
        return buffer >= start && buffer < start + octets && static_cast<std::size_t>(buffer - start) % stride_ == 0;
    };
    return begins_in(base_, mapped_) || begins_in(preferred_.data(), preferred_.size());
}

void BufferPool::give(std::byte* buffer) noexcept {
    assert(is_buffer(buffer));
    assert(free_.size() < count_);
    free_.push_back(buffer);
}

}  // namespace uvif
