// SPDX-License-Identifier: MIT
//
// What an application calls: finding a device that is free, and waiting for its backend.
//
// A device has one user. A kernel driver is seen in sysfs. Another program of this library holds a DeviceLock while it
// lives, so a device that a crashed program left Connected in xenstore can be taken up.
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "netfront/device.hpp"
#include "netfront/device_lock.hpp"
#include "runtime/clock.hpp"
#include "runtime/limits.hpp"

namespace uvif::netfront {
namespace {

/// A kernel driver that holds the device; only real Xen has one.
Result<void> check_kernel_driver(const std::string& description, unsigned id) {
    if (description != "real") {
        return {};
    }
    const std::string device = fmt::format("/sys/bus/xen/devices/vif-{}", id);
    if (::access((device + "/driver").c_str(), F_OK) != 0) {
        return {};
    }
    return fail(EBUSY, fmt::format("vif {0} is held by the kernel's driver: let go of it with 'echo vif-{0} > "
                                   "{1}/driver/unbind', or use another device",
                                   id, device));
}

/// The lock of a device that nobody holds.
Result<DeviceLock> hold(const std::string& description, unsigned id) {
    if (auto free = check_kernel_driver(description, id); !free) {
        return propagate(free);
    }
    return DeviceLock::acquire(description, id);
}

struct Held {
    unsigned id;
    DeviceLock lock;
};

Result<Held> find_and_hold(xen::Hypervisor& hypervisor, const Config& config) {
    auto store = hypervisor.open_store();
    if (!store) {
        return propagate(store);
    }
    auto ids = list_devices(**store);
    if (!ids) {
        return propagate(ids);
    }
    const unsigned* wanted = config.device ? &*config.device : nullptr;
    if (ids->empty() || (wanted != nullptr && !std::ranges::binary_search(*ids, *wanted))) {
        return fail(ENODEV, no_such_device(*ids, wanted));
    }
    Result<Held> last = fail(ENODEV, "unreachable");
    for (const unsigned id : *ids) {
        if (wanted != nullptr && id != *wanted) {
            continue;
        }
        auto lock = hold(hypervisor.description(), id);
        if (lock) {
            return Held{id, std::move(*lock)};
        }
        last = propagate(lock);
    }
    return last;
}

Result<void> wait_until_up(Device::Impl& device, unsigned timeout_ms, int cancel_fd) {
    const std::int64_t deadline = monotonic_ns() + timeout_ms * ns_per_ms;
    for (;;) {
        auto state = device.advance();
        if (!state) {
            return propagate(state);
        }
        switch (*state) {
            case LinkState::up:
            case LinkState::down:
                return {};
            case LinkState::closed:
                return fail(ENODEV, fmt::format("vif {}: {}", device.id(), device.failure()));
            case LinkState::broken:
                return fail(EPROTO, device.failure());
            case LinkState::connecting:
                break;
        }
        if (device.refused()) {
            return fail(ECONNREFUSED, fmt::format("vif {}: {}", device.id(), device.describe_refusal()));
        }
        const std::int64_t left_ms = (deadline - monotonic_ns()) / ns_per_ms;
        if (left_ms <= 0) {
            return fail(ETIMEDOUT, fmt::format("the backend of vif {} did not connect within {} ms: {}", device.id(),
                                               timeout_ms, device.describe_wait()));
        }
        std::array<pollfd, 2> news{{{device.fd(), POLLIN, 0}, {cancel_fd, POLLIN, 0}}};
        static_cast<void>(::poll(news.data(), news.size(), static_cast<int>(std::min<std::int64_t>(left_ms, 1000))));
        if (news[1].revents != 0) {
            return fail(ECANCELED, fmt::format("interrupted while waiting for the backend of vif {}", device.id()));
        }
    }
}

}  // namespace

Result<std::unique_ptr<Device>> Device::connect(const Config& config) {
    if (auto checked = check_config(config); !checked) {
        return propagate(checked);
    }
    auto hypervisor = xen::open_hypervisor(config.hypervisor);
    if (!hypervisor) {
        return propagate(hypervisor);
    }
    auto held = find_and_hold(**hypervisor, config);
    if (!held) {
        return propagate(held);
    }
    auto impl = Impl::start(**hypervisor, held->id, config);
    if (!impl) {
        return propagate(impl);
    }
    (*impl)->keep(std::move(*hypervisor), std::move(held->lock));
    auto device = std::make_unique<Device>(std::move(*impl));
    if (auto up = wait_until_up(*device->impl_, config.connect_timeout_ms, config.cancel_fd); !up) {
        return propagate(up);
    }
    return device;
}

Device::Device(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}

Device::~Device() {
    impl_->close(limits::frontend_close_ms);
}

unsigned Device::id() const noexcept {
    return impl_->id();
}

std::array<std::uint8_t, 6> Device::mac() const noexcept {
    return impl_->info().mac;
}

unsigned Device::mtu() const noexcept {
    return impl_->mtu();
}

bool Device::can_scatter_gather() const noexcept {
    return impl_->offer().tx.scatter_gather;
}

bool Device::can_segment(GsoType type) const noexcept {
    const TxFeatures& tx = impl_->offer().tx;
    return (type == GsoType::tcpv4 && tx.tcpv4) || (type == GsoType::tcpv6 && tx.tcpv6);
}

bool Device::can_leave_checksum_blank(bool ipv6) const noexcept {
    const TxFeatures& tx = impl_->offer().tx;
    return ipv6 ? tx.checksum_ipv6 : tx.checksum_ipv4;
}

unsigned Device::static_buffers() const noexcept {
    return impl_->static_buffers();
}

bool Device::persistent_grants() const noexcept {
    return impl_->persistent_grants();
}

bool Device::can_steer_by_hash() const noexcept {
    return impl_->offer().control_ring;
}

Result<void> Device::steer_by_hash(const Hashing& hashing) {
    return impl_->steer_by_hash(hashing);
}

bool Device::can_filter_multicast() const noexcept {
    return impl_->offer().tx.groups;
}

Result<void> Device::filter_multicast(bool on) {
    return impl_->filter_multicast(on);
}

unsigned Device::queue_count() const noexcept {
    return impl_->queue_count();
}

Queue& Device::queue(unsigned index) noexcept {
    return impl_->queue(index);
}

int Device::fd() const noexcept {
    return impl_->fd();
}

LinkState Device::process() {
    static_cast<void>(impl_->advance());  // an error is in state() and failure() from now on
    return impl_->state();
}

LinkState Device::state() const noexcept {
    return impl_->state();
}

std::string Device::failure() const {
    return impl_->failure();
}

std::vector<std::string> Device::notes() const {
    return impl_->notes();
}

}  // namespace uvif::netfront
