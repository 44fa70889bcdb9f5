// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "packet/packet.hpp"
#include "unit/packet/frames.hpp"

namespace uvif {

/// Packets with memory of their own, and the queue that they come home to.
class Packets {
public:
    /// A packet to submit, cut into pieces after `cuts` octets.
    Packet* make(const frames::Octets& octets, const Offload& offload = {}, std::vector<std::size_t> cuts = {}) {
        Packet* packet = add(octets);
        packet->offload = offload;
        packet->length = static_cast<std::uint32_t>(octets.size());
        std::byte* data = memory_.back().data();
        std::size_t from = 0;
        cuts.push_back(octets.size());
        for (const std::size_t to : cuts) {
            packet->fragments[packet->fragment_count++] = {data + from, static_cast<std::uint32_t>(to - from)};
            from = to;
        }
        return packet;
    }

    /// Room for a packet to receive.
    Packet* room(std::uint32_t octets = 65536) {
        Packet* packet = add(frames::Octets(octets, std::byte{0xee}));
        packet->fragment_count = 1;
        packet->fragments[0] = {memory_.back().data(), octets};
        return packet;
    }

    std::span<Packet*> rooms(std::size_t count) {
        std::vector<Packet*>& result = rooms_.emplace_back(count);
        std::generate(result.begin(), result.end(), [this] { return room(); });
        return result;
    }

    /// Ids of the packets that came home since the last call, in order.
    std::vector<std::uint32_t> completed() {
        std::vector<std::uint32_t> result;
        for (Packet* packet = home_.take_all(); packet != nullptr; packet = packet->next) {
            result.push_back(packet->id);
            packet->owed = true;  // it may be submitted again
        }
        return result;
    }

private:
    Packet* add(frames::Octets octets) {
        memory_.push_back(std::move(octets));
        packets_.push_back(std::make_unique<Packet>());
        Packet* packet = packets_.back().get();
        packet->home = &home_;
        packet->id = static_cast<std::uint32_t>(packets_.size() - 1);
        return packet;
    }

    std::vector<frames::Octets> memory_;
    std::vector<std::unique_ptr<Packet>> packets_;
    std::deque<std::vector<Packet*>> rooms_;
    CompletionQueue home_;
};

inline frames::Octets octets_of(const Packet& packet) {
    frames::Octets result;
    for (const Fragment& piece : packet.pieces()) {
        result.insert(result.end(), piece.data, piece.data + piece.length);
    }
    return result;
}

}  // namespace uvif
