// SPDX-License-Identifier: MIT
#include "port/tap.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string_view>
#include <thread>
#include <utility>

#include "packet/vnet_header.hpp"
#include "port/tap_port.hpp"
#include "runtime/clock.hpp"
#include "runtime/describe_error.hpp"
#include "runtime/limits.hpp"
#include "runtime/log.hpp"

namespace uvif {

namespace {

constexpr const char* clone_device = "/dev/net/tun";

ifreq request_for(const std::string& name) noexcept {
    ifreq request{};
    name.copy(request.ifr_name, IFNAMSIZ - 1);
    return request;
}

/// The rules of the kernel's dev_valid_name(), and no '%', which it would take for a template.
bool valid_name(std::string_view name) noexcept {
    const auto forbidden = [](char c) { return c == '/' || c == ':' || c == '%' || c <= ' ' || c > '~'; };
    return !name.empty() && name.size() < IFNAMSIZ && name != "." && name != ".." &&
           std::none_of(name.begin(), name.end(), forbidden);
}

std::unexpected<Error> attach_failure(const std::string& name, bool multi_queue, int code) {
    const bool exists = ::if_nametoindex(name.c_str()) != 0;
    switch (code) {
        case EBUSY:
            return fail(code,
                        fmt::format("the TAP interface {} is held by another process; stop that one first", name));
        case EPERM:
            return fail(code, fmt::format("no permission to {} the TAP interface {}; CAP_NET_ADMIN is needed",
                                          exists ? "attach to" : "make", name));
        case EINVAL:
            if (exists) {
                return fail(code, fmt::format("the interface {} exists and is not a {}-queue TAP; remove it or choose "
                                              "another name",
                                              name, multi_queue ? "multi" : "single"));
            }
            break;
        default:
            break;
    }
    return fail(code, fmt::format("cannot make the TAP interface {}: {}", name, std::strerror(code)));
}

Result<UniqueFd> open_clone_device() {
    UniqueFd fd(::open(clone_device, O_RDWR | O_NONBLOCK | O_CLOEXEC));
    if (fd) {
        return fd;
    }
    const int code = errno;
    switch (code) {
        case ENOENT:
        case ENODEV:
        case ENXIO:
            return fail(code, fmt::format("{} is missing, so there are no TAP interfaces; load the kernel module tun, "
                                          "or give the container that device",
                                          clone_device));
        case EACCES:
        case EPERM:
            return fail(code, fmt::format("no permission to open {}; run as root or fix its mode", clone_device));
        default:
            return fail(code, fmt::format("cannot open {}: {}", clone_device, describe_error(code)));
    }
}

Result<UniqueFd> open_queue(const std::string& name, bool multi_queue) {
    auto fd = open_clone_device();
    if (!fd) {
        return fd;
    }
    ifreq request = request_for(name);
    request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (multi_queue ? IFF_MULTI_QUEUE : 0));
    const std::int64_t deadline = monotonic_ns() + limits::tap_busy_ns;
    while (::ioctl(fd->get(), TUNSETIFF, &request) != 0) {
        const int code = errno;
        if (code == EBUSY && monotonic_ns() < deadline) {
            std::this_thread::sleep_for(std::chrono::milliseconds(5));
        } else if (code != EINTR) {
            return attach_failure(name, multi_queue, code);
        }
    }
    return fd;
}

Result<void> set_queue_attached(const std::string& name, int fd, bool attached) {
    ifreq request{};
    request.ifr_flags = attached ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE;
    if (::ioctl(fd, TUNSETQUEUE, &request) != 0) {
        const int code = errno;
        return fail(code, fmt::format("cannot {} a queue of the TAP interface {}: {}", attached ? "attach" : "detach",
                                      name, std::strerror(code)));
    }
    return {};
}

/// Settings of the interface that no guest changes.
Result<void> configure(const std::string& name, int fd, int control, bool persistent) {
    int header_length = sizeof(VnetHeader);
    ifreq queue_length = request_for(name);
    queue_length.ifr_qlen = limits::tap_queue_length;
    if (::ioctl(fd, TUNSETVNETHDRSZ, &header_length) != 0 || ::ioctl(control, SIOCSIFTXQLEN, &queue_length) != 0 ||
        ::ioctl(fd, TUNSETPERSIST, persistent ? 1UL : 0UL) != 0) {
        const int code = errno;
        return fail(code, fmt::format("cannot set up the TAP interface {}: {}", name, std::strerror(code)));
    }
    return {};
}

}  // namespace

