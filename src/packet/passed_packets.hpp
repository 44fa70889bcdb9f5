// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <utility>

#include "packet/packet.hpp"

namespace uvif {

/// Packets that other queues put in and one takes out, some at a time. Each is to be given back by
/// complete_from_elsewhere.
class PassedPackets {
public:
    /// Any thread. True: the taker may not know yet.
    bool push(Packet* packet) noexcept { return inbox_.push(packet); }

    // The taker's thread.

    [[nodiscard]] bool empty() const noexcept { return arrived_ == nullptr && inbox_.empty(); }

    /// In order; returns how many.
    [[nodiscard]] std::size_t take(std::span<Packet*> packets) noexcept {
        std::size_t count = 0;
        while (count < packets.size()) {
            if (arrived_ == nullptr) {
                arrived_ = inbox_.empty() ? nullptr : inbox_.take_all();
            }
            if (arrived_ == nullptr) {
                break;
            }
            packets[count++] = std::exchange(arrived_, arrived_->next);
        }
        return count;
    }

    /// Gives those back that are still there and that `concerns`.
    void give_back(const std::function<bool(const Packet&)>& concerns) noexcept {
        Packet** link = &arrived_;
        for (int list = 0; list < 2; ++list) {
            while (*link != nullptr) {
                if (Packet* const packet = *link; concerns(*packet)) {
                    *link = packet->next;
                    complete_from_elsewhere(packet);
                } else {
                    link = &packet->next;
                }
            }
            if (list == 0) {
                *link = inbox_.take_all();  // behind those taken before
            }
        }
    }

private:
    PacketInbox inbox_;
    Packet* arrived_ = nullptr;  ///< taken out of it, and not yet by anybody
};

}  // namespace uvif
