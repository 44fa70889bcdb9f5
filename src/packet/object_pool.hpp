// SPDX-License-Identifier: MIT
#pragma once

#include <cassert>
#include <cstddef>
#include <memory>
#include <new>
#include <span>
#include <type_traits>
#include <vector>

namespace uvif {

/// So many objects and no more, each made when it is first needed: the memory of those that never are is reserved, and
/// not touched. The free list is a stack: the object given back last is still in the cache. What an object held stays
/// in it. Nothing allocates after construction.
/// Thread rule: one thread.
template <class T>
class ObjectPool {
    static_assert(std::is_trivially_destructible_v<T> && std::is_nothrow_default_constructible_v<T>);

public:
    explicit ObjectPool(std::size_t capacity)
        : memory_(static_cast<T*>(::operator new(capacity * sizeof(T), std::align_val_t(alignof(T))))),
          capacity_(capacity) {
        free_.reserve(capacity);
    }

    [[nodiscard]] bool empty() const noexcept { return free_.empty() && made_ == capacity_; }
    /// One that is free; there is one.
    [[nodiscard]] T& take() noexcept {
        assert(!empty());
        if (free_.empty()) {
            return *::new (memory_.get() + made_++) T;
        }
        T* const object = free_.back();
        free_.pop_back();
        return *object;
    }
    void give(T& object) noexcept { free_.push_back(&object); }

    /// All that were ever taken.
    [[nodiscard]] std::span<T> made() noexcept { return {memory_.get(), made_}; }
    [[nodiscard]] std::span<const T> made() const noexcept { return {memory_.get(), made_}; }
    [[nodiscard]] std::size_t taken() const noexcept { return made_ - free_.size(); }

private:
    struct Free {
        void operator()(T* memory) const noexcept { ::operator delete(memory, std::align_val_t(alignof(T))); }
    };

    std::unique_ptr<T, Free> memory_;
    std::size_t capacity_;
    std::size_t made_ = 0;
    std::vector<T*> free_;
};

}  // namespace uvif
