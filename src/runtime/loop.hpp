// SPDX-License-Identifier: MIT
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "uvif/error.hpp"

namespace uvif {

enum class LoopKind : std::uint8_t { automatic, io_uring, epoll };

/// One write of a batch: an iovec list to a non-blocking descriptor.
struct WriteOperation {
    int fd;
    std::span<const iovec> pieces;
    std::int64_t result = 0;  ///< out: octets written, or -errno (-EAGAIN: would have to wait)
};

/// Told that a descriptor is ready. Called from `wait` only, never from inside `add`.
class ReadyHandler {
public:
    /// `events` are EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP.
    virtual void on_ready(std::uint32_t events) noexcept = 0;

protected:
    ~ReadyHandler() = default;
};

/// Reads of one descriptor that the kernel does as data comes: see Loop::post_reads.
struct ReadStream {
    ReadyHandler* handler = nullptr;  ///< told, from `wait`, when there is news
    bool news = false;                ///< reads have ended; cleared by whoever has looked at all results
    bool listed = false;              ///< the loop's own
};

/// One of them. Whoever posts it keeps it and its memory until it has ended.
struct ReadOperation {
    static constexpr std::int64_t pending = std::int64_t{1} << 62;

    ReadStream* stream = nullptr;
    std::span<const iovec> pieces;
    std::int64_t result = pending;  ///< out: octets read, or -errno
};

/// A thread's event loop. Readiness is level triggered: what is still ready is reported again.
/// Thread rule: one thread.
class Loop {
public:
    static constexpr unsigned write_batch_max = 64;

    Loop() = default;
    Loop(const Loop&) = delete;
    Loop& operator=(const Loop&) = delete;
    virtual ~Loop() = default;

    /// io_uring where the kernel allows it (ENOSYS, EPERM, EINVAL of old kernels, containers and the sysctl
    /// lead to epoll), unless one is asked for by name.
    static Result<std::unique_ptr<Loop>> create(LoopKind kind);

    [[nodiscard]] virtual std::string_view name() const noexcept = 0;  ///< "io_uring" or "epoll"

    /// `events` of 0 keeps the registration and reports nothing. The handler outlives its registration.
    virtual Result<void> add(int fd, std::uint32_t events, ReadyHandler& handler) = 0;
    virtual void modify(int fd, std::uint32_t events) noexcept = 0;
    /// No report about `fd` comes after this returns. Call it before the descriptor is closed.
    virtual void remove(int fd) noexcept = 0;

    /// Reports what is ready; sleeps up to `timeout_ns` when nothing is (-1: for ever, 0: not at all). A signal ends
    /// the sleep.
    virtual void wait(std::int64_t timeout_ns) noexcept = 0;

    /// Does all of `operations` (at most write_batch_max) before it returns, in order, and never waits for room: one
    /// system call with io_uring, one each without. Returns the number of system calls made.
    virtual unsigned write_batch(std::span<WriteOperation> operations) noexcept = 0;

    // Reading ahead saves a system call for each packet that comes, and the one that finds no more. Only a loop that
    // `can_read_ahead` has the calls below (io_uring).

    static constexpr unsigned reads_posted_max = 64;

    [[nodiscard]] virtual bool can_read_ahead() const noexcept { return false; }
    /// Has `operations` (at most reads_posted_max) on a non-blocking descriptor done in order, each as soon as there
    /// is something to read. Nothing else is to be read from it until all have ended.
    virtual void post_reads(int /*fd*/, std::span<ReadOperation> /*operations*/) noexcept {}
    /// Has results of posted reads noted. Returns the number of system calls made: none while there is no news.
    virtual unsigned look_at_reads() noexcept { return 0; }
    /// Ends those that are still pending; what came in between is theirs. The stream's handler is told no more.
    virtual void cancel_reads(std::span<ReadOperation> /*operations*/) noexcept {}
};

}  // namespace uvif
