// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <vector>

#include "netfront/rx.hpp"
#include "netfront/tx.hpp"
#include "uvif/netfront.hpp"
#include "xen/hypervisor.hpp"

namespace uvif::netfront {

/// How a queue is to be built.
struct QueueSetup {
    xen::DomainId backend;
    unsigned tx_buffers;
    unsigned tx_headers;
    unsigned rx_buffers;
    bool split_event_channels;
    TxFeatures tx;
    RxFeatures rx;
    ring::Index first_index;
    int alarm;  ///< eventfd that a queue writes to when it finds a breach; outlives the queue
};

/// Rings, buffers and event channels of one queue pair. The rings and RX buffers are shared writable, the
/// TX buffers and the header area read-only. The stop reason is the one thing that two threads share.
class [[gnu::visibility("hidden")]] Queue::Impl {
public:
    static Result<std::unique_ptr<Impl>> create(xen::Hypervisor& hypervisor, xen::GrantAllocator& grants,
                                                const QueueSetup& setup);

    std::size_t allocate(std::span<Fragment> buffers, bool whole_pages) noexcept;
    std::size_t allocate_headers(std::span<Fragment> slots) noexcept;
    void free(std::span<const Fragment> buffers) noexcept;
    std::size_t send(std::span<const Packet> packets, int& error) noexcept;
    int ask_for_group(ring::ExtraType type, const std::array<std::uint8_t, 6>& group) noexcept;
    std::size_t receive(std::span<Packet> packets) noexcept;
    void release(std::span<const Packet> packets) noexcept;
    bool arm(bool tx_too) noexcept;

    [[nodiscard]] int fd() const noexcept { return events_ ? events_->fd() : -1; }
    [[nodiscard]] unsigned tx_in_flight() const noexcept { return tx_.in_flight(); }
    [[nodiscard]] const QueueStatistics& statistics() const noexcept { return statistics_; }

    /// Ends the queue and gives its pages and ports back. The object stays, and moves nothing.
    void disconnect() noexcept;
    /// One event to each channel: what a frontend sends when the connection stands.
    void notify_all() noexcept;

    /// How the backend broke the protocol, or nullptr. May be called from the control thread.
    [[nodiscard]] const char* breach() const noexcept { return breach_.load(std::memory_order_acquire); }

    [[nodiscard]] xen::GrantRef tx_ring_ref() const noexcept { return shared_->refs()[0]; }
    [[nodiscard]] xen::GrantRef rx_ring_ref() const noexcept { return shared_->refs()[1]; }
    [[nodiscard]] std::span<const xen::GrantRef> tx_refs() const noexcept { return tx_pages_->refs(); }
    [[nodiscard]] std::span<const xen::GrantRef> rx_refs() const noexcept { return shared_->refs().subspan(2); }
    [[nodiscard]] bool split() const noexcept { return tx_port_ != rx_port_; }
    [[nodiscard]] xen::EventPort tx_port() const noexcept { return tx_port_; }
    [[nodiscard]] xen::EventPort rx_port() const noexcept { return rx_port_; }

private:
    Impl(std::unique_ptr<xen::SharedPages> shared, std::unique_ptr<xen::SharedPages> tx_pages,
         std::unique_ptr<xen::EventChannels> events, xen::EventPort tx_port, xen::EventPort rx_port,
         const QueueSetup& setup) noexcept;

    [[nodiscard]] bool reap() noexcept;
    [[nodiscard]] bool stopped() const noexcept { return breach() != nullptr || events_ == nullptr; }
    void stop(const char* breach) noexcept;
    void notify(xen::EventPort port) noexcept;
    void take_events() noexcept;

    std::unique_ptr<xen::SharedPages> shared_;    // TX ring, RX ring, RX buffers
    std::unique_ptr<xen::SharedPages> tx_pages_;  // TX buffers, header slots
    std::unique_ptr<xen::EventChannels> events_;
    xen::EventPort tx_port_;
    xen::EventPort rx_port_;  // the same as tx_port_ when not split
    int alarm_;
    std::atomic<const char*> breach_ = nullptr;
    QueueStatistics statistics_;
    TxQueue tx_;
    RxQueue rx_;
};

}  // namespace uvif::netfront
