// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "packet/packet.hpp"
#include "runtime/limits.hpp"

// Theory of operation
//
// A packet whose payload is sent from where it stands is in use by each message that has some of it: while the message
// waits to be sent, and then until the kernel has said that it is done with it. When the last use ends, the packet is
// completed. It counts as copied when the kernel copied any of it.

namespace uvif {

/// Packets whose pages messages are made of. Thread rule: one thread.
class LentPackets {
public:
    static constexpr std::size_t packets_max = limits::pinned_slots_per_queue;
    /// Of one message: each has two of its pieces at least.
    static constexpr std::size_t message_packets_max = 8;

    using Place = std::uint8_t;

    /// Those that a message has some of.
    struct List {
        std::array<Place, message_packets_max> places{};
        std::uint8_t count = 0;

        [[nodiscard]] std::span<const Place> all() const noexcept { return std::span(places).first(count); }
    };

    LentPackets() noexcept {
        for (std::size_t i = 0; i < packets_max; ++i) {
            free_[i] = static_cast<Place>(packets_max - 1 - i);
        }
    }

    /// Room for another packet.
    [[nodiscard]] bool has_room() const noexcept { return free_count_ != 0; }

    /// A packet that messages will have some of: what to name it by until it is done with. There is room for it.
    [[nodiscard]] Place enter(Packet* packet) noexcept {
        const Place at = free_[--free_count_];
        packets_[at] = {packet, 0, false};
        return at;
    }

    /// A message that has `list` has some of it, too. Packets are added one after the other.
    void use(Place at, List& list) noexcept {
        if (list.count == 0 || list.places[list.count - 1U] != at) {
            list.places[list.count++] = at;
            ++packets_[at].uses;
        }
    }

    /// The message is done with.
    void release(List& list, bool copied) noexcept {
        for (const Place at : list.all()) {
            Lent& place = packets_[at];
            place.copied |= copied;
            if (--place.uses == 0) {
                place.packet->copied = place.copied;
                complete(place.packet);
                free_[free_count_++] = at;
            }
        }
        list.count = 0;
    }

private:
    struct Lent {
        Packet* packet = nullptr;
        std::uint16_t uses = 0;
        bool copied = false;
    };

    std::array<Lent, packets_max> packets_{};
    std::array<Place, packets_max> free_;
    std::size_t free_count_ = packets_max;
};

}  // namespace uvif
