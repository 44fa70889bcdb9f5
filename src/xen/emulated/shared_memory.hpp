// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <utility>

#include "runtime/unique_fd.hpp"
#include "uvif/error.hpp"

namespace uvif::xen {

/// A second descriptor for the same file.
[[nodiscard]] Result<UniqueFd> duplicate(int fd);

/// Owns a shared mapping of a file, or an empty reservation of addresses.
class MemoryMap {
public:
    MemoryMap() = default;
    MemoryMap(MemoryMap&& other) noexcept
        : base_(std::exchange(other.base_, nullptr)), length_(std::exchange(other.length_, 0)) {}
    MemoryMap& operator=(MemoryMap&& other) noexcept {
        std::swap(base_, other.base_);
        std::swap(length_, other.length_);
        return *this;
    }
    ~MemoryMap();

    enum class Protection { read_only, read_write };
    static Result<MemoryMap> map(int fd, std::size_t offset, std::size_t length, Protection protection);

    [[nodiscard]] std::byte* base() const noexcept { return base_; }
    [[nodiscard]] std::size_t length() const noexcept { return length_; }

private:
    MemoryMap(std::byte* base, std::size_t length) noexcept : base_(base), length_(length) {}

    std::byte* base_ = nullptr;
    std::size_t length_ = 0;
};

/// Zeroed shared memory whose size nobody can change any more: a process that shrank it would
/// kill the others with SIGBUS.
Result<UniqueFd> create_shared_memory(const char* name, std::size_t length);

/// Zeroes and frees whole pages of shared memory.
void discard_memory(int fd, std::size_t offset, std::size_t length) noexcept;

}  // namespace uvif::xen
