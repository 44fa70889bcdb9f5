// SPDX-License-Identifier: MIT
#include "xen/real/real_event_channels.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>
extern "C" {
#include <xenevtchn.h>
}

// Uses types that the one above declares.
#include <xen/sys/evtchn.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <utility>
#include <vector>

#include "xen/real/device_error.hpp"
#include "xen/real/silent_log.hpp"

/// Theory of operation
///
/// The library binds and notifies. Events go past it: it takes one port a system call and may block, while the driver
/// hands out and takes back as many ports as fit in one read or write of its descriptor (native 32-bit numbers, at
/// most a page of them a call).
///
/// The driver queues delivered ports in a ring. Where that overflows (kernels whose ring does not grow with the
/// bound ports) read fails with EFBIG until a reset empties the ring, and nobody knows what was in it: then every
/// bound port is reported, since a spurious event does no harm.
namespace uvif::xen {

namespace {

static_assert(sizeof(EventPort) == sizeof(evtchn_port_t));

constexpr std::size_t ports_per_call = page_size / sizeof(EventPort);

class RealEventChannels final : public EventChannels {
public:
    explicit RealEventChannels(xenevtchn_handle* handle) : handle_(handle), fd_(::xenevtchn_fd(handle)) {}
    ~RealEventChannels() override { ::xenevtchn_close(handle_); }

    [[nodiscard]] int fd() const noexcept override { return fd_; }

    Result<EventPort> bind_interdomain(DomainId remote, EventPort remote_port) override {
        const auto port =
            ::xenevtchn_bind_interdomain(handle_, std::to_underlying(remote), std::to_underlying(remote_port));
        return bound(port, "bind to an event channel", remote);
    }

    /// A frontend's handle serves one backend: the kernel lets it bind to no other domain from now on. Kernels
    /// before 4.8 cannot, and nothing depends on it.
    Result<EventPort> alloc_unbound(DomainId remote) override {
        if (!std::exchange(restricted_, true)) {
            (void)::xenevtchn_restrict(handle_, std::to_underlying(remote));
        }
        return bound(::xenevtchn_bind_unbound_port(handle_, std::to_underlying(remote)), "make an event channel",
                     remote);
    }

    void unbind(EventPort port) noexcept override {
        std::erase(bound_, port);
        std::erase(unreported_, port);
        ::xenevtchn_unbind(handle_, std::to_underlying(port));
    }

    int notify(EventPort port) noexcept override {
        return ::xenevtchn_notify(handle_, std::to_underlying(port)) == 0 ? 0 : errno;
    }

    std::size_t pending(std::span<EventPort> ports) noexcept override {
        if (unreported_.empty()) {
            const ssize_t octets = ::read(fd_, ports.data(), ports.size_bytes());
            if (octets >= 0) {
                return static_cast<std::size_t>(octets) / sizeof(EventPort);
            }
            if (errno != EFBIG) {
                return 0;
            }
            ::ioctl(fd_, IOCTL_EVTCHN_RESET);
            unreported_.assign(bound_.begin(), bound_.end());  // within the capacity reserved by bound()
        }
        const std::size_t count = std::min(ports.size(), unreported_.size());
        std::copy_n(unreported_.end() - static_cast<std::ptrdiff_t>(count), count, ports.begin());
        unreported_.resize(unreported_.size() - count);
        return count;
    }

    void unmask(std::span<const EventPort> ports) noexcept override {
        while (!ports.empty()) {
            const auto part = ports.first(std::min(ports.size(), ports_per_call));
            const ssize_t octets = ::write(fd_, part.data(), part.size_bytes());
            if (octets <= 0) {
                return;
            }
            ports = ports.subspan(static_cast<std::size_t>(octets) / sizeof(EventPort));
        }
    }

private:
    Result<EventPort> bound(xenevtchn_port_or_error_t port, std::string_view what, DomainId remote) {
        if (port < 0) {
            const int error = errno;
            return fail(error, fmt::format("cannot {} of domain {}: {}", what, std::to_underlying(remote),
                                           std::generic_category().message(error)));
        }
        bound_.push_back(static_cast<EventPort>(port));
        unreported_.reserve(bound_.size());
        return bound_.back();
    }

    xenevtchn_handle* handle_;
    int fd_;
    bool restricted_ = false;
    std::vector<EventPort> bound_;
    std::vector<EventPort> unreported_;  ///< after an overflow
};

}  // namespace

Result<std::unique_ptr<EventChannels>> open_real_event_channels() {
    xenevtchn_handle* const handle = ::xenevtchn_open(silent_log(), 0);
    if (handle == nullptr) {
        return device_failure(errno, "evtchn", "xen-evtchn");
    }
    auto channels = std::make_unique<RealEventChannels>(handle);
    const int flags = ::fcntl(channels->fd(), F_GETFL);
    if (flags < 0 || ::fcntl(channels->fd(), F_SETFL, flags | O_NONBLOCK) != 0) {
        return fail(errno, "cannot make /dev/xen/evtchn non-blocking");
    }
    return channels;
}

}  // namespace uvif::xen
