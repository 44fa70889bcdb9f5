// SPDX-License-Identifier: MIT
#include "netfront/queue.hpp"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>

namespace uvif::netfront {
namespace {

constexpr std::uint32_t ring_pages = 2;

}  // namespace

Result<std::unique_ptr<Queue::Impl>> Queue::Impl::create(xen::Hypervisor& hypervisor, xen::GrantAllocator& grants,
                                                         const QueueSetup& setup) {
    auto shared = grants.share(setup.backend, ring_pages + setup.rx_buffers, xen::Access::read_write);
    if (!shared) {
        return propagate(shared);
    }
    const unsigned tx_pages_wanted = setup.tx_buffers + TxQueue::header_pages(setup.tx_headers);
    auto tx_pages = grants.share(setup.backend, tx_pages_wanted, xen::Access::read_only);
    if (!tx_pages) {
        return propagate(tx_pages);
    }
    auto events = hypervisor.open_event_channels();
    if (!events) {
        return propagate(events);
    }
    auto tx_port = (*events)->alloc_unbound(setup.backend);
    if (!tx_port) {
        return propagate(tx_port);
    }
    Result<xen::EventPort> rx_port = *tx_port;
    if (setup.split_event_channels) {
        rx_port = (*events)->alloc_unbound(setup.backend);
        if (!rx_port) {
            return propagate(rx_port);
        }
    }
    return std::unique_ptr<Impl>(
        new Impl(std::move(*shared), std::move(*tx_pages), std::move(*events), *tx_port, *rx_port, setup));
}

Queue::Impl::Impl(std::unique_ptr<xen::SharedPages> shared, std::unique_ptr<xen::SharedPages> tx_pages,
                  std::unique_ptr<xen::EventChannels> events, xen::EventPort tx_port, xen::EventPort rx_port,
                  const QueueSetup& setup) noexcept
    : shared_(std::move(shared)),
      tx_pages_(std::move(tx_pages)),
      events_(std::move(events)),
      tx_port_(tx_port),
      rx_port_(rx_port),
      alarm_(setup.alarm),
      tx_(shared_->memory().data(), tx_pages_->memory().data(), tx_pages_->refs(), setup.tx_headers, setup.tx,
          setup.first_index),
      rx_(shared_->memory().data() + xen::page_size, shared_->memory().data() + ring_pages * xen::page_size,
          shared_->refs().subspan(ring_pages), TxQueue::numbers, setup.rx, setup.first_index) {}

void Queue::Impl::disconnect() noexcept {
    events_.reset();
    tx_pages_.reset();
    shared_.reset();
}

void Queue::Impl::stop(const char* breach) noexcept {
    breach_.store(breach, std::memory_order_release);
    // Whoever polls Device::fd() shall hear of it. An eventfd takes this write unless it is readable anyway.
    const std::uint64_t one = 1;
    static_cast<void>(!::write(alarm_, &one, sizeof one));
}

void Queue::Impl::notify(xen::EventPort port) noexcept {
    ++statistics_.notifications;
    // A backend that is gone is the business of the control thread.
    static_cast<void>(events_->notify(port));
}

void Queue::Impl::notify_all() noexcept {
    if (stopped()) {
        return;
    }
    notify(tx_port_);
    if (split()) {
        notify(rx_port_);
    }
}

/// False: there is nothing to be had from this queue any more.
bool Queue::Impl::reap() noexcept {
    if (stopped()) {
        return false;
    }
    if (const char* breach = tx_.reap(statistics_)) {
        stop(breach);
        return false;
    }
    return true;
}

std::size_t Queue::Impl::allocate(std::span<Fragment> buffers, bool whole_pages) noexcept {
    return reap() ? tx_.allocate(buffers, whole_pages) : 0;
}

std::size_t Queue::Impl::allocate_headers(std::span<Fragment> slots) noexcept {
    return reap() ? tx_.allocate_headers(slots) : 0;
}

void Queue::Impl::free(std::span<const Fragment> buffers) noexcept {
    tx_.free(buffers);
}

std::size_t Queue::Impl::send(std::span<const Packet> packets, int& error) noexcept {
    error = ENOTCONN;
    const bool reaps = tx_.room() < packets.size() + max_tx_fragments;
    if (reaps ? !reap() : stopped()) {
        return 0;
    }
    const TxQueue::Sent sent = tx_.send(packets, statistics_);
    if (sent.notify) {
        notify(tx_port_);
    }
    error = sent.error;
    return sent.packets;
}

int Queue::Impl::ask_for_group(ring::ExtraType type, const std::array<std::uint8_t, 6>& group) noexcept {
    if (!reap()) {
        return ENOTCONN;
    }
    bool told = false;
    const int error = tx_.ask_for_group(type, group, told);
    if (told) {
        notify(tx_port_);
    }
    return error;
}

std::size_t Queue::Impl::receive(std::span<Packet> packets) noexcept {
    if (stopped()) {
        return 0;
    }
    const RxQueue::Received received = rx_.receive(packets, statistics_);
    if (received.breach != nullptr) {
        stop(received.breach);
        return 0;
    }
    if (received.notify) {
        notify(rx_port_);
    }
    return received.packets;
}

void Queue::Impl::release(std::span<const Packet> packets) noexcept {
    if (!stopped() && rx_.release(packets)) {
        notify(rx_port_);
    }
}

/// A delivered port is masked until it is unmasked: first this, then the last look at the rings.
void Queue::Impl::take_events() noexcept {
    std::array<xen::EventPort, 2> ports;
    const std::size_t count = events_->pending(ports);
    if (count != 0) {
        statistics_.events += count;
        events_->unmask({ports.data(), count});
    }
}

bool Queue::Impl::arm(bool tx_too) noexcept {
    if (stopped()) {
        return true;  // nothing more comes: Device::fd() tells why
    }
    take_events();
    if (rx_.flush()) {
        notify(rx_port_);
    }
    bool idle = rx_.arm();
    if (tx_too) {
        // Patience saves wakeups. But where the application sits on received buffers, a backend may be waiting for
        // these before it answers the rest: then the first answer must wake us.
        idle = tx_.arm(rx_.lent() == 0) && idle;
    }
    return idle;
}

Queue::Queue(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
Queue::~Queue() = default;

std::size_t Queue::allocate(std::span<Fragment> buffers, bool whole_pages) noexcept {
    return impl_->allocate(buffers, whole_pages);
}

std::size_t Queue::allocate_headers(std::span<Fragment> slots) noexcept {
    return impl_->allocate_headers(slots);
}

void Queue::free(std::span<const Fragment> buffers) noexcept {
    impl_->free(buffers);
}

std::size_t Queue::send(std::span<const Packet> packets, int* error) noexcept {
    int ignored = 0;
    return impl_->send(packets, error != nullptr ? *error : ignored);
}

int Queue::join(const std::array<std::uint8_t, 6>& group) noexcept {
    return impl_->ask_for_group(ring::ExtraType::mcast_add, group);
}

int Queue::leave(const std::array<std::uint8_t, 6>& group) noexcept {
    return impl_->ask_for_group(ring::ExtraType::mcast_del, group);
}

std::size_t Queue::receive(std::span<Packet> packets) noexcept {
    return impl_->receive(packets);
}

void Queue::release(std::span<const Packet> packets) noexcept {
    impl_->release(packets);
}

int Queue::fd() const noexcept {
    return impl_->fd();
}

bool Queue::arm(bool tx_too) noexcept {
    return impl_->arm(tx_too);
}

unsigned Queue::tx_in_flight() const noexcept {
    return impl_->tx_in_flight();
}

QueueStatistics Queue::statistics() const noexcept {
    return impl_->statistics();
}

}  // namespace uvif::netfront
