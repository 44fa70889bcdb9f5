// SPDX-License-Identifier: MIT
#pragma once

// Theory of operation
// -------------------
// Every domain of the emulated machine is one shared memory file, and all that the data path needs lies in it, so
// that mapping, copying and notifying are table look-ups without a system call:
//
//     header      one page: whether the domain lives, which columns of pins are in use
//     events      pending and masked bits as in Xen's two-level ABI, then one entry a port
//     grants      version 1 grant entries, as in xen/grant_table.h
//     pins        one column a foreign handle: how often that handle uses each grant right now
//     frames      the domain's pages, sparse
//
// Pins are counted per handle and not per grant, so a count has one writer and the death of a process at any
// instruction is undone by throwing its column away; nothing has to be subtracted. "In use" is the question
// whether any column holds a pin. Pinning and revoking meet as Dekker's algorithm does: the user of a grant pins
// first and then looks at the entry, its owner clears the entry first and then looks at the pins. GTF_reading and
// GTF_writing are therefore never written into the entries: the pins say it.
//
// The machine keeps the truth about ports and memory to itself; what stands here is its published copy, and every
// number read from here is checked before it is used.

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "xen/types.hpp"

namespace uvif::xen {

inline constexpr std::uint32_t max_ports = 4096;     ///< of a domain; port 0 is never used
inline constexpr std::uint32_t max_grants = 32768;   ///< of a domain: 64 grant frames of version 1, Xen's default
inline constexpr std::uint32_t reserved_grants = 8;  ///< GNTTAB_NR_RESERVED_ENTRIES
inline constexpr std::uint32_t max_frames = 32768;   ///< 128 MiB a domain
inline constexpr std::uint32_t max_columns = 64;     ///< grant handles that can use one domain's grants at a time

/// GTF_* of xen/grant_table.h.
inline constexpr std::uint16_t grant_type_mask = 3;
inline constexpr std::uint16_t grant_permit_access = 1;
inline constexpr std::uint16_t grant_read_only = 4;

/// grant_entry_v1_t.
struct GrantEntry {
    std::uint16_t flags = 0;
    std::uint16_t domain = 0;
    std::uint32_t frame = 0;
};

enum class PortState : std::uint16_t { free, unbound, interdomain };

/// What a port is connected to. `remote` alone counts while it is unbound.
struct PortBinding {
    PortState state = PortState::free;
    DomainId remote{};
    EventPort remote_port{};
};

/// A domain's memory, from its first octet on, as mapped into this process.
class DomainMemory {
public:
    static constexpr std::size_t words = max_ports / 64;
    static constexpr std::size_t pending_offset = page_size;
    static constexpr std::size_t masked_offset = pending_offset + words * 8;
    static constexpr std::size_t ports_offset = 2 * page_size;
    static constexpr std::size_t port_entry_size = 16;
    static constexpr std::size_t grants_offset = ports_offset + max_ports * port_entry_size;
    static constexpr std::size_t pins_offset = grants_offset + max_grants * sizeof(GrantEntry);
    static constexpr std::size_t column_size = max_grants * sizeof(std::uint32_t);
    static constexpr std::size_t frames_offset = pins_offset + max_columns * column_size;
    static constexpr std::size_t frames_size = max_frames * page_size;
    static constexpr std::size_t size = frames_offset + frames_size;
    static constexpr std::size_t events_size = grants_offset;  ///< what a user of events alone has to map

    DomainMemory() = default;
    explicit DomainMemory(std::byte* base) noexcept : base_(base) {}

    [[nodiscard]] std::atomic_ref<std::uint32_t> alive() const noexcept { return at<std::uint32_t>(0); }
    [[nodiscard]] std::atomic_ref<std::uint64_t> columns() const noexcept { return at<std::uint64_t>(8); }