Result<std::unique_ptr<TapDevice>> TapDevice::open(const TapConfig& config) {
    if (!valid_name(config.name)) {
        return fail(EINVAL, fmt::format("\"{}\" is no name for an interface: use 1 to {} printable characters without "
                                        "space, '/', ':' and '%'",
                                        printable(config.name), IFNAMSIZ - 1));
    }
    if (config.queues == 0 || config.queues > limits::tap_queues) {
        return fail(EINVAL, fmt::format("cannot open the TAP interface {} with {} queues: choose 1 to {}", config.name,
                                        config.queues, limits::tap_queues));
    }
    UniqueFd control(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!control) {
        const int code = errno;
        return fail(code, fmt::format("cannot open a socket to set up interfaces: {}", std::strerror(code)));
    }
    std::unique_ptr<TapDevice> device(new TapDevice(config.name, std::move(control)));
    // The kernel does not let an interface change this, and the next daemon may want another number of queues.
    const bool multi_queue = config.queues > 1 || config.persistent;
    for (unsigned i = 0; i < config.queues; ++i) {
        auto fd = open_queue(config.name, multi_queue);
        if (!fd) {
            return propagate(fd);
        }
        if (i == 0) {
            if (auto done = configure(config.name, fd->get(), device->control_.get(), config.persistent); !done) {
                return propagate(done);
            }
        }
        // The first queue stays attached: through a detached one the kernel takes no settings.
        if (i > 0) {
            if (auto done = set_queue_attached(config.name, fd->get(), false); !done) {
                return propagate(done);
            }
        }
        device->queues_.push_back(std::move(*fd));
    }
    return device;
}

Result<std::unique_ptr<Port>> TapDevice::queue(unsigned index, Loop& loop) {
    if (index >= queues_.size()) {
        return fail(EINVAL, fmt::format("the TAP interface {} has no queue {}", name_, index));
    }
    const int own = queues_[index].get();
    if (index > 0) {
        if (auto done = set_queue_attached(name_, own, true); !done) {
            return propagate(done);
        }
    }
    int send_buffer = limits::tap_send_buffer;
    UniqueFd fd(::fcntl(own, F_DUPFD_CLOEXEC, 0));
    if (!fd || ::ioctl(own, TUNSETSNDBUF, &send_buffer) != 0) {
        const int code = errno;
        if (index > 0) {
            (void)set_queue_attached(name_, own, false);  // or the kernel sends it packets that nobody reads
        }
        return fail(code,
                    fmt::format("cannot use queue {} of the TAP interface {}: {}", index, name_, describe_error(code)));
    }
    return std::make_unique<TapPort>(std::move(fd), loop, index > 0);
}

Result<void> TapDevice::set_mac(const std::array<std::uint8_t, 6>& mac) {
    ifreq request = request_for(name_);
    request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    std::copy(mac.begin(), mac.end(), request.ifr_hwaddr.sa_data);
    if (::ioctl(control_.get(), SIOCSIFHWADDR, &request) != 0) {
        const int code = errno;
        return fail(code, fmt::format("cannot set the MAC address of {}: {}", name_, std::strerror(code)));
    }
    return {};
}

Result<void> TapDevice::set_mtu(unsigned octets) {
    ifreq request = request_for(name_);
    request.ifr_mtu = static_cast<int>(std::min(octets, limits::packet_length));
    if (::ioctl(control_.get(), SIOCSIFMTU, &request) != 0) {
        const int code = errno;
        return fail(code, fmt::format("cannot set the MTU of {} to {}: {}", name_, octets, std::strerror(code)));
    }
    return {};
}

Result<void> TapDevice::set_carrier(bool on) {
    int carrier = on ? 1 : 0;
    if (::ioctl(queues_.front().get(), TUNSETCARRIER, &carrier) != 0) {
        const int code = errno;
        return fail(code, fmt::format("cannot set the carrier of {} (Linux 5.0 can): {}", name_, std::strerror(code)));
    }
    return {};
}

Result<void> TapDevice::set_up(bool up) {
    ifreq request = request_for(name_);
    bool done = ::ioctl(control_.get(), SIOCGIFFLAGS, &request) == 0;
    if (done) {
        const int flags = up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP;
        request.ifr_flags = static_cast<short>(flags);
        done = ::ioctl(control_.get(), SIOCSIFFLAGS, &request) == 0;
    }
    if (!done) {
        const int code = errno;
        return fail(code, fmt::format("cannot set {} {}: {}", name_, up ? "up" : "down", std::strerror(code)));
    }
    return {};
}

bool TapDevice::deleted() const noexcept {
    ifreq request{};
    return ::ioctl(queues_.front().get(), TUNGETIFF, &request) != 0 && errno == EBADFD;
}

Result<void> TapDevice::set_persistent(bool on) {
    if (::ioctl(queues_.front().get(), TUNSETPERSIST, on ? 1UL : 0UL) != 0) {
        const int code = errno;
        return fail(code, fmt::format("cannot make {} {}: {}", name_, on ? "stay" : "go", std::strerror(code)));
    }
    return {};
}

Result<void> TapDevice::set_offload(bool csum, bool tso4, bool tso6) {
    unsigned long features = 0;
    if (csum) {
        features = TUN_F_CSUM | (tso4 ? TUN_F_TSO4 : 0) | (tso6 ? TUN_F_TSO6 : 0);
    }
    if (::ioctl(queues_.front().get(), TUNSETOFFLOAD, features) != 0) {
        const int code = errno;
        return fail(code, fmt::format("cannot set the offloads of {}: {}", name_, std::strerror(code)));
    }
    return {};
}

}  // namespace uvif
