// SPDX-License-Identifier: MIT
#include "xen/emulated/shared_memory.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "runtime/describe_error.hpp"

namespace uvif::xen {

Result<UniqueFd> duplicate(int fd) {
    const int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy < 0) {
        return fail(errno, fmt::format("cannot duplicate a file descriptor: {}", describe_error(errno)));
    }
    return UniqueFd(copy);
}

MemoryMap::~MemoryMap() {
    if (base_ != nullptr) {
        ::munmap(base_, length_);
    }
}

Result<MemoryMap> MemoryMap::map(int fd, std::size_t offset, std::size_t length, Protection protection) {
    const int flags = protection == Protection::read_only ? PROT_READ : PROT_READ | PROT_WRITE;
    void* base = ::mmap(nullptr, length, flags, MAP_SHARED, fd, static_cast<off_t>(offset));
    if (base == MAP_FAILED) {
        return fail(errno, fmt::format("cannot map {} octets of a domain's memory: {}", length, describe_error(errno)));
    }
    return MemoryMap(static_cast<std::byte*>(base), length);
}

Result<UniqueFd> create_shared_memory(const char* name, std::size_t length) {
    UniqueFd memory(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!memory || ::ftruncate(memory.get(), static_cast<off_t>(length)) != 0 ||
        ::fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        return fail(errno, fmt::format("cannot make {} octets of shared memory: {}", length, describe_error(errno)));
    }
    return memory;
}

void discard_memory(int fd, std::size_t offset, std::size_t length) noexcept {
    ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(length));
}

}  // namespace uvif::xen