    [[nodiscard]] std::atomic_ref<std::uint64_t> pending(std::size_t word) const noexcept {
        return at<std::uint64_t>(pending_offset + word * 8);
    }
    [[nodiscard]] std::atomic_ref<std::uint64_t> masked(std::size_t word) const noexcept {
        return at<std::uint64_t>(masked_offset + word * 8);
    }
    [[nodiscard]] std::atomic_ref<std::uint64_t> binding(std::uint32_t port) const noexcept {
        return at<std::uint64_t>(ports_offset + port * port_entry_size);
    }
    /// The number of the handle whose event descriptor a notifier is to signal. Never used twice.
    [[nodiscard]] std::atomic_ref<std::uint32_t> owner(std::uint32_t port) const noexcept {
        return at<std::uint32_t>(ports_offset + port * port_entry_size + 8);
    }
    [[nodiscard]] std::atomic_ref<std::uint64_t> grant(std::uint32_t ref) const noexcept {
        return at<std::uint64_t>(grants_offset + ref * sizeof(GrantEntry));
    }
    /// Readers in the low half, writers in the high half.
    [[nodiscard]] std::atomic_ref<std::uint32_t> pins(std::uint32_t column, std::uint32_t ref) const noexcept {
        return at<std::uint32_t>(pins_offset + column * column_size + ref * sizeof(std::uint32_t));
    }
    [[nodiscard]] std::byte* frame(std::uint32_t number) const noexcept {
        return base_ + frames_offset + std::size_t{number} * page_size;
    }

private:
    template <class T>
    [[nodiscard]] std::atomic_ref<T> at(std::size_t offset) const noexcept {
        return std::atomic_ref<T>(*reinterpret_cast<T*>(base_ + offset));
    }

    std::byte* base_ = nullptr;
};

static_assert(sizeof(GrantEntry) == 8);
static_assert(std::atomic_ref<std::uint64_t>::is_always_lock_free);
static_assert(DomainMemory::frames_offset % page_size == 0 && DomainMemory::pins_offset % page_size == 0);

[[nodiscard]] inline GrantEntry unpack_grant(std::uint64_t raw) noexcept {
    return std::bit_cast<GrantEntry>(raw);
}
[[nodiscard]] inline std::uint64_t pack(GrantEntry entry) noexcept {
    return std::bit_cast<std::uint64_t>(entry);
}

[[nodiscard]] inline PortBinding unpack_binding(std::uint64_t raw) noexcept {
    return {static_cast<PortState>(raw & 0xffff), static_cast<DomainId>((raw >> 16) & 0xffff),
            static_cast<EventPort>(raw >> 32)};
}
[[nodiscard]] inline std::uint64_t pack(const PortBinding& binding) noexcept {
    return std::uint64_t{std::to_underlying(binding.remote_port)} << 32 |
           std::uint64_t{std::to_underlying(binding.remote)} << 16 | std::to_underlying(binding.state);
}

/// A port's bit: which word, and its mask.
[[nodiscard]] inline std::size_t port_word(std::uint32_t port) noexcept {
    return port / 64;
}
[[nodiscard]] inline std::uint64_t port_bit(std::uint32_t port) noexcept {
    return std::uint64_t{1} << (port % 64);
}

/// What the other domains do with a grant right now.
struct GrantUse {
    bool reading = false;
    bool writing = false;
};
[[nodiscard]] inline GrantUse grant_use(const DomainMemory& memory, std::uint32_t ref) noexcept {
    GrantUse use;
    for (std::uint64_t columns = memory.columns().load(); columns != 0; columns &= columns - 1) {
        const auto column = static_cast<std::uint32_t>(std::countr_zero(columns));
        const std::uint32_t pins = memory.pins(column, ref).load();
        use.reading |= pins != 0;
        use.writing |= pins >> 16 != 0;
    }
    return use;
}

/// Ends the access that a grant gives, as a guest's kernel does: false, and the entry stands, while it is in use.
[[nodiscard]] inline bool end_grant_access(const DomainMemory& memory, std::uint32_t ref) noexcept {
    if (grant_use(memory, ref).reading) {
        return false;
    }
    const std::uint64_t entry = memory.grant(ref).exchange(0);
    if (grant_use(memory, ref).reading) {
        // Somebody pinned it between the two looks, and may have seen the entry as it was.
        memory.grant(ref).store(entry);
        return false;
    }
    return true;
}

}  // namespace uvif::xen
