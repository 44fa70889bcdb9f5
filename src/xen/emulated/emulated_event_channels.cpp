// SPDX-License-Identifier: MIT
#include "xen/emulated/emulated_event_channels.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <new>
#include <utility>

namespace uvif::xen {

// Theory of operation
// -------------------
// A port is a bit in the pending and in the masked word of its domain. A notifier sets the pending bit; only if it
// was clear before and the port is not masked does it also write the eventfd of the handle that owns the port.
// The owner, told by its eventfd, masks what is pending, clears it and hands it out; to unmask is to clear the
// masked bit and then to look whether something became pending meanwhile. Notifier and unmasker each write one bit
// and then read the other's, with sequentially consistent operations, so one of the two always sees the other.
//
// A notifier learns the eventfd of the remote owner from the machine once, and again when the owner's number in
// the shared table has changed: a restarted backend binds the same remote port with another descriptor.

Result<std::unique_ptr<EventChannels>> EmulatedEventChannels::create(std::unique_ptr<Hypercalls> hypercalls,
                                                                     std::shared_ptr<FaultPlan> faults) {
    auto channels =
        std::unique_ptr<EmulatedEventChannels>(new EmulatedEventChannels(std::move(hypercalls), std::move(faults)));
    auto fd = channels->hypercalls_->event_fd();
    if (!fd) {
        return propagate(fd);
    }
    auto memory = channels->hypercalls_->memory(channels->hypercalls_->domain());
    if (!memory) {
        return propagate(memory);
    }
    auto events = MemoryMap::map(memory->get(), 0, DomainMemory::events_size, MemoryMap::Protection::read_write);
    if (!events) {
        return propagate(events);
    }
    if (channels->charged_) {
        channels->doorbell_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    }
    channels->event_fd_ = std::move(*fd);
    channels->own_events_ = std::move(*events);
    channels->memory_ = DomainMemory(channels->own_events_.base());
    return channels;
}

EmulatedEventChannels::~EmulatedEventChannels() {
    for (std::uint32_t port = 0; port < peers_.size(); ++port) {
        if (own(port)) {
            unbind(static_cast<EventPort>(port));
        }
    }
}

Result<std::shared_ptr<const MemoryMap>> EmulatedEventChannels::events_of(DomainId domain) {
    std::erase_if(mapped_, [](const auto& entry) { return entry.second.expired(); });
    if (const auto known = mapped_.find(std::to_underlying(domain)); known != mapped_.end()) {
        return known->second.lock();
    }
    auto memory = hypercalls_->memory(domain);
    if (!memory) {
        return propagate(memory);
    }
    auto map = MemoryMap::map(memory->get(), 0, DomainMemory::events_size, MemoryMap::Protection::read_write);
    if (!map) {
        return propagate(map);
    }
    auto events = std::make_shared<const MemoryMap>(std::move(*map));
    mapped_.emplace(std::to_underlying(domain), events);
    return events;
}

Result<EventPort> EmulatedEventChannels::adopt(Result<EventPort> port, std::shared_ptr<const MemoryMap> events) {
    if (!port) {
        return port;
    }
    const std::uint32_t number = std::to_underlying(*port);
    if (number >= max_ports) {
        return fail(EPROTO, "the emulated hypervisor bound a port that does not exist");
    }
    if (peers_.size() <= number) {
        peers_.resize(number + 1);
    }
    peers_[number] = Peer{std::move(events), {}, 0};
    own_[port_word(number)] |= port_bit(number);
    return port;
}

Result<EventPort> EmulatedEventChannels::bind_interdomain(DomainId remote, EventPort remote_port) {
    if (const int fault = faults_->check(Operation::bind); fault != 0) {
        return fail(fault, "binding an event channel failed as the fault plan wants it");
    }
    auto events = events_of(remote);
    if (!events) {
        return propagate(events);
    }
    return adopt(hypercalls_->bind_interdomain(remote, remote_port), std::move(*events));
}

Result<EventPort> EmulatedEventChannels::alloc_unbound(DomainId remote) {
    if (const int fault = faults_->check(Operation::alloc_unbound); fault != 0) {
        return fail(fault, "allocating an event channel failed as the fault plan wants it");
    }
    auto events = events_of(remote);
    if (!events) {
        return propagate(events);
    }
    return adopt(hypercalls_->alloc_unbound(remote), std::move(*events));
}

void EmulatedEventChannels::unbind(EventPort port) noexcept {
    const std::uint32_t number = std::to_underlying(port);
    if (!own(number)) {
        return;
    }
    own_[port_word(number)] &= ~port_bit(number);
    peers_[number] = Peer{};
    hypercalls_->unbind(port);
}

int EmulatedEventChannels::notify(EventPort port) noexcept {
    if (const int fault = faults_->check(Operation::notify); fault != 0) {
        return fault;
    }
    const std::uint32_t number = std::to_underlying(port);
    if (!own(number)) {
        return ENOTCONN;
    }
    const PortBinding binding = unpack_binding(memory_.binding(number).load(std::memory_order_acquire));
    const std::uint32_t remote_port = std::to_underlying(binding.remote_port);
    if (binding.state != PortState::interdomain || remote_port >= max_ports) {
        return 0;  // Xen drops silently what is sent to a port whose other end has gone.
    }
    Peer& peer = peers_[number];
    const DomainMemory remote(peer.events->base());
    const std::size_t word = port_word(remote_port);
    const std::uint64_t bit = port_bit(remote_port);
    const bool wakes = (remote.pending(word).fetch_or(bit) & bit) == 0 && (remote.masked(word).load() & bit) == 0;
    if (!wakes) {
        if (charged_) {
            signal(doorbell_);
        }
        return 0;
    }
    if (peer.owner != remote.owner(remote_port).load(std::memory_order_acquire) && !refresh(port, peer)) {
        return 0;
    }
    signal(peer.fd);
    return 0;
}

bool EmulatedEventChannels::refresh(EventPort port, Peer& peer) noexcept {
    try {
        auto target = hypercalls_->event_target(port);
        if (!target) {
            return false;
        }
        peer.fd = std::move(target->fd);
        peer.owner = target->owner;
        return true;
    } catch (const std::bad_alloc&) {
        return false;
    }
}

void EmulatedEventChannels::signal(const UniqueFd& fd) noexcept {
    // Fails only when the counter is full, and then the descriptor is readable anyway.
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(fd.get(), &one, sizeof one);
}

std::size_t EmulatedEventChannels::pending(std::span<EventPort> ports) noexcept {
    std::uint64_t signals = 0;
    [[maybe_unused]] const ssize_t read = ::read(event_fd_.get(), &signals, sizeof signals);

    std::size_t count = 0;
    for (std::size_t i = 0; i < DomainMemory::words; ++i) {
        const std::size_t word = (scan_from_ + i) % DomainMemory::words;
        if (own_[word] == 0) {
            continue;
        }
        std::uint64_t ready = memory_.pending(word).load() & ~memory_.masked(word).load() & own_[word];
        for (; ready != 0 && count < ports.size(); ready &= ready - 1) {
            const std::uint64_t bit = ready & -ready;
            memory_.masked(word).fetch_or(bit);
            memory_.pending(word).fetch_and(~bit);
            ports[count++] = static_cast<EventPort>(word * 64 + static_cast<std::size_t>(std::countr_zero(bit)));
        }
        if (ready != 0) {
            // No room for the rest: it stays deliverable, and comes first the next time.
            scan_from_ = word;
            signal(event_fd_);
            break;
        }
    }
    return count;
}

void EmulatedEventChannels::unmask(std::span<const EventPort> ports) noexcept {
    bool ready = false;
    for (const EventPort port : ports) {
        const std::uint32_t number = std::to_underlying(port);
        if (!own(number)) {
            continue;
        }
        memory_.masked(port_word(number)).fetch_and(~port_bit(number));
        ready |= (memory_.pending(port_word(number)).load() & port_bit(number)) != 0;
    }
    if (ready) {
        signal(event_fd_);
    }
}

}  // namespace uvif::xen
