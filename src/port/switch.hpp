// SPDX-License-Identifier: MIT
//
// Theory of operation
//
// A switch knows which of its members (vifs of one bridge) has which MAC address. The frame of one member for another
// is handed over directly, with the sender's pages: one copy by the hypervisor, from guest to guest. All else (other
// addresses, multicast, what the receiver cannot take) goes by the sender's own port to the bridge, as without a
// switch. So there is nothing to flood and no uplink: the bridge has both.
//
// The table is a fixed array of words that hold an address and a member each, looked up by every worker without a
// lock. A member's own address is there from the start and cannot be taken by another; further ones (a guest that
// bridges) are learned from what it sends, up to a limit, and forgotten when they have not sent for a while or are seen
// behind the bridge: as there, who sends last has the address.
//
// Members come and go on the control thread. A worker may go on using what it found until its turn ends, so a member
// that left is destroyed only after every worker has been seen between two turns.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "runtime/limits.hpp"

namespace uvif {

class SwitchPort;

/// A MAC address in the low 48 bits, the first octet highest.
using MacNumber = std::uint64_t;
[[nodiscard]] MacNumber mac_number(std::span<const std::byte, 6> octets) noexcept;

/// What one vif takes from others without the help of a network stack.
struct SwitchFeatures {
    std::uint32_t frame_max = 1514;  ///< octets, Ethernet header included, of a frame that is no TCP segments to be
    bool scatter_gather = false;     ///< frames above one page
    bool checksum_v4 = false;        ///< blank checksums
    bool checksum_v6 = false;
    bool gso_v4 = false;  ///< TCP segments to be
    bool gso_v6 = false;
};

/// One vif of a switch.
struct SwitchMember {
    MacNumber mac = 0;
    SwitchFeatures features;
    std::vector<SwitchPort*> ports;  ///< one a queue; a flow keeps to one of them
    std::atomic<std::uint32_t> learned = 0;
    std::atomic<bool> own_address_only = false;  ///< what it sends from another address is dropped (anti-spoofing)
    std::atomic<bool> isolated = false;          ///< nothing is passed on between two that are
};

class Switch {
public:
    using MemberId = std::uint16_t;  ///< below limits::switch_members
    static constexpr MemberId no_member = 0xffff;

    Switch() : table_(std::make_unique<std::array<Entry, limits::switch_addresses>>()) {}
    Switch(const Switch&) = delete;
    Switch& operator=(const Switch&) = delete;
    ~Switch() = default;

    // The control thread.

    /// no_member: the switch is full; or its address is another member's.
    [[nodiscard]] MemberId join(SwitchMember& member) noexcept;
    /// Nobody finds it any more. It has to stay until all workers have ended their turns.
    void leave(MemberId id) noexcept;
    /// Called now and then: forgets learned addresses that have sent nothing for limits::switch_ages such calls.
    void age() noexcept;

    // Any thread.

    /// The member that has the address; nullptr when none has.
    [[nodiscard]] SwitchMember* find(MacNumber mac) noexcept;
    /// `id` sent from this address.
    void learn(MacNumber mac, MemberId id) noexcept;
    /// A frame came from this address by the bridge.
    void seen_outside(MacNumber mac) noexcept;

private:
    /// `word` is 0 for a free entry, else the address, the member's number plus 1, and whether it was learned.
    struct Entry {
        std::atomic<std::uint64_t> word = 0;
        std::atomic<std::uint8_t> age = 0;
    };
    static constexpr std::size_t probes = 16;  ///< places where an address may be

    [[nodiscard]] Entry& place(MacNumber mac, std::size_t probe) noexcept;
    bool enter(MacNumber mac, MemberId id, bool learned) noexcept;
    void forget(Entry& entry, std::uint64_t word) noexcept;

    std::unique_ptr<std::array<Entry, limits::switch_addresses>> table_;
    std::array<std::atomic<SwitchMember*>, limits::switch_members> members_{};
    std::atomic<std::uint32_t> learned_ = 0;  ///< entries, of all members
    std::mutex writing_;                      ///< of the table: a worker that finds it taken learns another time
};

}  // namespace uvif
