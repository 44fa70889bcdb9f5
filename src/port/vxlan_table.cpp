// SPDX-License-Identifier: MIT
#include "port/vxlan_table.hpp"

#include <algorithm>
#include <cstring>

namespace uvif {

namespace {

using Words = std::array<std::uint64_t, 2>;

/// A MAC address as a number. 0 is no machine's.
std::uint64_t key_of(const Mac& mac) noexcept {
    std::uint64_t key = 0;
    for (const std::uint8_t octet : mac) {
        key = key << 8 | octet;
    }
    return key;
}

/// The clock of whoever looks may be a little behind that of whoever heard.
bool is_fresh(std::uint32_t heard_s, std::uint32_t now_s) noexcept {
    return static_cast<std::int32_t>(now_s - heard_s) < static_cast<std::int32_t>(limits::vxlan_age_s);
}

}  // namespace

VxlanTable::VxlanTable(std::span<const VxlanConfig::Static> entries) : learned_(buckets) {
    for (const VxlanConfig::Static& entry : entries) {
        static_.push_back({key_of(entry.mac), entry.at});
    }
    std::sort(static_.begin(), static_.end(), [](const Static& a, const Static& b) { return a.key < b.key; });
}

const UnderlayAddress* VxlanTable::find_static(std::uint64_t key) const noexcept {
    const auto found = std::lower_bound(static_.begin(), static_.end(), key,
                                        [](const Static& entry, std::uint64_t wanted) { return entry.key < wanted; });
    return found != static_.end() && found->key == key ? &found->at : nullptr;
}

std::size_t VxlanTable::bucket_of(std::uint64_t key) noexcept {
    constexpr std::uint64_t golden = 0x9e3779b97f4a7c15;  // 2^64 / golden ratio: neighbouring addresses are spread
    return static_cast<std::size_t>((key * golden) >> 32) % buckets;
}

std::optional<UnderlayAddress> VxlanTable::find(const Mac& mac, std::uint32_t now_s) const noexcept {
    const std::uint64_t key = key_of(mac);
    if (const UnderlayAddress* at = find_static(key)) {
        return *at;
    }
    for (const Learned& entry : learned_[bucket_of(key)]) {
        const std::uint32_t version = entry.version.load(std::memory_order_acquire);
        if (entry.key.load(std::memory_order_acquire) != key) {
            continue;
        }
        const Words words{entry.address[0].load(std::memory_order_acquire),
                          entry.address[1].load(std::memory_order_acquire)};
        const std::uint32_t heard_s = entry.heard_s.load(std::memory_order_acquire);
        const bool whole = version % 2 == 0 && entry.version.load(std::memory_order_relaxed) == version;
        if (key == 0 || !whole || !is_fresh(heard_s, now_s)) {
            return std::nullopt;
        }
        UnderlayAddress at;
        std::memcpy(at.octets.data(), words.data(), sizeof words);
        return at;
    }
    return std::nullopt;
}

/// Where the address stands, or is to stand.
VxlanTable::Learned& VxlanTable::place_of(Bucket& bucket, std::uint64_t key, std::uint32_t now_s) noexcept {
    Learned* place = bucket.data();
    std::uint32_t longest = 0;
    for (Learned& entry : bucket) {
        const std::uint64_t holder = entry.key.load(std::memory_order_relaxed);
        if (holder == key) {
            return entry;
        }
        const std::uint32_t silent = holder == 0 ? ~0U : now_s - entry.heard_s.load(std::memory_order_relaxed);
        if (silent > longest) {
            place = &entry;
            longest = silent;
        }
    }
    return *place;
}

void VxlanTable::learn(const Mac& mac, const UnderlayAddress& at, std::uint32_t now_s) noexcept {
    const std::uint64_t key = key_of(mac);
    const bool for_many = (mac[0] & 1) != 0;
    if (key == 0 || for_many || find_static(key) != nullptr) {
        return;
    }
    Words words;
    std::memcpy(words.data(), at.octets.data(), sizeof words);
    Learned& place = place_of(learned_[bucket_of(key)], key, now_s);
    const bool same = place.key.load(std::memory_order_relaxed) == key &&
                      place.address[0].load(std::memory_order_relaxed) == words[0] &&
                      place.address[1].load(std::memory_order_relaxed) == words[1];
    if (same) {
        // Written once a second at most: readers keep the line in their caches.
        if (place.heard_s.load(std::memory_order_relaxed) != now_s) {
            place.heard_s.store(now_s, std::memory_order_relaxed);
        }
        return;
    }
    const std::uint32_t version = place.version.load(std::memory_order_relaxed);
    place.version.store(version + 1, std::memory_order_relaxed);
    // Whoever sees one of these sees the odd version, too.
    place.key.store(key, std::memory_order_release);
    place.address[0].store(words[0], std::memory_order_release);
    place.address[1].store(words[1], std::memory_order_release);
    place.heard_s.store(now_s, std::memory_order_release);
    place.version.store(version + 2, std::memory_order_release);
}

}  // namespace uvif
