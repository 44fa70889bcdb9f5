// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "port/vxlan_config.hpp"
#include "runtime/limits.hpp"

// Theory of operation
//
// Where guests' addresses are: static entries, which never change, and learned ones. All queues of a vif look up; only
// the one that receives learns. Nobody waits: an entry has a version that is odd while it is written, and a reader that
// sees it change takes the address for unknown, whose packets go to every remote. That is always right, and only costs.
//
// A learned address has eight places where it may stand. When all are taken, it takes that of the one which was silent
// longest.

namespace uvif {

/// Thread rule: find() any thread; learn() one thread.
class VxlanTable {
public:
    explicit VxlanTable(std::span<const VxlanConfig::Static> entries);

    /// Seconds are of the monotonic clock.
    [[nodiscard]] std::optional<UnderlayAddress> find(const Mac& mac, std::uint32_t now_s) const noexcept;
    /// `mac` sent something from behind `at`. Static entries stay as they are.
    void learn(const Mac& mac, const UnderlayAddress& at, std::uint32_t now_s) noexcept;

private:
    static constexpr std::size_t ways = 8;
    static constexpr std::size_t buckets = limits::vxlan_learned_entries / ways;

    struct Learned {
        std::atomic<std::uint32_t> version{0};
        std::atomic<std::uint32_t> heard_s{0};
        std::atomic<std::uint64_t> key{0};  ///< the MAC address; 0: never used
        std::array<std::atomic<std::uint64_t>, 2> address{};
    };
    using Bucket = std::array<Learned, ways>;

    struct Static {
        std::uint64_t key;
        UnderlayAddress at;
    };

    [[nodiscard]] const UnderlayAddress* find_static(std::uint64_t key) const noexcept;
    [[nodiscard]] static Learned& place_of(Bucket& bucket, std::uint64_t key, std::uint32_t now_s) noexcept;
    [[nodiscard]] static std::size_t bucket_of(std::uint64_t key) noexcept;

    std::vector<Static> static_;  ///< in order of their keys
    std::vector<Bucket> learned_;
};

}  // namespace uvif
