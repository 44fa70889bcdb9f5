// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "netback/control_ring.hpp"
#include "netback/gref_control.hpp"
#include "netback/hash_control.hpp"
#include "netback/identity.hpp"
#include "netback/queue_journal.hpp"
#include "netback/queue_pair.hpp"
#include "netback/settings.hpp"
#include "netback/statistics.hpp"
#include "netback/switching.hpp"
#include "netback/vif_keys.hpp"
#include "port/tap.hpp"
#include "port/vxlan_endpoint.hpp"
#include "runtime/log.hpp"
#include "runtime/worker.hpp"
#include "xen/store.hpp"
#include "xen/xenbus.hpp"

namespace uvif::netback {

/// The one place at the VXLAN port, and who is in it.
struct TunnelPlace {
    std::string taken_by;               ///< name of a vif; empty: free
    std::int64_t patient_until_ns = 0;  ///< as VxlanEndpoint::open
};

/// What every vif works with.
struct Surroundings {
    xen::Store& store;
    std::span<const std::unique_ptr<Worker>> workers;
    const Settings& settings;
    Switching& switching;
    TunnelPlace& tunnel;
    xen::GrantTable& grants;     ///< the control thread's own handles
    xen::EventChannels& events;  ///< for control rings
    const JournalFolder& journals;
    PageBudget& static_budget;
    /// Called on a worker's thread when a guest broke the protocol on the given connection.
    std::function<void(VifId, std::uint64_t connection, Rogue)> on_rogue;
    /// The same when a queue's guest takes no packets any more, or does again.
    std::function<void(VifId, std::uint64_t connection, bool stalled)> on_stalled;
};

/// One guest interface: its xenbus state machine, its interface on the host, its queues.
/// Thread rule: the control thread; queues are reached by running functions on their workers.
class Vif final : private StaticUsers {
public:
    Vif(const Surroundings& surroundings, VifId id);
    Vif(const Vif&) = delete;
    Vif& operator=(const Vif&) = delete;
    /// Disconnects, and leaves the states in the store as they are: a daemon that comes after this one takes up the
    /// connections again.
    ~Vif();

    /// Looks at the store and does what is due, until nothing is. False: the device is gone, destroy this.
    [[nodiscard]] bool evaluate();
    /// When to evaluate again though the store is silent, on the monotonic clock; nullopt: no need.
    [[nodiscard]] std::optional<std::int64_t> deadline_ns() const noexcept;
    /// A worker found the guest rogue. Followed by evaluate().
    void found_rogue(std::uint64_t connection, Rogue reason);
    /// A worker found that the guest takes no packets from one of its queues, or that it does again.
    void found_stalled(std::uint64_t connection, bool stalled);

    /// Called every few seconds: what the host's administrator has changed where nobody tells us.
    void follow_bridge();
    /// The same: gives back persistent grants that the guest has not used for long.
    void age_grants();

    /// Serves requests on the control ring. True: there are more.
    [[nodiscard]] bool serve_control();
    /// The guest broke the protocol, and is to be cut off.
    [[nodiscard]] bool broken() const noexcept { return broken_; }
    /// Its channel, which belongs to Surroundings::events.
    [[nodiscard]] std::optional<xen::EventPort> control_port() const noexcept {
        return control_ ? std::optional(control_->port()) : std::nullopt;
    }

    [[nodiscard]] const VifId& id() const noexcept { return id_; }
    [[nodiscard]] const std::string& name() const noexcept { return name_; }
    /// Watched by the daemon; empty before the device's keys were read.
    [[nodiscard]] const std::string& frontend() const noexcept { return device_.frontend; }

    [[nodiscard]] nlohmann::json describe() const;
    [[nodiscard]] std::vector<QueueStatistics> statistics() const;

private:
    void identify();
    void follow_rate();
    void follow_spoofing();
    void follow_groups();
    [[nodiscard]] std::optional<xen::BackendView> look();
    void take(const xen::BackendView& view, const xen::BackendStep& step);
    void write_state(xen::XenbusState from, xen::XenbusState to);
    void adopt_interface(xen::XenbusState state);
    void end();
    Result<void> prepare();
    const std::string& interface_to_open() const;
    Result<void> open_interface();
    void tell_mtu();
    Result<void> open_tunnel(const RxFeatures& guest);
    Result<void> connect(bool resumed);
    Result<std::unique_ptr<Port>> open_port(std::uint32_t index, Loop& loop);
    [[nodiscard]] Worker& place(std::uint32_t index) const;
    [[nodiscard]] std::string guest() const;
    Result<std::shared_ptr<QueueJournal>> open_journal(const QueueIdentity& identity, bool resumed);
    void take_seat(const RxFeatures& features);
    Result<void> connect_queue(const GuestKeys& keys, std::uint32_t index, bool resumed);
    void enter(std::size_t queue, std::span<const StaticGrants::Page> pages) override;
    void forget(std::size_t queue, std::span<const std::uint32_t> refs, std::vector<bool>& forgotten) override;
    Result<void> connect_control(const GuestKeys& keys);
    void steer(const std::shared_ptr<const RxSteering>& steering);
    void disconnect_control() noexcept;
    void disconnect() noexcept;
    void tell_carrier(bool up);
    void drain() noexcept;
    void give_up(const Error& error);
    void report(const Error& error);
    void clear_report();

    Surroundings around_;
    VifId id_;
    std::string name_;     ///< vif<domid>.<handle>, for the log
    std::string backend_;  ///< folder, relative to our own domain's
    DeviceKeys device_;
    TxCredit credit_;
    HeldSlots held_;
    PageBudget kept_pages_;  ///< of static and persistent grants
    MulticastGroups groups_;
    std::string asked_groups_;  ///< the guest's key text that groups_ go by
    std::string rate_;          ///< the key's text that credit_ goes by; empty: without limit
    std::string spoofing_;      ///< the key's text that own_address_only_ goes by; empty: as all vifs
    bool own_address_only_ = false;
    std::unique_ptr<TapDevice> tap_;         ///< none with another port
    std::unique_ptr<VxlanEndpoint> tunnel_;  ///< while connected, with a VXLAN port
    std::unique_ptr<Switching::Seat> seat_;  ///< while connected, with --switch
    std::unique_ptr<ControlRing> control_;   ///< while connected, when the guest has one
    std::optional<HashControl> hash_;        ///< of the same
    std::optional<StaticGrants> statics_;    ///< of the same
    std::unique_ptr<RxExchange> exchange_;   ///< of the same
    std::vector<PlacedQueue> queues_;
    std::uint64_t connection_ = 0;  ///< counts connects: a message about an earlier one is stale

    xen::XenbusState state_ = xen::XenbusState::unknown;  // as last seen, for describe()
    xen::XenbusState frontend_state_ = xen::XenbusState::unknown;
    bool looked_at_ = false;  ///< at least once
    bool prepared_ = false;
    bool attached_ = false;
    std::size_t stalled_queues_ = 0;
    bool broken_ = false;
    bool hotplug_failed_ = false;  ///< and that was reported
    bool unusable_ = false;        ///< its own folder is wrong, or it can have no interface: waits to be taken away
    std::int64_t closing_since_ns_ = 0;  ///< 0: not waiting for the frontend to close
    bool overdue_ = false;               ///< it has waited for long, and whatever comes of that was done
    std::string last_error_;
    LogBudget budget_;
    LogBudget steps_budget_;  // their own, so that whoever asks for them still sees what they lead to
};

}  // namespace uvif::netback
