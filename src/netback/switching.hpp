// SPDX-License-Identifier: MIT
//
// The daemon's switches, one for each bridge, and who sits at them (port/switch.hpp). A vif takes a seat before its
// queues are made, joins when they are, and leaves before they go.
//
// Leaving has an order, because packets of its queues are with others and the other way round: nobody finds it any
// more; its queues stop; every other queue, on its own worker, gives back what it has of them (and its worker has by
// then ended the turn in which it may still have found them); its queues give back what they have of others. Then
// every packet is at home.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "netback/queue_pair.hpp"
#include "port/switch.hpp"
#include "port/switch_port.hpp"
#include "runtime/worker.hpp"

namespace uvif::netback {

/// A vif's queue and the worker that runs it.
struct PlacedQueue {
    Worker* worker;
    std::unique_ptr<QueuePair> queue;
};

/// Thread rule: the control thread.
class Switching {
    struct Group {
        Switch table;
        std::vector<const std::vector<PlacedQueue>*> queues;  ///< of each member
    };

public:
    /// What one vif has of a switch.
    class Seat {
    public:
        /// `queues`: the vif's, whenever asked.
        Seat(std::shared_ptr<Group> group, MacNumber mac, const SwitchFeatures& features,
             const std::vector<PlacedQueue>& queues);
        Seat(const Seat&) = delete;
        Seat& operator=(const Seat&) = delete;
        /// Its queues are gone.
        ~Seat() = default;

        /// Puts a queue's port behind the switch.
        [[nodiscard]] std::unique_ptr<Port> wrap(std::unique_ptr<Port> port, Waker& waker);
        /// The worker that serves most of the others' queues of this number: packets that stay on a thread wake
        /// nobody. nullptr: none does, or it has half as much again as its share of all queues.
        [[nodiscard]] Worker* companion(std::size_t index, std::span<const std::unique_ptr<Worker>> workers) const;
        /// Whether what the guest sends from another address than its own is dropped. At any time.
        void set_own_address_only(bool only) noexcept { member_.own_address_only = only; }
        /// Whether the vif speaks only with those that are not isolated. At any time.
        void set_isolated(bool isolated) noexcept { member_.isolated = isolated; }

        /// All queues are there. False: the switch is full, or has the vif's address; all goes by the bridge then.
        [[nodiscard]] bool join();
        /// Afterwards the queues can go.
        void leave();

    private:
        std::shared_ptr<Group> group_;
        SwitchMember member_;
        std::atomic<Switch::MemberId> id_ = Switch::no_member;
        const std::vector<PlacedQueue>& queues_;
        bool listed_ = false;
    };

    [[nodiscard]] std::unique_ptr<Seat> seat(const std::string& bridge, MacNumber mac, const SwitchFeatures& features,
                                             const std::vector<PlacedQueue>& queues);
    /// Called every few seconds.
    void age() noexcept;

private:
    std::map<std::string, std::weak_ptr<Group>> groups_;
};

}  // namespace uvif::netback
