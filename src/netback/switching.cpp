// SPDX-License-Identifier: MIT
#include "netback/switching.hpp"

#include <algorithm>
#include <set>
#include <utility>

namespace uvif::netback {

std::unique_ptr<Switching::Seat> Switching::seat(const std::string& bridge, MacNumber mac,
                                                 const SwitchFeatures& features,
                                                 const std::vector<PlacedQueue>& queues) {
    std::shared_ptr<Group> group = groups_[bridge].lock();
    if (group == nullptr) {
        group = std::make_shared<Group>();
        groups_[bridge] = group;
    }
    return std::make_unique<Seat>(std::move(group), mac, features, queues);
}

void Switching::age() noexcept {
    std::erase_if(groups_, [](const auto& named) { return named.second.expired(); });
    for (const auto& [name, group] : groups_) {
        group.lock()->table.age();
    }
}

Switching::Seat::Seat(std::shared_ptr<Group> group, MacNumber mac, const SwitchFeatures& features,
                      const std::vector<PlacedQueue>& queues)
    : group_(std::move(group)), queues_(queues) {
    member_.mac = mac;
    member_.features = features;
}

std::unique_ptr<Port> Switching::Seat::wrap(std::unique_ptr<Port> port, Waker& waker) {
    auto wrapped = std::make_unique<SwitchPort>(
        std::move(port), SwitchPort::Seat{group_->table, member_, member_.ports.size(), id_}, waker);
    member_.ports.push_back(wrapped.get());
    return wrapped;
}

Worker* Switching::Seat::companion(std::size_t index, std::span<const std::unique_ptr<Worker>> workers) const {
    Worker* best = nullptr;
    std::ptrdiff_t most = 0;
    std::size_t load = 1;
    for (const auto& worker : workers) {
        load += worker->load;
        const std::ptrdiff_t here = std::ranges::count_if(group_->queues, [&](const auto* queues) {
            return index < queues->size() && (*queues)[index].worker == worker.get();
        });
        if (here > most) {
            most = here;
            best = worker.get();
        }
    }
    const std::size_t at_most = 1 + 3 * load / (2 * workers.size());
    return best != nullptr && best->load < at_most ? best : nullptr;
}

bool Switching::Seat::join() {
    const Switch::MemberId id = group_->table.join(member_);
    if (id == Switch::no_member) {
        return false;
    }
    group_->queues.push_back(&queues_);
    listed_ = true;
    id_.store(id, std::memory_order_release);
    return true;
}

void Switching::Seat::leave() {
    const Switch::MemberId id = id_.exchange(Switch::no_member);
    if (id != Switch::no_member) {
        group_->table.leave(id);
    }
    if (!std::exchange(listed_, false)) {
        return;
    }
    std::erase(group_->queues, &queues_);
    std::set<const CompletionQueue*> homes;
    for (const PlacedQueue& ours : queues_) {
        ours.worker->run([&ours] { ours.queue->disable(); });
        homes.insert(&ours.queue->home());
    }
    const auto is_ours = [&homes](const Packet& packet) { return homes.contains(packet.home); };
    std::set<Worker*> workers;
    for (const auto* others : group_->queues) {
        for (const PlacedQueue& other : *others) {
            workers.insert(other.worker);
        }
    }
    for (Worker* worker : workers) {
        worker->run([&] {
            for (const auto* others : group_->queues) {
                for (const PlacedQueue& other : *others) {
                    if (other.worker == worker) {
                        other.queue->give_back(is_ours);
                    }
                }
            }
        });
    }
    for (const PlacedQueue& ours : queues_) {
        ours.worker->run([&ours] { ours.queue->give_back([](const Packet&) { return true; }); });
    }
}

}  // namespace uvif::netback
