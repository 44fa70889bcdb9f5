// SPDX-License-Identifier: MIT
#include "runtime/worker.hpp"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <utility>

#include "runtime/clock.hpp"

namespace uvif {
namespace {

/// Rounds of turns between two looks at the loop while there is work: a look may be a system call.
constexpr std::uint32_t turns_per_poll = 8;
/// The spin never adapts to less, or it could not grow again.
constexpr std::int64_t spin_min_ns = 1000;
/// A spin that has no time for this many looks at the clock is none: where the clock is a system call (a Xen domain
/// whose time source is not stable, an emulated machine) each look costs more than the sleep that it saves.
constexpr std::int64_t spin_looks_min = 8;

/// What a look at the clock costs, at best.
std::int64_t clock_cost_ns() noexcept {
    std::int64_t cost = ns_per_s;
    for (int i = 0; i < 16; ++i) {
        const std::int64_t before = monotonic_ns();
        cost = std::min(cost, monotonic_ns() - before);
    }
    return cost;
}

void relax() noexcept {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

}  // namespace

Result<std::unique_ptr<Worker>> Worker::create(xen::Hypervisor& hypervisor, const Config& config) {
    std::unique_ptr<Worker> worker(new Worker());
    auto grants = hypervisor.open_grant_table();
    if (!grants) {
        return propagate(grants);
    }
    worker->grants_ = std::move(*grants);
    auto events = hypervisor.open_event_channels();
    if (!events) {
        return propagate(events);
    }
    worker->events_ = std::move(*events);
    auto loop = Loop::create(config.loop);
    if (!loop) {
        return propagate(loop);
    }
    worker->loop_ = std::move(*loop);
    auto mailbox = Mailbox::create();
    if (!mailbox) {
        return propagate(mailbox);
    }
    worker->mailbox_ = std::move(*mailbox);
    worker->mailbox_handler_.mailbox = worker->mailbox_.get();
    if (auto added = worker->loop_->add(worker->events_->fd(), EPOLLIN, *worker); !added) {
        return propagate(added);
    }
    if (auto added = worker->loop_->add(worker->mailbox_->fd(), EPOLLIN, worker->mailbox_handler_); !added) {
        return propagate(added);
    }
    worker->spin_max_ns_ = config.spin_ns < spin_looks_min * clock_cost_ns() ? 0 : config.spin_ns;
    worker->spin_ns_ = worker->spin_max_ns_;
    return worker;
}

Worker::~Worker() {
    if (thread_.joinable()) {
        mailbox_->post([this] { stopping_.store(true, std::memory_order_relaxed); });
        thread_.join();
    }
}

void Worker::start() {
    thread_ = std::thread([this] {
        while (!stopping_.load(std::memory_order_relaxed)) {
            step(-1);
        }
    });
}

void Worker::run(Mailbox::Function function) {
    if (thread_.joinable()) {
        mailbox_->call_and_wait(std::move(function));
    } else {
        function();
    }
}

void Worker::add(Task& task) {
    tasks_.push_back(&task);
    active_.reserve(tasks_.size());  // activate() is on the data path
    activate(task);
}

void Worker::remove(Task& task) noexcept {
    activate_rung();  // takes it off that list
    std::erase(tasks_, &task);
    std::erase(active_, &task);
    task.active_ = false;
}

void Worker::activate(Task& task) noexcept {
    task.wake_ns_ = 0;
    if (!std::exchange(task.active_, true)) {
        active_.push_back(&task);
    }
}

void Worker::ring(Task& task) noexcept {
    if (task.rung_.exchange(true)) {
        return;
    }
    Task* top = rung_.load(std::memory_order_relaxed);
    do {
        task.next_rung_ = top;
    } while (!rung_.compare_exchange_weak(top, &task));
    if (sleeping_.load() && sleeping_.exchange(false)) {
        mailbox_->wake();
    }
}

void Worker::activate_rung() noexcept {
    for (Task* task = rung_.exchange(nullptr); task != nullptr;) {
        // Once it is marked as not rung, others may put it on the list anew.
        Task* const next = task->next_rung_;
        task->rung_.exchange(false);
        activate(*task);
        task = next;
    }
}

void Worker::wake_at(Task& task, std::int64_t when_ns) noexcept {
    task.wake_ns_ = when_ns;
    next_wake_ns_ = next_wake_ns_ == 0 ? when_ns : std::min(next_wake_ns_, when_ns);
}

void Worker::wake_overdue() noexcept {
    const std::int64_t now = monotonic_ns();
    if (now < next_wake_ns_) {
        return;
    }
    next_wake_ns_ = 0;
    for (Task* task : tasks_) {
        if (task->wake_ns_ != 0 && task->wake_ns_ <= now) {
            activate(*task);
        } else if (task->wake_ns_ != 0) {
            wake_at(*task, task->wake_ns_);
        }
    }
}

/// All waiting goes through here, so that tasks are woken in time also while others are busy.
void Worker::wait(std::int64_t timeout_ns) noexcept {
    if (next_wake_ns_ == 0) {
        loop_->wait(timeout_ns);
        return;
    }
    const std::int64_t left_ns = std::max<std::int64_t>(0, next_wake_ns_ - monotonic_ns());
    loop_->wait(timeout_ns < 0 ? left_ns : std::min(timeout_ns, left_ns));
    wake_overdue();
}

Result<xen::EventPort> Worker::bind(xen::DomainId domain, xen::EventPort remote, Task& task) {
    auto port = events_->bind_interdomain(domain, remote);
    if (port) {
        task_of_port_[std::to_underlying(*port)] = &task;
        masked_.reserve(task_of_port_.size());  // on_ready() is on the data path
    }
    return port;
}

void Worker::unbind(xen::EventPort port) noexcept {
    task_of_port_.erase(std::to_underlying(port));
    std::erase(masked_, port);
    events_->unbind(port);
}

void Worker::on_ready(std::uint32_t /*events*/) noexcept {
    std::array<xen::EventPort, 64> ports;
    // Twice as many as are bound cannot fire in one look: each stays masked until unmask().
    for (std::size_t count = ports.size(); count == ports.size();) {
        count = events_->pending(ports);
        for (std::size_t i = 0; i < count; ++i) {
            const auto found = task_of_port_.find(std::to_underlying(ports[i]));
            if (found == task_of_port_.end()) {
                continue;  // unbound while its event was under way
            }
            masked_.push_back(ports[i]);
            activate(*found->second);
        }
    }
}

void Worker::step(std::int64_t sleep_ns) noexcept {
    if (mailbox_->maybe_nonempty()) {
        mailbox_->drain();
        if (stopping_.load(std::memory_order_relaxed)) {
            return;  // that was the last message: nothing would end a sleep
        }
    }
    if (rung_.load(std::memory_order_relaxed) != nullptr) {
        activate_rung();
    }
    if (turn_tasks()) {
        if (idle_since_ns_ != 0) {
            idle_since_ns_ = 0;
            spin_ns_ = std::min(spin_max_ns_, 2 * spin_ns_);  // it paid to spin
        }
        if (++turns_ % turns_per_poll == 0) {
            wait(0);
        }
        return;
    }
    if (!active_.empty() && keep_spinning()) {
        relax();
        if (++turns_ % turns_per_poll == 0) {
            wait(0);
        }
        return;
    }
    sleep(sleep_ns);
}

bool Worker::turn_tasks() noexcept {
    bool worked = false;
    for (std::size_t i = 0; i < active_.size(); ++i) {
        worked |= active_[i]->turn();
    }
    return worked;
}

bool Worker::keep_spinning() noexcept {
    if (spin_max_ns_ == 0) {
        return false;
    }
    const std::int64_t now = monotonic_ns();
    if (idle_since_ns_ == 0) {
        idle_since_ns_ = now;
    }
    if (now - idle_since_ns_ < spin_ns_) {
        return true;
    }
    spin_ns_ = std::max(spin_min_ns, spin_ns_ / 2);
    return false;
}

void Worker::sleep(std::int64_t sleep_ns) noexcept {
    // Unmask first, look at the rings last: an event between the two is then delivered, not lost.
    if (!masked_.empty()) {
        events_->unmask(masked_);
        masked_.clear();
    }
    std::size_t awake = 0;
    for (Task* task : active_) {
        if (task->arm()) {
            task->active_ = false;
        } else {
            active_[awake++] = task;
        }
    }
    active_.resize(awake);
    idle_since_ns_ = 0;
    sleeping_.store(true);
    const bool quiet = awake == 0 && !mailbox_->maybe_nonempty() && rung_.load() == nullptr;
    wait(quiet ? sleep_ns : 0);
    sleeping_.store(false);
}

}  // namespace uvif
