// SPDX-License-Identifier: MIT
#include "port/switch.hpp"

#include <algorithm>

namespace uvif {

namespace {

constexpr std::uint64_t learned_bit = 0x8000;

constexpr std::uint64_t word_of(MacNumber mac, Switch::MemberId id, bool learned) noexcept {
    return mac << 16 | (learned ? learned_bit : 0) | (id + 1U);
}
constexpr MacNumber mac_of(std::uint64_t word) noexcept {
    return word >> 16;
}
constexpr bool is_learned(std::uint64_t word) noexcept {
    return (word & learned_bit) != 0;
}
constexpr Switch::MemberId member_of(std::uint64_t word) noexcept {
    return static_cast<Switch::MemberId>((word & (learned_bit - 1)) - 1);
}

static_assert(limits::switch_members < learned_bit - 1);
static_assert((limits::switch_addresses & (limits::switch_addresses - 1)) == 0, "place() masks");

}  // namespace

MacNumber mac_number(std::span<const std::byte, 6> octets) noexcept {
    MacNumber mac = 0;
    for (const std::byte octet : octets) {
        mac = mac << 8 | std::to_integer<MacNumber>(octet);
    }
    return mac;
}

Switch::Entry& Switch::place(MacNumber mac, std::size_t probe) noexcept {
    // Fibonacci hashing: addresses that are given out in a row differ in their last bits only.
    const std::uint64_t hash = (mac * 0x9e3779b97f4a7c15U) >> 32;
    return (*table_)[(hash + probe) & (limits::switch_addresses - 1)];
}

SwitchMember* Switch::find(MacNumber mac) noexcept {
    for (std::size_t probe = 0; probe < probes; ++probe) {
        const std::uint64_t word = place(mac, probe).word.load(std::memory_order_acquire);
        if (word != 0 && mac_of(word) == mac) {
            return members_[member_of(word)].load(std::memory_order_acquire);
        }
    }
    return nullptr;
}

void Switch::learn(MacNumber mac, MemberId id) noexcept {
    for (std::size_t probe = 0; probe < probes; ++probe) {
        Entry& entry = place(mac, probe);
        const std::uint64_t word = entry.word.load(std::memory_order_acquire);
        if (word != 0 && mac_of(word) == mac) {
            if (member_of(word) == id) {
                if (entry.age.load(std::memory_order_relaxed) != 0) {
                    entry.age.store(0, std::memory_order_relaxed);
                }
                return;
            }
            if (!is_learned(word)) {
                return;  // another member's own
            }
            break;  // it has moved
        }
    }
    SwitchMember* const member = members_[id].load(std::memory_order_acquire);
    if (member == nullptr || member->learned.load(std::memory_order_relaxed) >= limits::switch_learned) {
        return;
    }
    if (const std::unique_lock lock(writing_, std::try_to_lock); lock) {
        enter(mac, id, true);
    }
}

void Switch::seen_outside(MacNumber mac) noexcept {
    if (learned_.load(std::memory_order_relaxed) == 0) {
        return;
    }
    for (std::size_t probe = 0; probe < probes; ++probe) {
        Entry& entry = place(mac, probe);
        const std::uint64_t word = entry.word.load(std::memory_order_relaxed);
        if (word == 0 || mac_of(word) != mac || !is_learned(word)) {
            continue;
        }
        const std::unique_lock lock(writing_, std::try_to_lock);
        if (lock && entry.word.load(std::memory_order_relaxed) == word) {
            forget(entry, word);
        }
        return;
    }
}

/// With the lock. False: no place for it, or it is another's own.
bool Switch::enter(MacNumber mac, MemberId id, bool learned) noexcept {
    SwitchMember* const member = members_[id].load(std::memory_order_relaxed);
    if (member == nullptr) {
        return false;  // it left while its worker was about to learn
    }
    Entry* free = nullptr;
    for (std::size_t probe = 0; probe < probes; ++probe) {
        Entry& entry = place(mac, probe);
        const std::uint64_t word = entry.word.load(std::memory_order_relaxed);
        if (word != 0 && mac_of(word) == mac) {
            if (!is_learned(word)) {
                return false;
            }
            forget(entry, word);
            free = &entry;
            break;
        }
        // A member's own address goes before a learned one.
        if (free == nullptr && (word == 0 || (!learned && is_learned(word)))) {
            free = &entry;
        }
    }
    if (free == nullptr) {
        return false;
    }
    if (const std::uint64_t word = free->word.load(std::memory_order_relaxed); word != 0) {
        forget(*free, word);
    }
    if (learned) {
        member->learned.fetch_add(1, std::memory_order_relaxed);
        learned_.fetch_add(1, std::memory_order_relaxed);
    }
    free->age.store(0, std::memory_order_relaxed);
    free->word.store(word_of(mac, id, learned), std::memory_order_release);
    return true;
}

/// With the lock.
void Switch::forget(Entry& entry, std::uint64_t word) noexcept {
    SwitchMember* const member = members_[member_of(word)].load(std::memory_order_relaxed);
    if (is_learned(word)) {
        learned_.fetch_sub(1, std::memory_order_relaxed);
        member->learned.fetch_sub(1, std::memory_order_relaxed);
    }
    entry.word.store(0, std::memory_order_release);
}

Switch::MemberId Switch::join(SwitchMember& member) noexcept {
    const std::lock_guard lock(writing_);
    const auto place = std::ranges::find_if(members_, [](const auto& m) { return m.load() == nullptr; });
    if (place == members_.end()) {
        return no_member;
    }
    const auto id = static_cast<MemberId>(place - members_.begin());
    place->store(&member, std::memory_order_release);
    if (!enter(member.mac, id, false)) {
        place->store(nullptr, std::memory_order_release);
        return no_member;
    }
    return id;
}

void Switch::leave(MemberId id) noexcept {
    const std::lock_guard lock(writing_);
    for (Entry& entry : *table_) {
        const std::uint64_t word = entry.word.load(std::memory_order_relaxed);
        if (word != 0 && member_of(word) == id) {
            forget(entry, word);
        }
    }
    members_[id].store(nullptr, std::memory_order_release);
}

void Switch::age() noexcept {
    const std::lock_guard lock(writing_);
    for (Entry& entry : *table_) {
        const std::uint64_t word = entry.word.load(std::memory_order_relaxed);
        if (word == 0 || !is_learned(word)) {
            continue;
        }
        if (const auto age = entry.age.load(std::memory_order_relaxed); age < limits::switch_ages) {
            entry.age.store(static_cast<std::uint8_t>(age + 1), std::memory_order_relaxed);
        } else {
            forget(entry, word);
        }
    }
}

}  // namespace uvif
