// SPDX-License-Identifier: MIT
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <limits>
#include <vector>

#include "runtime/clock.hpp"
#include "runtime/loop_kinds.hpp"
#include "runtime/unique_fd.hpp"

// Theory of operation
//
// The portable loop: epoll in its level triggered manner, and plain system calls. Registrations are found by descriptor
// number. An epoll event carries the generation of the registration it belongs to, so an event that was fetched before
// a handler removed its descriptor is recognised and left out, even when the number has been registered again
// meanwhile.

namespace uvif {

namespace {

struct Registration {
    ReadyHandler* handler = nullptr;  ///< null: free
    std::uint32_t events = 0;         ///< 0: not with the kernel, which would report errors unasked
    std::uint32_t generation = 0;
};

class EpollLoop final : public Loop {
public:
    explicit EpollLoop(UniqueFd epoll) noexcept : epoll_(std::move(epoll)) {}

    [[nodiscard]] std::string_view name() const noexcept override { return "epoll"; }
    Result<void> add(int fd, std::uint32_t events, ReadyHandler& handler) override;
    void modify(int fd, std::uint32_t events) noexcept override;
    void remove(int fd) noexcept override;
    void wait(std::int64_t timeout_ns) noexcept override;
    unsigned write_batch(std::span<WriteOperation> operations) noexcept override;

private:
    [[nodiscard]] Registration* find(int fd) noexcept;
    int control(int operation, int fd, const Registration& registration) noexcept;
    int fetch(std::int64_t timeout_ns) noexcept;

    UniqueFd epoll_;
    std::vector<Registration> registrations_;
    std::array<epoll_event, 256> ready_{};
    bool nanoseconds_ = true;  ///< epoll_pwait2 works (Linux 5.11)
};

Registration* EpollLoop::find(int fd) noexcept {
    const auto index = static_cast<std::size_t>(fd);
    if (fd < 0 || index >= registrations_.size() || registrations_[index].handler == nullptr) {
        return nullptr;
    }
    return &registrations_[index];
}

int EpollLoop::control(int operation, int fd, const Registration& registration) noexcept {
    epoll_event event{};
    event.events = registration.events;
    event.data.u64 = static_cast<std::uint64_t>(registration.generation) << 32 | static_cast<std::uint32_t>(fd);
    return ::epoll_ctl(epoll_.get(), operation, fd, &event);
}

Result<void> EpollLoop::add(int fd, std::uint32_t events, ReadyHandler& handler) {
    if (fd < 0) {
        return fail(EBADF, fmt::format("cannot watch descriptor {}: it is not open", fd));
    }
    if (find(fd) != nullptr) {
        return fail(EEXIST, fmt::format("cannot watch descriptor {} twice", fd));
    }
    const auto index = static_cast<std::size_t>(fd);
    if (index >= registrations_.size()) {
        registrations_.resize(index + 1);
    }
    Registration& registration = registrations_[index];
    registration.events = events;
    ++registration.generation;
    if (events != 0 && control(EPOLL_CTL_ADD, fd, registration) != 0) {
        const int code = errno;
        return fail(code, fmt::format("cannot watch descriptor {} with epoll: {}", fd, std::strerror(code)));
    }
    registration.handler = &handler;
    return {};
}

void EpollLoop::modify(int fd, std::uint32_t events) noexcept {
    Registration* registration = find(fd);
    if (registration == nullptr || registration->events == events) {
        return;
    }
    const bool was_known = registration->events != 0;
    registration->events = events;
    if (events == 0) {
        ++registration->generation;
        control(EPOLL_CTL_DEL, fd, *registration);
    } else {
        control(was_known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, *registration);
    }
}

void EpollLoop::remove(int fd) noexcept {
    Registration* registration = find(fd);
    if (registration == nullptr) {
        return;
    }
    if (registration->events != 0) {
        control(EPOLL_CTL_DEL, fd, *registration);
    }
    registration->handler = nullptr;
    ++registration->generation;
}

int EpollLoop::fetch(std::int64_t timeout_ns) noexcept {
    const auto room = static_cast<int>(ready_.size());
    if (nanoseconds_) {
        const timespec timeout{.tv_sec = timeout_ns / ns_per_s, .tv_nsec = timeout_ns % ns_per_s};
        const int count =
            ::epoll_pwait2(epoll_.get(), ready_.data(), room, timeout_ns < 0 ? nullptr : &timeout, nullptr);
        if (count >= 0 || (errno != ENOSYS && errno != EPERM)) {
            return count;
        }
        nanoseconds_ = false;
    }
    std::int64_t ms = -1;
    if (timeout_ns >= 0) {
        ms = std::min<std::int64_t>((timeout_ns + ns_per_ms - 1) / ns_per_ms, std::numeric_limits<int>::max());
    }
    return ::epoll_wait(epoll_.get(), ready_.data(), room, static_cast<int>(ms));
}

void EpollLoop::wait(std::int64_t timeout_ns) noexcept {
    const int count = fetch(timeout_ns);
    for (int i = 0; i < count; ++i) {
        const epoll_event& event = ready_[static_cast<std::size_t>(i)];
        const auto fd = static_cast<int>(event.data.u64 & 0xffffffffU);
        const auto generation = static_cast<std::uint32_t>(event.data.u64 >> 32);
        const Registration* registration = find(fd);
        if (registration == nullptr || registration->generation != generation) {
            continue;
        }
        // A handler before this one may have asked for less.
        const std::uint32_t events = event.events & (registration->events | EPOLLERR | EPOLLHUP);
        if (events != 0) {
            registration->handler->on_ready(events);
        }
    }
}

unsigned EpollLoop::write_batch(std::span<WriteOperation> operations) noexcept {
    unsigned calls = 0;
    const WriteOperation* blocked = nullptr;
    for (WriteOperation& operation : operations) {
        if (blocked != nullptr && blocked->fd == operation.fd) {
            // There is no room behind what had none, and nothing should overtake it.
            operation.result = -EAGAIN;
            continue;
        }
        ++calls;
        const ssize_t written =
            ::writev(operation.fd, operation.pieces.data(), static_cast<int>(operation.pieces.size()));
        operation.result = written >= 0 ? written : (errno == EINTR ? -EAGAIN : -errno);
        if (operation.result == -EAGAIN) {
            blocked = &operation;
        }
    }
    return calls;
}

}  // namespace

Result<std::unique_ptr<Loop>> create_epoll_loop() {
    UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
    if (!epoll) {
        const int code = errno;
        return fail(code,
                    fmt::format("cannot create an event loop with epoll ({}); raise the limit of open files if it is "
                                "reached",
                                std::strerror(code)));
    }
    return std::make_unique<EpollLoop>(std::move(epoll));
}

}  // namespace uvif
