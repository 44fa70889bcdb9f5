// SPDX-License-Identifier: MIT
#include "netback/queue_pair.hpp"

#include <fmt/format.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "runtime/clock.hpp"

namespace uvif::netback {

namespace {
constexpr std::uint32_t tx_turns_per_look = 4;

/// Of two moments of which each may be 0, for none.
std::int64_t earlier(std::int64_t a, std::int64_t b) noexcept {
    return a == 0 || b == 0 ? a + b : std::min(a, b);
}
}  // namespace

Result<std::unique_ptr<QueuePair>> QueuePair::connect(Worker& worker, const QueueConfig& config,
                                                      const MakePort& make_port, OnRogue on_rogue) {
    std::unique_ptr<QueuePair> queue(new QueuePair(worker, std::move(on_rogue)));
    if (auto opened = queue->open(config, make_port); !opened) {
        return propagate(opened);
    }
    if (config.resumed) {
        queue->notify(true, true);
    }
    worker.add(*queue);
    return queue;
}

Result<void> QueuePair::open(const QueueConfig& config, const MakePort& make_port) {
    on_port_failed_ = config.on_port_failed;
    on_stalled_ = config.on_stalled;
    xen::GrantTable& grants = worker_.grants();
    auto tx_page = MappedPage::map(grants, config.domain, config.keys.tx_ring);
    if (!tx_page) {
        return fail(tx_page.error().code, "tx-ring-ref: " + tx_page.error().message);
    }
    tx_page_.emplace(std::move(*tx_page));
    auto rx_page = MappedPage::map(grants, config.domain, config.keys.rx_ring);
    if (!rx_page) {
        return fail(rx_page.error().code, "rx-ring-ref: " + rx_page.error().message);
    }
    rx_page_.emplace(std::move(*rx_page));
    auto port = make_port(worker_.loop(), *this);
    if (!port) {
        return propagate(port);
    }
    port_ = std::move(*port);
    // First the channels: that fails as long as a daemon before us lives, so from here on it writes to nothing any
    // more.
    if (auto bound = bind(config); !bound) {
        return bound;
    }
    if (auto attached = attach(config); !attached) {
        return attached;
    }
    rx_->read_ahead(*this);
    if (port_->fd() >= 0) {
        interest_ = reading_interest();
        if (auto added = worker_.loop().add(port_->fd(), interest_, *this); !added) {
            return added;
        }
        watched_ = true;
    }
    return {};
}

Result<void> QueuePair::bind(const QueueConfig& config) {
    const bool shared = config.keys.rx_event == config.keys.tx_event;
    auto tx = worker_.bind(config.domain, config.keys.tx_event, *this);
    if (!tx) {
        return fail(tx.error().code, (shared ? "event-channel: " : "event-channel-tx: ") + tx.error().message);
    }
    tx_event_ = *tx;
    if (shared) {
        rx_event_ = tx_event_;
        return {};
    }
    auto rx = worker_.bind(config.domain, config.keys.rx_event, *this);
    if (!rx) {
        return fail(rx.error().code, "event-channel-rx: " + rx.error().message);
    }
    rx_event_ = *rx;
    return {};
}

/// Takes the rings up where they are.
Result<void> QueuePair::attach(const QueueConfig& config) {
    auto tx_ring = ring::TxBackRing::attach(tx_page_->address());
    auto rx_ring = ring::RxBackRing::attach(rx_page_->address());
    if (!tx_ring || !rx_ring) {
        return fail(EPROTO, fmt::format("{}-ring-ref: the page is no ring: more requests outstanding than it holds",
                                        tx_ring ? "rx" : "tx"));
    }
    journal_ = config.journal;
    if (journal_ && journal_->inherited()) {
        const bool tx_recovered = tx_ring->recover(journal_->tx());
        if (!tx_recovered || !rx_ring->recover(journal_->rx())) {
            return fail(ESTALE, fmt::format("the {} ring is not as its journal says; the guest has to connect again",
                                            tx_recovered ? "RX" : "TX"));
        }
    } else if (journal_) {
        tx_ring->keep(journal_->tx());
        rx_ring->keep(journal_->rx());
    }
    auto tx =
        TxQueue::create(*tx_ring, config.domain, worker_.grants(), *port_, config.fetch, *config.credit, *config.held);
    if (!tx) {
        return propagate(tx);
    }
    tx_ = std::move(*tx);
    tx_->home().wake_by(*this);
    auto rx = RxQueue::create(*rx_ring, config.domain, worker_.grants(), *port_, config.rx, config.rx_patience,
                              config.receive);
    if (!rx) {
        return propagate(rx);
    }
    rx_ = std::move(*rx);
    if (config.groups != nullptr) {
        tx_->tell(*config.groups);
        rx_->filter_by(*config.groups);
    }
    if (config.persistent != nullptr) {
        statics_ = std::make_unique<StaticTable>();
        learner_ = std::make_unique<PersistentGrants>(worker_.grants(), config.domain, *statics_, *config.persistent);
        tx_->use(*statics_, learner_.get());
        rx_->use(*statics_, learner_.get());
    }
    if (config.exchange != nullptr) {
        rx_->join(*config.exchange, config.index, *this);
    }
    return {};
}

QueuePair::~QueuePair() {
    worker_.remove(*this);
    if (watched_) {
        worker_.loop().remove(port_->fd());
    }
    if (tx_ && (tx_->abandon() || tx_event_late_)) {
        worker_.events().notify(*tx_event_);
    }
    if (rx_event_ && rx_event_ != tx_event_) {
        worker_.unbind(*rx_event_);
    }
    if (tx_event_) {
        worker_.unbind(*tx_event_);
    }
}

void QueuePair::stop() noexcept {
    disabled_ = true;
    tx_->stop();
}

bool QueuePair::drained() noexcept {
    if (!tx_->drained()) {
        return false;
    }
    if (learner_) {
        learner_->forget_all();
    }
    return !learner_ || !give_back_grants();
}

bool QueuePair::give_back_grants() noexcept {
    return learner_->give_back([this](const std::byte* page) { return tx_->uses(page); });
}

Rogue QueuePair::rogue() const noexcept {
    return tx_->rogue() != Rogue::none ? tx_->rogue() : rx_->rogue();
}

bool QueuePair::turn() noexcept {
    if (disabled_) {
        rx_->give_back([](const Packet&) { return true; });
        return false;
    }
    copies_.clear();
    const bool tx_worked = tx_->gather(copies_);
    tx_turns_ = tx_worked ? tx_turns_ + 1 : 0;
    const std::uint32_t tx_copies = copies_.size();
    const RxQueue::Gathered rx = rx_->gather(port_readable_ && worth_asking(), copies_);
    if (rx.port_empty && port_->fd() >= 0 && !port_->reading_ahead()) {
        port_readable_ = false;
    }
    if (!copies_.empty()) {
        // One call for both directions: the counters name the one with more in it.
        2 * tx_copies > copies_.size() ? tx_->count_copy_call() : rx_->count_copy_call();
        copies_.flush(worker_.grants());
    }
    const bool notify_rx = rx_->publish(copies_);
    const bool notify_tx = tx_->publish(copies_);
    if (!postpone(notify_tx, notify_rx)) {
        notify(notify_tx, notify_rx);
    }
    tx_->send(copies_);
    if (learner_) {
        learner_->learn();
    }
    const bool released = release_held();
    if (rx_->stalled() != stalled_) {
        stalled_ = rx_->stalled();
        on_stalled_(stalled_);
    }
    if (port_->failed() && watched_) {
        give_up_port();
    }
    if (!port_->writable()) {
        set_interest(interest_ | EPOLLOUT);
    }
    if (rogue() != Rogue::none) {
        disabled_ = true;
        rx_->give_back([](const Packet&) { return true; });
        on_rogue_(rogue());
        return false;
    }
    return tx_worked || rx.worked || released || tx_event_late_;
}

/// Guests' pages that have been held for too long. True: the next turn has something to do.
bool QueuePair::release_held() noexcept {
    if (tx_->hold_ends_ns() == 0 && rx_->hold_ends_ns() == 0) {
        return false;
    }
    const std::int64_t now = monotonic_ns();
    const bool rx_due = rx_->hold_ends_ns() != 0 && rx_->hold_ends_ns() <= now;
    if (rx_due) {
        rx_->release_held(worker_.grants(), copies_);
    }
    const bool tx_due = tx_->hold_ends_ns() != 0 && tx_->hold_ends_ns() <= now;
    if (tx_due) {
        tx_->release_held();
    }
    return rx_due || tx_due;
}

/// While the guest sends, what comes for it (mostly acknowledgements of that) is fetched every few turns: together.
bool QueuePair::worth_asking() const noexcept {
    return !port_->reading_ahead() || tx_turns_ % tx_turns_per_look == 0;
}

/// An event costs as much as a small packet: the packet goes first, and what comes back for it by the next turn shares
/// the event.
bool QueuePair::postpone(bool tx, bool rx) noexcept {
    if (!tx || rx || tx_event_late_ || !tx_->sends_little()) {
        return false;
    }
    tx_event_late_ = true;
    return true;
}

/// At most one event a channel and turn.
void QueuePair::notify(bool tx, bool rx) noexcept {
    tx |= std::exchange(tx_event_late_, false);
    if (tx) {
        tx_->count_notify();
        worker_.events().notify(*tx_event_);
    }
    if (rx && !(tx && rx_event_ == tx_event_)) {
        rx_->count_notify();
        worker_.events().notify(*rx_event_);
    }
}

bool QueuePair::arm() noexcept {
    if (disabled_) {
        set_interest(0);
        return true;
    }
    const bool writable = port_->writable();
    set_interest(reading_interest() | (writable ? 0U : EPOLLOUT));
    // A port that holds up: the guest's requests wait in the ring, and news of more would be of no use.
    const bool tx_armed = !writable || tx_->arm();
    const auto hold_ends = earlier(tx_->hold_ends_ns(), rx_->hold_ends_ns());
    if (const auto next = earlier(earlier(tx_->resume_ns(), hold_ends), rx_->due_ns()); next != 0) {
        worker_.wake_at(*this, next);
    }
    const bool rx_armed = rx_->arm();
    return tx_armed && rx_armed;
}

void QueuePair::give_back(const std::function<bool(const Packet&)>& concerns) noexcept {
    rx_->give_back(concerns);
    worker_.activate(*this);  // there is room for what waits behind them
}

void QueuePair::enter(std::span<const StaticGrants::Page> pages) {
    if (!statics_) {
        statics_ = std::make_unique<StaticTable>();
        tx_->use(*statics_);
        rx_->use(*statics_);
    }
    for (const StaticGrants::Page& page : pages) {
        if (learner_) {
            learner_->forget(page.ref);
        }
        statics_->enter(page.ref, page.address, page.writable);
    }
}

bool QueuePair::forget(std::uint32_t ref) noexcept {
    if (tx_->uses(statics_->find(ref))) {
        return false;
    }
    statics_->remove(ref);
    return true;
}

TxCounters QueuePair::tx_counters() const noexcept {
    TxCounters counters = tx_->counters();
    counters.self_granted_pages = tx_->self_granted_pages() + rx_->self_granted_pages();
    counters.static_entries = statics_ ? statics_->size() : 0;
    if (learner_) {
        counters.static_entries -= learner_->entries();
        counters.by_persistent = std::exchange(counters.by_static, 0);
        counters.persistent_hits = std::exchange(counters.static_hits, 0);
        counters.persistent_misses = std::exchange(counters.static_misses, 0);
        counters.persistent_pages = learner_->pages();
        counters.persistent_learned = learner_->learned;
        counters.persistent_refused = learner_->refused;
        counters.persistent_given_back = learner_->given_back;
        counters.map_calls += learner_->learned + learner_->refused;
        counters.unmap_calls += learner_->given_back;
        counters.unmap_errors += learner_->unmap_errors;
    }
    return counters;
}

RxCounters QueuePair::rx_counters() const noexcept {
    RxCounters counters = rx_->counters();
    if (learner_) {
        counters.persistent_hits = std::exchange(counters.static_hits, 0);
        counters.persistent_misses = std::exchange(counters.static_misses, 0);
    }
    return counters;
}

void QueuePair::steer_by(std::shared_ptr<const RxSteering> steering) noexcept {
    rx_->steer_by(std::move(steering));
    worker_.activate(*this);
}

void QueuePair::on_ready(std::uint32_t events) noexcept {
    if (watched_ && (port_->failed() || ((events & EPOLLERR) != 0 && !port_->survives_error()))) {
        give_up_port();
    }
    if ((events & ~static_cast<std::uint32_t>(EPOLLOUT)) != 0) {
        port_readable_ = true;
    }
    if ((events & EPOLLOUT) != 0) {
        port_->flush(false);
        if (port_->writable()) {
            set_interest(interest_ & ~static_cast<std::uint32_t>(EPOLLOUT));
        }
    }
    worker_.activate(*this);
}

/// The port's interface was deleted: its descriptor would be ready for ever. What the guest sent and sends is dropped.
void QueuePair::give_up_port() noexcept {
    worker_.loop().remove(port_->fd());
    watched_ = false;
    port_->flush(true);
    on_port_failed_();
}

std::uint32_t QueuePair::reading_interest() const noexcept {
    return !port_->reading_ahead() && rx_->wants_packets() ? EPOLLIN : 0U;
}

void QueuePair::set_interest(std::uint32_t events) noexcept {
    if (watched_ && events != interest_) {
        interest_ = events;
        worker_.loop().modify(port_->fd(), events);
    }
}

}  // namespace uvif::netback
