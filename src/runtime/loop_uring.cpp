// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <fmt/format.h>
#include <liburing.h>
#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "runtime/clock.hpp"
#include "runtime/limits.hpp"
#include "runtime/loop_kinds.hpp"

// Theory of operation
//
// Readiness: each watched descriptor has one one-shot POLL_ADD in the kernel. When it has fired and was reported, it is
// prepared anew at the next wait and travels with the system call that wait makes anyway; the kernel looks at the
// descriptor as it arms, so what is still ready completes at once. That makes one-shot polls level triggered.
// Completions carry the descriptor number and a generation, which rises whenever an armed poll is given up: what a
// cancelled poll still reports is recognised as stale.
//
// The ring defers its work (DEFER_TASKRUN) and flags it (TASKRUN_FLAG), so a thread that polls with wait(0) sees in
// memory whether the kernel has news, and makes no system call when it has none.
//
// Writes: a batch is one submission of WRITEVs. The kernel runs those on a non-blocking descriptor while it takes them,
// in order. One that finds no room stays behind, waiting for it inside the kernel; it is cancelled and awaited, so that
// no write outlives the call and none waits. Completions of polls that come up meanwhile are kept for the next wait.
//
// Reads ahead: a chain of READVs, each linked to the one before it and started when that one has ended, however it has
// ended (a hard link: a read shorter than its buffer would break a soft one). So one read at most waits for data, in
// the kernel and with a single poll there, and what has come is read in order without a system call for each.
//
// The ring is made disabled, and enabled by the first thread that uses it: with SINGLE_ISSUER that is its owner, and a
// loop may be created before its thread is.

namespace uvif {

namespace {

// user_data of a completion: its two lowest bits tell what it is of.
enum Kind : std::uint64_t {
    of_read = 0,   ///< the rest is the address of the ReadOperation
    of_poll = 1,   ///< generation << 32 | descriptor << 2
    of_write = 2,  ///< index in the batch << 2
    ignored = 3
};
static_assert(alignof(ReadOperation) >= 4);

constexpr Kind kind_of(std::uint64_t user_data) noexcept {
    return static_cast<Kind>(user_data & 3U);
}
constexpr std::uint64_t poll_tag(int fd, std::uint32_t generation) noexcept {
    return static_cast<std::uint64_t>(generation) << 32 | static_cast<std::uint64_t>(fd) << 2 | of_poll;
}
constexpr std::uint64_t write_tag(std::size_t index) noexcept {
    return index << 2 | of_write;
}
std::uint64_t read_tag(const ReadOperation& operation) noexcept {
    return reinterpret_cast<std::uintptr_t>(&operation);
}

struct Registration {
    ReadyHandler* handler = nullptr;  ///< null: free
    std::uint32_t events = 0;         ///< asked for
    std::uint32_t generation = 0;     ///< of the poll in the kernel
    std::uint32_t reported = 0;       ///< completed, not yet told to the handler
    bool armed = false;               ///< a poll of this generation is in the kernel, or prepared
    bool in_ready = false;            ///< listed in ready_
    bool in_unarmed = false;          ///< listed in unarmed_
};

class UringLoop final : public Loop {
public:
    explicit UringLoop(const io_uring& ring) noexcept : ring_(ring) {}
    ~UringLoop() override { io_uring_queue_exit(&ring_); }

    [[nodiscard]] std::string_view name() const noexcept override { return "io_uring"; }
    Result<void> add(int fd, std::uint32_t events, ReadyHandler& handler) override;
    void modify(int fd, std::uint32_t events) noexcept override;
    void remove(int fd) noexcept override;
    void wait(std::int64_t timeout_ns) noexcept override;
    unsigned write_batch(std::span<WriteOperation> operations) noexcept override;
    [[nodiscard]] bool can_read_ahead() const noexcept override { return true; }
    void post_reads(int fd, std::span<ReadOperation> operations) noexcept override;
    unsigned look_at_reads() noexcept override;
    void cancel_reads(std::span<ReadOperation> operations) noexcept override;

private:
    [[nodiscard]] Registration* find(int fd) noexcept;
    void enable() noexcept;
    [[nodiscard]] io_uring_sqe* entry() noexcept;
    bool submit() noexcept;
    [[nodiscard]] bool kernel_has_work() const noexcept;
    bool sleep(std::int64_t timeout_ns) noexcept;
    void reap() noexcept;
    void take_poll(std::uint64_t user_data, std::int32_t result) noexcept;
    void take_read(std::uint64_t user_data, std::int32_t result) noexcept;
    void list_unarmed(int fd, Registration& registration) noexcept;
    void disarm(int fd, Registration& registration) noexcept;
    void arm() noexcept;
    void dispatch() noexcept;
    [[nodiscard]] bool anything_to_tell() noexcept;
    void retract_writes() noexcept;
    void cancel_writes() noexcept;

