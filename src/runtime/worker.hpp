// SPDX-License-Identifier: MIT
//
// Theory of operation
//
// A worker is a thread that owns queues: what it runs are tasks, and nobody else touches them. It takes turns with
// the tasks that have work, and polls as long as any turn moves something: no event is armed, no port unmasked
// meanwhile, so peers need not notify. When nothing moves it spins for a moment (the next burst is often microseconds
// away, an event costs ten), and then goes to sleep in this order: unmask the event channels that fired, have every
// task arm its event indices and look at its rings a last time, wait in the loop. A task that finds work while
// arming stays awake. An event, a readable port or a message wakes the worker.
//
// The control thread speaks to a worker by posting functions to its mailbox; they run between turns.
//
// Queues on different workers pass packets to each other, and then ring: a task that was rung is put on a list of its
// worker's, which is looked at between turns. Only a worker that sleeps is woken by a system call.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <unordered_map>
#include <vector>

#include "runtime/loop.hpp"
#include "runtime/mailbox.hpp"
#include "uvif/error.hpp"
#include "xen/hypervisor.hpp"

namespace uvif {

/// What a worker runs. All calls on the worker's thread.
class Task {
public:
    Task() = default;
    Task(const Task&) = delete;
    Task& operator=(const Task&) = delete;
    virtual ~Task() = default;

    /// Does a bounded batch of work. True: it moved something and wants another turn.
    virtual bool turn() noexcept = 0;
    /// Before sleeping: asks its peers for events and looks a last time. False: there is work.
    virtual bool arm() noexcept = 0;

private:
    friend class Worker;
    bool active_ = false;
    std::int64_t wake_ns_ = 0;        ///< 0: nothing but an event wakes it
    std::atomic<bool> rung_ = false;  ///< and not yet awake: it is on its worker's list
    Task* next_rung_ = nullptr;
};

class Worker final : private ReadyHandler {
public:
    struct Config {
        LoopKind loop = LoopKind::automatic;
        std::int64_t spin_ns = 0;  ///< longest spin before sleeping; adapts below it
    };

    /// Opens its own handles. Nothing runs before start(), or step() by the caller.
    static Result<std::unique_ptr<Worker>> create(xen::Hypervisor& hypervisor, const Config& config);
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;
    /// Stops and joins the thread. Tasks must have been removed.
    ~Worker();

    void start();

    /// Has `function` run on the worker's thread and waits until it has. Control thread only. Before start() it
    /// runs at once, in the caller.
    void run(Mailbox::Function function);

    /// Any thread: gives the task, which must be one of this worker's, turns until it can sleep.
    void ring(Task& task) noexcept;

    // What follows belongs to the worker's thread: to tasks, and to functions given to run().

    void add(Task& task);
    void remove(Task& task) noexcept;
    /// The task gets turns until it can sleep.
    void activate(Task& task) noexcept;

    /// A task that is about to sleep gets turns again at this moment of the monotonic clock, if nothing wakes it
    /// before.
    void wake_at(Task& task, std::int64_t when_ns) noexcept;

    /// Binds an event channel whose events wake `task`.
    Result<xen::EventPort> bind(xen::DomainId domain, xen::EventPort remote, Task& task);
    void unbind(xen::EventPort port) noexcept;

    /// One round of turns, with a sleep of up to `sleep_ns` at its end when nothing moved (-1: until woken).
    void step(std::int64_t sleep_ns) noexcept;

    /// Every task is armed: only an event, a ready descriptor or a message brings more work.
    [[nodiscard]] bool asleep() const noexcept { return active_.empty(); }

    [[nodiscard]] Loop& loop() noexcept { return *loop_; }
    [[nodiscard]] xen::GrantTable& grants() noexcept { return *grants_; }
    [[nodiscard]] xen::EventChannels& events() noexcept { return *events_; }

    /// Queues that the control thread has placed here.
    std::size_t load = 0;

private:
    Worker() = default;
    void on_ready(std::uint32_t events) noexcept override;  // of the event channels
    bool turn_tasks() noexcept;
    bool keep_spinning() noexcept;
    void sleep(std::int64_t sleep_ns) noexcept;
    void wait(std::int64_t timeout_ns) noexcept;
    void wake_overdue() noexcept;
    void activate_rung() noexcept;

    /// Runs the messages. Also for the sake of the eventfd, which may be set after its message was already run.
    struct MailboxHandler final : ReadyHandler {
        Mailbox* mailbox = nullptr;
        void on_ready(std::uint32_t /*events*/) noexcept override { mailbox->drain(); }
    };

    std::unique_ptr<xen::GrantTable> grants_;
    std::unique_ptr<xen::EventChannels> events_;
    std::unique_ptr<Loop> loop_;
    std::unique_ptr<Mailbox> mailbox_;
    MailboxHandler mailbox_handler_;

    std::vector<Task*> tasks_;
    std::vector<Task*> active_;
    std::unordered_map<std::uint32_t, Task*> task_of_port_;
    std::vector<xen::EventPort> masked_;  // fired, and not unmasked yet

    std::int64_t next_wake_ns_ = 0;  // no task's is earlier; 0: none has one

    std::int64_t spin_max_ns_ = 0;
    std::int64_t spin_ns_ = 0;
    std::int64_t idle_since_ns_ = 0;  // 0: busy
    std::uint32_t turns_ = 0;

    std::atomic<Task*> rung_{nullptr};
    std::atomic<bool> sleeping_{false};  ///< whoever rings has to wake us
    std::atomic<bool> stopping_{false};
    std::thread thread_;
};

}  // namespace uvif
