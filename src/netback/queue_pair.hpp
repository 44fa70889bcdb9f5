// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "grant/copy_batch.hpp"
#include "grant/mapped_page.hpp"
#include "grant/persistent_grants.hpp"
#include "grant/static_grants.hpp"
#include "grant/static_table.hpp"
#include "netback/identity.hpp"
#include "netback/queue_journal.hpp"
#include "netback/rx_queue.hpp"
#include "netback/tx_queue.hpp"
#include "runtime/worker.hpp"

namespace uvif::netback {

struct QueueConfig {
    xen::DomainId domain{};
    QueueKeys keys;
    RxFeatures rx;
    FetchPolicy fetch;
    TxCredit* credit = nullptr;         ///< of the vif, whose queues share it
    HeldSlots* held = nullptr;          ///< likewise
    MulticastGroups* groups = nullptr;  ///< likewise; null: its guest is given all, and can ask for none
    RxExchange* exchange = nullptr;     ///< with which it is queue `index` of those that the guest may have steer
    std::size_t index = 0;
    /// Not null: the guest has feature-persistent, and what stays mapped for that is taken from this. Outlives the
    /// queue.
    PageBudget* persistent = nullptr;
    bool resumed = false;  ///< another daemon served these rings before: events may have been lost in between
    std::shared_ptr<QueueJournal> journal;  ///< null: a daemon that is killed cannot be followed by another
    RxPatience rx_patience;
    ReceiveStrategy receive = ReceiveStrategy::automatic;
    std::function<void()> on_port_failed = [] {};        ///< called on the worker's thread, once, when Port::failed()
    std::function<void(bool)> on_stalled = [](bool) {};  ///< there too: the guest takes no packets, or does again
};

/// Both rings of one queue, connected: the task that a worker runs. Made, used and destroyed on its worker's
/// thread.
class QueuePair final : public Task, public Waker, private ReadyHandler {
public:
    /// Called on the worker's thread, once, when the guest broke the protocol.
    using OnRogue = std::function<void(Rogue)>;
    /// Makes the queue's port on the worker's thread, where its loop is.
    /// `waker` is for a port that has packets passed to it, and lives longer.
    using MakePort = std::function<Result<std::unique_ptr<Port>>(Loop&, Waker& waker)>;

    /// Maps the rings, binds the channels, and starts taking turns. Destroying undoes it all in reverse.
    static Result<std::unique_ptr<QueuePair>> connect(Worker& worker, const QueueConfig& config,
                                                      const MakePort& make_port, OnRogue on_rogue);
    QueuePair(const QueuePair&) = delete;
    QueuePair& operator=(const QueuePair&) = delete;
    ~QueuePair() override;

    /// Takes nothing more from the guest, and calls its packets home. Before it is destroyed it is to be drained, or
    /// what the kernel still sends is taken from under it.
    void stop() noexcept;
    /// After stop(), again and again: between two calls the worker's other queues have their turns. True: no packet is
    /// out, and no persistent grant mapped.
    [[nodiscard]] bool drained() noexcept;

    /// Stops serving a rogue guest: nothing is taken from its rings any more.
    void disable() noexcept { disabled_ = true; }

    bool turn() noexcept override;
    bool arm() noexcept override;

    /// Any thread: there is a packet of another queue's, or one of ours has come home.
    void wake() noexcept override { worker_.ring(*this); }

    [[nodiscard]] Port& port() noexcept { return *port_; }
    [[nodiscard]] const CompletionQueue& home() noexcept { return tx_->home(); }
    /// Gives packets of other queues back, those that `concerns`.
    void give_back(const std::function<bool(const Packet&)>& concerns) noexcept;

    /// Also for packets that come from now on.
    void steer_by(std::shared_ptr<const RxSteering> steering) noexcept;

    /// Static grants that the queue may use from now on.
    void enter(std::span<const StaticGrants::Page> pages);
    /// And no longer. False: packets in flight do.
    [[nodiscard]] bool forget(std::uint32_t ref) noexcept;

    /// The guest has persistent grants. Any thread.
    [[nodiscard]] bool learns_grants() const noexcept { return learner_ != nullptr; }
    /// Every 5 s: lets go of those that were not used for long.
    void age_grants() noexcept { learner_->age(); }
    /// And unmaps some of them. True: there may be more.
    [[nodiscard]] bool give_back_grants() noexcept;

    [[nodiscard]] TxCounters tx_counters() const noexcept;
    [[nodiscard]] RxCounters rx_counters() const noexcept;
    [[nodiscard]] const PortCounters& port_counters() const noexcept { return port_->counters(); }

private:
    QueuePair(Worker& worker, OnRogue on_rogue) : worker_(worker), on_rogue_(std::move(on_rogue)) {}
    Result<void> open(const QueueConfig& config, const MakePort& make_port);
    Result<void> bind(const QueueConfig& config);
    Result<void> attach(const QueueConfig& config);
    void on_ready(std::uint32_t events) noexcept override;  // of the port
    void notify(bool tx, bool rx) noexcept;
    [[nodiscard]] bool postpone(bool tx, bool rx) noexcept;
    [[nodiscard]] bool worth_asking() const noexcept;
    void set_interest(std::uint32_t events) noexcept;
    [[nodiscard]] std::uint32_t reading_interest() const noexcept;
    void give_up_port() noexcept;
    bool release_held() noexcept;
    [[nodiscard]] Rogue rogue() const noexcept;

    Worker& worker_;
    OnRogue on_rogue_;
    std::function<void()> on_port_failed_;
    std::function<void(bool)> on_stalled_;
    bool stalled_ = false;  ///< as last told
    bool disabled_ = false;
    bool port_readable_ = true;  // unknown counts as yes; so does a port that reads ahead, which costs nothing to ask
    std::uint32_t interest_ = 0;
    std::uint32_t tx_turns_ = 0;  // in a row, in which the guest had sent something
    bool tx_event_late_ = false;  // the guest waits for an event, which the next turn gives it

    // Destroyed in the opposite order: the port first, which has packets of both queues, and the rings last.
    std::optional<MappedPage> tx_page_;
    std::optional<MappedPage> rx_page_;
    std::shared_ptr<QueueJournal> journal_;
    std::optional<xen::EventPort> tx_event_;
    std::optional<xen::EventPort> rx_event_;  // equals tx_event_ when not split
    std::unique_ptr<StaticTable> statics_;    // with persistent grants, or from the guest's first static one on
    std::unique_ptr<PersistentGrants> learner_;
    std::unique_ptr<TxQueue> tx_;
    std::unique_ptr<RxQueue> rx_;
    std::unique_ptr<Port> port_;
    bool watched_ = false;
    CopyBatch copies_;  ///< of the turn, both directions
};

}  // namespace uvif::netback