    io_uring ring_;
    bool enabled_ = false;
    unsigned calls_ = 0;  ///< system calls made, modulo 2^32
    std::vector<Registration> registrations_;
    // Each descriptor is at most once in a list, and once more in ready_ while it is dispatched: room is reserved by
    // add(), nothing allocates later.
    std::vector<int> ready_;
    std::vector<int> unarmed_;
    std::vector<ReadStream*> read_ready_;  ///< streams whose handlers are to be told
    std::span<WriteOperation> writes_;     ///< of the running batch
    std::uint64_t writes_pending_ = 0;     ///< bit i: writes_[i] is with the kernel
};
static_assert(Loop::write_batch_max <= 64, "writes_pending_ has 64 bits");
static_assert(2 * Loop::write_batch_max <= limits::loop_submissions);

Registration* UringLoop::find(int fd) noexcept {
    const auto index = static_cast<std::size_t>(fd);
    if (fd < 0 || index >= registrations_.size() || registrations_[index].handler == nullptr) {
        return nullptr;
    }
    return &registrations_[index];
}

void UringLoop::enable() noexcept {
    if (!enabled_) {
        // By number: liburing 2.3 forgot to export io_uring_enable_rings.
        io_uring_register(static_cast<unsigned>(ring_.ring_fd), IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
        enabled_ = true;
    }
}

/// An empty submission entry; null only when the kernel refuses to take the prepared ones.
io_uring_sqe* UringLoop::entry() noexcept {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    if (sqe == nullptr) {
        submit();
        sqe = io_uring_get_sqe(&ring_);
    }
    return sqe;
}

/// Hands over all that is prepared and has the kernel post what it has ready. False: it does not take all, for want
/// of memory (or this is a foreign thread); what is left is tried again with the next call.
bool UringLoop::submit() noexcept {
    for (unsigned failures = 0; failures < 8;) {
        ++calls_;
        const int taken = io_uring_submit_and_get_events(&ring_);
        if (io_uring_sq_ready(&ring_) == 0) {
            return true;
        }
        if (taken == -EBUSY) {
            reap();
        }
        failures += taken <= 0 && taken != -EINTR ? 1 : 0;
    }
    return false;
}

bool UringLoop::kernel_has_work() const noexcept {
    return io_uring_sq_ready(&ring_) > 0 ||
           (IO_URING_READ_ONCE(*ring_.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

/// Submits and sleeps until there is a completion. False: the time is up, or a signal came.
bool UringLoop::sleep(std::int64_t timeout_ns) noexcept {
    ++calls_;
    if (timeout_ns < 0) {
        return io_uring_submit_and_wait(&ring_, 1) >= 0;
    }
    __kernel_timespec timeout{.tv_sec = timeout_ns / ns_per_s, .tv_nsec = timeout_ns % ns_per_s};
    io_uring_cqe* first = nullptr;
    return io_uring_submit_and_wait_timeout(&ring_, &first, 1, &timeout, nullptr) >= 0;
}

void UringLoop::reap() noexcept {
    std::array<io_uring_cqe*, 64> completions;
    for (;;) {
        const unsigned count =
            io_uring_peek_batch_cqe(&ring_, completions.data(), static_cast<unsigned>(completions.size()));
        if (count == 0) {
            return;
        }
        for (unsigned i = 0; i < count; ++i) {
            const io_uring_cqe& completion = *completions[i];
            switch (kind_of(completion.user_data)) {
                case of_read:
                    take_read(completion.user_data, completion.res);
                    break;
                case of_poll:
                    take_poll(completion.user_data, completion.res);
                    break;
                case of_write: {
                    const std::uint64_t index = completion.user_data >> 2;
                    const bool undone = completion.res == -ECANCELED || completion.res == -EINTR;
                    writes_[index].result = undone ? -EAGAIN : completion.res;
                    writes_pending_ &= ~(1ULL << index);
                    break;
                }
                case ignored:
                    break;
            }
        }
        io_uring_cq_advance(&ring_, count);
    }
}

void UringLoop::take_poll(std::uint64_t user_data, std::int32_t result) noexcept {
    const auto fd = static_cast<int>((user_data & 0xffffffffU) >> 2);
    Registration* registration = find(fd);
    if (registration == nullptr || registration->generation != static_cast<std::uint32_t>(user_data >> 32)) {
        return;
    }
    registration->armed = false;
    if (result == -ECANCELED) {
        // Not by us, or the generation would be another.
        list_unarmed(fd, *registration);
        return;
    }
    registration->reported |= result < 0 ? static_cast<std::uint32_t>(EPOLLERR) : static_cast<std::uint32_t>(result);
    if (!registration->in_ready) {
        registration->in_ready = true;
        ready_.push_back(fd);
    }
}

void UringLoop::take_read(std::uint64_t user_data, std::int32_t result) noexcept {
    auto& operation = *reinterpret_cast<ReadOperation*>(user_data);
    operation.result = result;
    operation.stream->news = true;
    if (!std::exchange(operation.stream->listed, true)) {
        // Within the capacity reserved by add(): each stream is of a watched descriptor.
        read_ready_.push_back(operation.stream);
    }
}

void UringLoop::list_unarmed(int fd, Registration& registration) noexcept {
    if (!registration.in_unarmed) {
        registration.in_unarmed = true;
        unarmed_.push_back(fd);
    }
}

/// Gives up the poll in the kernel. It goes with the next submission; until then its completions are stale.
void UringLoop::disarm(int fd, Registration& registration) noexcept {
    const std::uint64_t old = poll_tag(fd, registration.generation);
    ++registration.generation;
    registration.armed = false;
    if (io_uring_sqe* sqe = entry(); sqe != nullptr) {
        io_uring_prep_cancel64(sqe, old, 0);
        io_uring_sqe_set_data64(sqe, ignored);
    }
}

/// Prepares a poll for each descriptor that needs one.
void UringLoop::arm() noexcept {
    std::size_t done = 0;
    for (; done < unarmed_.size(); ++done) {
        const int fd = unarmed_[done];
        Registration& registration = registrations_[static_cast<std::size_t>(fd)];
        const bool wanted = registration.handler != nullptr && registration.events != 0 && !registration.armed &&
                            !registration.in_ready;
        if (wanted) {
            io_uring_sqe* sqe = entry();
            if (sqe == nullptr) {
                break;
            }
            io_uring_prep_poll_add(sqe, fd, registration.events);
            io_uring_sqe_set_data64(sqe, poll_tag(fd, registration.generation));
            registration.armed = true;
        }
        registration.in_unarmed = false;
    }
    unarmed_.erase(unarmed_.begin(), unarmed_.begin() + static_cast<std::ptrdiff_t>(done));
}

Result<void> UringLoop::add(int fd, std::uint32_t events, ReadyHandler& handler) {
    if (::fcntl(fd, F_GETFD) < 0) {
        return fail(EBADF, fmt::format("cannot watch descriptor {}: it is not open", fd));
    }
    if (find(fd) != nullptr) {
        return fail(EEXIST, fmt::format("cannot watch descriptor {} twice", fd));
    }
    const auto index = static_cast<std::size_t>(fd);
    if (index >= registrations_.size()) {
        registrations_.resize(std::max(index + 1, 2 * registrations_.size()));
        ready_.reserve(2 * registrations_.size());
        read_ready_.reserve(2 * registrations_.size());
        unarmed_.reserve(registrations_.size());
    }
    Registration& registration = registrations_[index];
    registration.handler = &handler;
    registration.events = events;
    registration.reported = 0;
    list_unarmed(fd, registration);
    return {};
}

void UringLoop::modify(int fd, std::uint32_t events) noexcept {
    Registration* registration = find(fd);
    if (registration == nullptr || registration->events == events) {
        return;
    }
    if (registration->armed) {
        enable();
        disarm(fd, *registration);
    }
    registration->events = events;
    registration->reported &= events == 0 ? 0 : events | EPOLLERR | EPOLLHUP;
    list_unarmed(fd, *registration);
}

void UringLoop::remove(int fd) noexcept {
    Registration* registration = find(fd);
    if (registration == nullptr) {
        return;
    }
    registration->handler = nullptr;
    registration->reported = 0;
    if (registration->armed) {
        // At once: a poll in the kernel keeps the file open after its descriptor is closed.
        enable();
        disarm(fd, *registration);
        submit();
    }
}

void UringLoop::dispatch() noexcept {
    const std::size_t count = ready_.size();
    for (std::size_t i = 0; i < count; ++i) {
        const int fd = ready_[i];
        Registration& registration = registrations_[static_cast<std::size_t>(fd)];
        registration.in_ready = false;
        const std::uint32_t events = std::exchange(registration.reported, 0);
        if (registration.handler == nullptr) {
            continue;
        }
        list_unarmed(fd, registration);
        if (events != 0) {
            // May add descriptors: the reference is not valid after this.
            registration.handler->on_ready(events);
        }
    }
    ready_.erase(ready_.begin(), ready_.begin() + static_cast<std::ptrdiff_t>(count));

    const std::size_t streams = read_ready_.size();
    for (std::size_t i = 0; i < streams; ++i) {
        if (ReadStream* stream = read_ready_[i]; stream != nullptr) {
            stream->listed = false;
            if (std::exchange(stream->news, false)) {
                stream->handler->on_ready(EPOLLIN);
            }
        }
    }
    read_ready_.erase(read_ready_.begin(), read_ready_.begin() + static_cast<std::ptrdiff_t>(streams));
}

bool UringLoop::anything_to_tell() noexcept {
    std::erase_if(read_ready_, [](ReadStream* stream) {
        const bool old = stream == nullptr || !stream->news;
        if (old && stream != nullptr) {
            stream->listed = false;
        }
        return old;
    });
    return !ready_.empty() || !read_ready_.empty();
}

void UringLoop::wait(std::int64_t timeout_ns) noexcept {
    enable();
    const std::int64_t deadline = timeout_ns > 0 ? monotonic_ns() + timeout_ns : 0;
    bool slept = false;
    for (std::int64_t left = timeout_ns;;) {
        reap();
        arm();
        if (anything_to_tell() || left == 0) {
            // After a sleep what is prepared can wait for the next system call.
            if (!slept && kernel_has_work()) {
                submit();
                reap();
            }
            break;
        }
        if (!sleep(left)) {
            reap();
            break;
        }
        slept = true;
        if (timeout_ns > 0) {
            left = std::max<std::int64_t>(deadline - monotonic_ns(), 0);
        }
    }
    dispatch();
}

unsigned UringLoop::write_batch(std::span<WriteOperation> operations) noexcept {
    if (operations.size() == 1) {
        // A ring costs more than it saves on a single write.
        WriteOperation& only = operations.front();
        const ssize_t written = ::writev(only.fd, only.pieces.data(), static_cast<int>(only.pieces.size()));
        only.result = written >= 0 ? written : (errno == EINTR ? -EAGAIN : -errno);
        return 1;
    }
    enable();
    const unsigned calls_before = calls_;
    writes_ = operations;
    for (std::size_t i = 0; i < operations.size(); ++i) {
        WriteOperation& operation = operations[i];
        operation.result = -EAGAIN;
        io_uring_sqe* sqe = entry();
        if (sqe == nullptr) {
            break;
        }
        io_uring_prep_writev(sqe, operation.fd, operation.pieces.data(), static_cast<unsigned>(operation.pieces.size()),
                             0);
        io_uring_sqe_set_data64(sqe, write_tag(i));
        writes_pending_ |= 1ULL << i;
    }
    if (!submit()) {
        retract_writes();
    }
    reap();
    cancel_writes();
    writes_ = {};
    return calls_ - calls_before;
}

/// Turns writes that the kernel did not take into nothing: their memory is the caller's again when the call returns.
void UringLoop::retract_writes() noexcept {
    const unsigned tail = ring_.sq.sqe_tail;
    for (unsigned i = tail - io_uring_sq_ready(&ring_); i != tail; ++i) {
        io_uring_sqe* sqe = &ring_.sq.sqes[i & ring_.sq.ring_mask];
        if (sqe->opcode == IORING_OP_WRITEV) {
            writes_pending_ &= ~(1ULL << (sqe->user_data >> 2));
            io_uring_prep_nop(sqe);
            io_uring_sqe_set_data64(sqe, ignored);
        }
    }
}

/// Takes back the writes that wait for room in the kernel, and returns when none is left there.
void UringLoop::cancel_writes() noexcept {
    while (writes_pending_ != 0) {
        for (std::uint64_t left = writes_pending_; left != 0; left &= left - 1) {
            if (io_uring_sqe* sqe = entry(); sqe != nullptr) {
                io_uring_prep_cancel64(sqe, write_tag(static_cast<std::size_t>(std::countr_zero(left))), 0);
                io_uring_sqe_set_data64(sqe, ignored);
            }
        }
        // Each cancellation completes, so there is something to wait for.
        ++calls_;
        io_uring_submit_and_wait(&ring_, 1);
        reap();
    }
}

void UringLoop::post_reads(int fd, std::span<ReadOperation> operations) noexcept {
    enable();
    if (io_uring_sq_space_left(&ring_) < operations.size()) {
        submit();  // a chain ends where its submission does
    }
    for (ReadOperation& operation : operations) {
        io_uring_sqe* sqe = entry();
        if (sqe == nullptr) {
            operation.result = -EAGAIN;
            continue;
        }
        operation.result = ReadOperation::pending;
        io_uring_prep_readv(sqe, fd, operation.pieces.data(), static_cast<unsigned>(operation.pieces.size()), 0);
        io_uring_sqe_set_data64(sqe, read_tag(operation));
        if (&operation != &operations.back()) {
            io_uring_sqe_set_flags(sqe, IOSQE_IO_HARDLINK);
        }
    }
}

unsigned UringLoop::look_at_reads() noexcept {
    const unsigned calls_before = calls_;
    if (kernel_has_work()) {
        submit();
    }
    reap();
    return calls_ - calls_before;
}

void UringLoop::cancel_reads(std::span<ReadOperation> operations) noexcept {
    for (const ReadOperation& operation : operations) {
        // The end of one begins the next: each is cancelled in its turn.
        while (operation.result == ReadOperation::pending) {
            if (io_uring_sqe* sqe = entry(); sqe != nullptr) {
                io_uring_prep_cancel64(sqe, read_tag(operation), 0);
                io_uring_sqe_set_data64(sqe, ignored);
            }
            ++calls_;
            io_uring_submit_and_wait(&ring_, 1);
            reap();
        }
    }
    if (!operations.empty()) {
        std::replace(read_ready_.begin(), read_ready_.end(), operations.front().stream,
                     static_cast<ReadStream*>(nullptr));
        *operations.front().stream = {.handler = operations.front().stream->handler};
    }
}

std::string refusal(int code) {
    switch (code) {
        case ENOSYS:
            return "the kernel has none";
        case EPERM:
            return "the sysctl kernel.io_uring_disabled or a container's seccomp profile forbids it";
        case EOPNOTSUPP:
            return "the kernel's is older than Linux 5.11";
        default:
            return std::strerror(code);
    }
}

/// The best ring that the kernel makes; negative errno otherwise.
int make_ring(io_uring& ring) {
    constexpr unsigned always = IORING_SETUP_CQSIZE | IORING_SETUP_R_DISABLED;
    constexpr std::array<unsigned, 3> wishes{
        always | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
            IORING_SETUP_SUBMIT_ALL,                                                               // Linux 6.1
        always | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,  // Linux 5.19
        always,                                                                                    // Linux 5.11
    };
    int result = -EINVAL;
    for (const unsigned flags : wishes) {
        io_uring_params params{};
        params.flags = flags;
        params.cq_entries = limits::loop_completions;
        result = io_uring_queue_init_params(limits::loop_submissions, &ring, &params);
        if (result == 0 && (params.features & IORING_FEAT_EXT_ARG) == 0) {
            io_uring_queue_exit(&ring);
            return -EOPNOTSUPP;
        }
        if (result != -EINVAL) {
            break;
        }
    }
    return result;
}

}  // namespace

Result<std::unique_ptr<Loop>> create_uring_loop() {
    io_uring ring{};
    if (const int result = make_ring(ring); result < 0) {
        return fail(-result, fmt::format("cannot create an event loop with io_uring: {}; epoll works everywhere",
                                         refusal(-result)));
    }
    return std::make_unique<UringLoop>(ring);
}

}  // namespace uvif
