// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <utility>

#include "runtime/unique_fd.hpp"
#include "uvif/error.hpp"

// Theory of operation
//
// Threads tell each other things by posting functions. Posting pushes a node on a lock-free stack with one
// compare-and-swap; whoever finds the stack empty wakes the reader through an eventfd, the others need not. The reader
// empties the eventfd first and takes the whole stack second, so a message pushed in between leaves the eventfd set and
// is at worst looked for twice, never missed. Reversing the taken stack restores the order of posting.

namespace uvif {

/// Messages from any thread to one.
class Mailbox {
public:
    using Function = std::move_only_function<void()>;

    static Result<std::unique_ptr<Mailbox>> create();
    Mailbox(const Mailbox&) = delete;
    Mailbox& operator=(const Mailbox&) = delete;
    /// Drops what nobody ran; a `call_and_wait` still waiting returns false. Nobody may be posting.
    ~Mailbox();

    /// Has `function` run by the reader, after all that this thread posted before. Any thread; never blocks.
    void post(Function function) noexcept;

    /// Has `function` run by the reader and waits until it has. False: the mailbox was destroyed first.
    /// Any thread but the reader's own, which would wait for itself.
    bool call_and_wait(Function function);

    /// Makes fd() readable though nothing was posted. Any thread.
    void wake() noexcept;

    /// Runs what was posted before the call. The reader's thread only.
    void drain() noexcept;

    /// Readable when there is something to drain. The reader's thread, or its loop.
    [[nodiscard]] int fd() const noexcept { return event_.get(); }

    /// A cheap look, for a reader that polls: true means that drain() has something to do.
    [[nodiscard]] bool maybe_nonempty() const noexcept { return top_.load(std::memory_order_relaxed) != nullptr; }

private:
    struct Node {
        Function function;
        Node* next;
    };

    explicit Mailbox(UniqueFd event) noexcept : event_(std::move(event)) {}
    [[nodiscard]] Node* take_all() noexcept;

    UniqueFd event_;
    std::atomic<Node*> top_{nullptr};
};

}  // namespace uvif
