// SPDX-License-Identifier: MIT
//
// Theory of operation
//
// advance() looks at the store, asks xen::frontend_step what is to be done, and does it, until there is nothing to do.
// It never waits: connect() and close() wait around it, and a test may drive it step by step on a machine in its own
// process.
//
// The application may be using the queues in other threads while advance() runs. So when the queues have to end,
// advance() first returns once without having touched them (fd() stays readable), and ends them when it is called
// again.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "netfront/control.hpp"
#include "netfront/device_lock.hpp"
#include "netfront/discovery.hpp"
#include "netfront/keys.hpp"
#include "netfront/queue.hpp"
#include "runtime/unique_fd.hpp"
#include "uvif/netfront.hpp"
#include "xen/hypervisor.hpp"
#include "xen/xenbus.hpp"

namespace uvif::netfront {

/// EINVAL with the name of the setting when one is out of its range.
Result<void> check_config(const Config& config);

class [[gnu::visibility("hidden")]] Device::Impl {
public:
    /// Takes up device `id`: reads what the toolstack wrote, writes Initialising, and leaves the rest to advance().
    /// `hypervisor` outlives the device. `first_index` other than 0 is for tests of index wrap.
    static Result<std::unique_ptr<Impl>> start(xen::Hypervisor& hypervisor, unsigned id, const Config& config,
                                               ring::Index first_index = 0);
    /// Writes Closing and Closed without waiting for anybody.
    ~Impl();
    Impl(const Impl&) = delete;
    Impl& operator=(const Impl&) = delete;

    /// One look at the store, and what follows from it. An error is final: the state is closed then.
    Result<LinkState> advance();

    /// Closes as Linux netfront does: Closing, wait for the backend, Closed, wait for it again, all within
    /// `timeout_ms`.
    void close(int timeout_ms) noexcept;

    /// Keeps things alive as long as the device: the hypervisor it runs on, the lock that says it is held.
    void keep(std::unique_ptr<xen::Hypervisor> hypervisor, DeviceLock lock) noexcept;

    /// Whether the backend turned us down: some time ago it ended a connection that was not up yet, or became Closed
    /// after we began. A moment is granted, for it may only be tidying up after our predecessor; and one that was
    /// Closed before we began may still be started.
    [[nodiscard]] bool refused() const noexcept;
    [[nodiscard]] std::string describe_refusal();

    /// What the backend does instead of connecting, and what to look at: for a wait that took too long.
    [[nodiscard]] std::string describe_wait();

    [[nodiscard]] LinkState state() const noexcept;
    [[nodiscard]] std::string failure() const;
    [[nodiscard]] const std::vector<std::string>& notes() const noexcept { return notes_.all(); }
    [[nodiscard]] int fd() const noexcept { return poll_.get(); }
    [[nodiscard]] unsigned id() const noexcept { return id_; }
    [[nodiscard]] const DeviceInfo& info() const noexcept { return info_; }
    [[nodiscard]] unsigned mtu() const noexcept { return mtu_; }
    [[nodiscard]] const Offer& offer() const noexcept { return offer_; }
    [[nodiscard]] unsigned static_buffers() const noexcept { return static_buffers_; }
    [[nodiscard]] bool persistent_grants() const noexcept { return promises_grants(config_, offer_); }
    Result<void> steer_by_hash(const Hashing& hashing);
    Result<void> filter_multicast(bool on);
    [[nodiscard]] unsigned queue_count() const noexcept { return static_cast<unsigned>(queues_.size()); }
    [[nodiscard]] Queue& queue(unsigned index) noexcept { return *queues_[index]; }

private:
    Impl(xen::Hypervisor& hypervisor, unsigned id, const Config& config, ring::Index first_index) noexcept;

    [[nodiscard]] Result<void> check_connected() const;

    enum class Progress : std::uint8_t { again, wait };

    Result<void> open();
    Result<xen::FrontendView> look();
    Result<Progress> act(const xen::FrontendView& view, const xen::FrontendStep& step);
    Result<LinkState> advance_inner();
    Result<void> build();
    Result<void> look_at_link();
    void add_static_grants();
    void end_queues() noexcept;
    void wake_ourselves() noexcept;
    void drain() noexcept;
    void set_closed(std::string why);

    xen::Hypervisor& hypervisor_;
    std::unique_ptr<xen::Hypervisor> owned_hypervisor_;
    std::optional<DeviceLock> lock_;
    unsigned id_;
    Config config_;
    ring::Index first_index_;
    DeviceInfo info_{};
    unsigned mtu_ = 0;
    Offer offer_;
    Notes notes_;
    UniqueFd alarm_;  // eventfd: a queue found a breach, or the next step waits for a second call
    UniqueFd poll_;   // epoll over the store and the alarm
    std::unique_ptr<xen::Store> store_;
    std::unique_ptr<xen::GrantAllocator> grants_;
    unsigned static_buffers_ = 0;
    std::unique_ptr<Control> control_;  // while connected to a backend that has one
    std::vector<std::unique_ptr<Queue>> queues_;
    std::vector<Queue::Impl*> queue_impls_;  // of queues_
    xen::FrontendView view_{};               // at the last look
    bool attached_ = false;                  // rings are shared and keys written
    bool was_up_ = false;                    // in this connection the backend has been seen Connected
    bool carrier_ = true;
    std::int64_t turned_down_ns_ = 0;   // when a connection first ended before it was up; 0: none did
    std::int64_t closed_since_ns_ = 0;  // when the backend became Closed under our eyes; 0: it is not, or was before
    bool closing_ = false;              // we were asked to close
    bool overdue_ = false;              // and have waited long enough
    bool closed_ = false;
    LinkState told_ = LinkState::connecting;  // what advance() returned last
    std::string failure_;
};

}  // namespace uvif::netfront
