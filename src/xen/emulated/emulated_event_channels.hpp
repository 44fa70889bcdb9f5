// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "uvif/error.hpp"
#include "xen/emulated/fault_plan.hpp"
#include "xen/emulated/hypercalls.hpp"
#include "xen/emulated/layout.hpp"
#include "xen/event_channels.hpp"

namespace uvif::xen {

class EmulatedEventChannels final : public EventChannels {
public:
    static Result<std::unique_ptr<EventChannels>> create(std::unique_ptr<Hypercalls> hypercalls,
                                                         std::shared_ptr<FaultPlan> faults);
    ~EmulatedEventChannels() override;

    [[nodiscard]] int fd() const noexcept override { return event_fd_.get(); }
    Result<EventPort> bind_interdomain(DomainId remote, EventPort remote_port) override;
    Result<EventPort> alloc_unbound(DomainId remote) override;
    void unbind(EventPort port) noexcept override;
    int notify(EventPort port) noexcept override;
    std::size_t pending(std::span<EventPort> ports) noexcept override;
    void unmask(std::span<const EventPort> ports) noexcept override;

private:
    /// What a notifier needs to know about the other end of a port.
    struct Peer {
        std::shared_ptr<const MemoryMap> events;  ///< the event part of the remote domain's memory
        UniqueFd fd;                              ///< the eventfd of `owner`
        std::uint32_t owner = 0;
    };

    explicit EmulatedEventChannels(std::unique_ptr<Hypercalls> hypercalls, std::shared_ptr<FaultPlan> faults)
        : hypercalls_(std::move(hypercalls)), faults_(std::move(faults)), charged_(hypercalls_->charged()) {}

    [[nodiscard]] bool own(std::uint32_t port) const noexcept {
        return port < max_ports && (own_[port_word(port)] & port_bit(port)) != 0;
    }
    Result<std::shared_ptr<const MemoryMap>> events_of(DomainId domain);
    Result<EventPort> adopt(Result<EventPort> port, std::shared_ptr<const MemoryMap> events);
    bool refresh(EventPort port, Peer& peer) noexcept;
    static void signal(const UniqueFd& fd) noexcept;

    std::unique_ptr<Hypercalls> hypercalls_;
    std::shared_ptr<FaultPlan> faults_;
    bool charged_;

    UniqueFd event_fd_;
    UniqueFd doorbell_;  ///< charged mode: written when a notification wakes nobody
    MemoryMap own_events_;
    DomainMemory memory_;
    std::array<std::uint64_t, DomainMemory::words> own_{};
    std::size_t scan_from_ = 0;
    std::vector<Peer> peers_;  ///< by port
    std::unordered_map<std::uint16_t, std::weak_ptr<const MemoryMap>> mapped_;
};

}  // namespace uvif::xen
