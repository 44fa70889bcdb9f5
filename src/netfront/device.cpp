// SPDX-License-Identifier: MIT
#include "netfront/device.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "runtime/clock.hpp"
#include "runtime/describe_error.hpp"
#include "runtime/limits.hpp"
#include "runtime/printable.hpp"
#include "xen/store_path.hpp"

namespace uvif::netfront {
namespace {

using xen::XenbusState;

Result<void> check_range(std::string_view what, unsigned value, unsigned least, unsigned most) {
    if (value < least || value > most) {
        return fail(EINVAL, fmt::format("netfront: {} is {}, and must be {} to {}", what, value, least, most));
    }
    return {};
}

/// A directory may be removed at any moment: then the next look finds that, and decides.
Result<void> unless_gone(Result<void> done) {
    return !done && done.error().code == ENOENT ? Result<void>() : done;
}

/// A value of another's making: anything that cannot be read is as good as absent. Only a lost store is an error.
Result<std::optional<std::string>> read_lenient(xen::Store& store, const std::string& path) {
    auto value = xen::read_text(store, path);
    if (!value && (value.error().code == EACCES || value.error().code == EINVAL)) {
        return std::optional<std::string>();
    }
    return value;
}

}  // namespace

Result<void> check_config(const Config& config) {
    if (auto checked = check_range("queues", config.queues, 1, limits::queues_per_device); !checked) {
        return checked;
    }
    if (auto checked = check_range("tx_buffers", config.tx_buffers, max_tx_fragments, ring::TxFrontRing::size);
        !checked) {
        return checked;
    }
    if (auto checked = check_range("tx_headers", config.tx_headers, 0, ring::TxFrontRing::size); !checked) {
        return checked;
    }
    return check_range("rx_buffers", config.rx_buffers, max_fragments, ring::RxFrontRing::size);
}

Device::Impl::Impl(xen::Hypervisor& hypervisor, unsigned id, const Config& config, ring::Index first_index) noexcept
    : hypervisor_(hypervisor), id_(id), config_(config), first_index_(first_index) {}

Result<std::unique_ptr<Device::Impl>> Device::Impl::start(xen::Hypervisor& hypervisor, unsigned id,
                                                          const Config& config, ring::Index first_index) {
    if (auto checked = check_config(config); !checked) {
        return propagate(checked);
    }
    std::unique_ptr<Impl> device(new Impl(hypervisor, id, config, first_index));
    if (auto opened = device->open(); !opened) {
        device->closed_ = true;  // it never was ours to close
        return propagate(opened);
    }
    return device;
}

Result<void> Device::Impl::open() {
    auto store = hypervisor_.open_store();
    if (!store) {
        return propagate(store);
    }
    store_ = std::move(*store);
    auto info = read_device(*store_, id_);
    if (!info) {
        return propagate(info);
    }
    info_ = std::move(*info);
    mtu_ = read_mtu(*store_, info_.frontend);
    auto grants = hypervisor_.open_grant_allocator();
    if (!grants) {
        return propagate(grants);
    }
    grants_ = std::move(*grants);

    alarm_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    poll_.reset(::epoll_create1(EPOLL_CLOEXEC));
    for (const int fd : {alarm_.get(), store_->fd()}) {
        epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
        if (::epoll_ctl(poll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
            const int error = errno;
            return fail(error, fmt::format("cannot watch for xenstore events: {}", describe_error(error)));
        }
    }
    for (const std::string& path :
         {info_.frontend + "/state", info_.backend + "/state", info_.backend + "/online", info_.backend + "/carrier"}) {
        if (auto watched = store_->watch(path, "netfront"); !watched) {
            return watched;
        }
    }
    auto before = look();
    if (!before) {
        return propagate(before);
    }
    view_ = *before;
    closed_since_ns_ = 0;  // that was before us
    // Whatever a former user of the device left: with this the backend begins anew.
    return xen::write_state(*store_, info_.frontend, XenbusState::initialising);
}

Device::Impl::~Impl() {
    close(0);
}

void Device::Impl::keep(std::unique_ptr<xen::Hypervisor> hypervisor, DeviceLock lock) noexcept {
    owned_hypervisor_ = std::move(hypervisor);
    lock_.emplace(std::move(lock));
}

/// Takes all news as one: what they say is read from the store itself.
void Device::Impl::drain() noexcept {
    std::uint64_t count = 0;
    static_cast<void>(!::read(alarm_.get(), &count, sizeof count));
    for (unsigned i = 0; i < limits::frontend_events && store_->next_event(); ++i) {
    }
}

Result<xen::FrontendView> Device::Impl::look() {
    auto backend = read_lenient(*store_, info_.backend + "/state");
    if (!backend) {
        return propagate(backend);
    }
    auto online = read_lenient(*store_, info_.backend + "/online");
    if (!online) {
        return propagate(online);
    }
    auto self = read_lenient(*store_, info_.frontend + "/state");
    if (!self) {
        return propagate(self);
    }
    xen::FrontendView view;
    view.frontend_exists = self->has_value();
    view.self = xen::parse_xenbus_state(self->value_or(""));
    view.backend = xen::parse_xenbus_state(backend->value_or(""));
    view.attached = attached_;
    view.wanted = !closing_ && online->value_or("1") != "0";
    view.overdue = overdue_;
    if (view.backend != XenbusState::closed) {
        closed_since_ns_ = 0;
    } else if (view_.backend != XenbusState::closed) {
        closed_since_ns_ = monotonic_ns();
    }
    if (*backend && view.backend == XenbusState::unknown && **backend != "0") {
        notes_.add(fmt::format("{}/state is \"{}\", which is no state of xenbus; taken as absent", info_.backend,
                               printable(**backend)));
    }
    return view;
}

Result<LinkState> Device::Impl::advance() {
    if (closed_) {
        return LinkState::closed;
    }
    drain();
    auto state = advance_inner();
    if (!state) {
        set_closed(state.error().message);
    }
    told_ = this->state();
    return state;
}

Result<LinkState> Device::Impl::advance_inner() {
    for (unsigned i = 0; i < limits::frontend_steps && !closed_; ++i) {
        auto view = look();
        if (!view) {
            return propagate(view);
        }
        view_ = *view;
        auto progress = act(view_, xen::frontend_step(view_));
        if (!progress) {
            return propagate(progress);
        }
        if (*progress == Progress::wait) {
            break;
        }
    }
    if (attached_ && xen::is_live(view_.self) && xen::is_live(view_.backend)) {
        if (auto looked = look_at_link(); !looked) {
            return propagate(looked);
        }
    }
    return state();
}

Result<Device::Impl::Progress> Device::Impl::act(const xen::FrontendView& view, const xen::FrontendStep& step) {
    switch (step.action) {
        case xen::FrontendAction::none:
            return Progress::wait;
        case xen::FrontendAction::write_state: {
            auto written = xen::change_state(*store_, info_.frontend, view.self, step.state);
            if (!written && written.error().code != ENOENT) {
                return propagate(written);
            }
            return Progress::again;
        }
        case xen::FrontendAction::connect:
            if (auto built = build(); !built) {
                return propagate(built);
            }
            break;
        case xen::FrontendAction::disconnect:
            if (told_ == LinkState::up || told_ == LinkState::down || told_ == LinkState::broken) {
                wake_ourselves();
                return Progress::wait;
            }
            end_queues();
            break;
        case xen::FrontendAction::finished:
            set_closed(view.frontend_exists ? "the toolstack removes the device" : "the toolstack removed the device");
            break;
    }
    return Progress::again;
}

void Device::Impl::wake_ourselves() noexcept {
    const std::uint64_t one = 1;
    static_cast<void>(!::write(alarm_.get(), &one, sizeof one));
}

void Device::Impl::end_queues() noexcept {
    if (attached_ && !was_up_ && turned_down_ns_ == 0) {
        turned_down_ns_ = monotonic_ns();
    }
    for (Queue::Impl* queue : queue_impls_) {
        queue->disconnect();
    }
    control_.reset();
    static_buffers_ = 0;
    attached_ = false;
    was_up_ = false;
}

Result<void> Device::Impl::build() {
    queue_impls_.clear();
    queues_.clear();
    auto offer = read_offer(*store_, info_.backend, notes_);
    if (!offer) {
        return propagate(offer);
    }
    offer_ = *offer;
    if (!offer_.rx_copy) {
        return fail(EPROTO, fmt::format("the backend {} does not offer feature-rx-copy: it can only flip pages, which "
                                        "no frontend of today takes; use a newer one",
                                        info_.backend));
    }
    mtu_ = read_mtu(*store_, info_.frontend);
    const bool segmentation = config_.scatter_gather && config_.segmentation;
    const QueueSetup setup{
        .backend = info_.backend_domain,
        .tx_buffers = config_.tx_buffers,
        .tx_headers = config_.tx_headers,
        .rx_buffers = config_.rx_buffers,
        .split_event_channels = config_.split_event_channels && offer_.split_event_channels,
        .tx = offer_.tx,
        .rx = {.tcpv4 = segmentation, .tcpv6 = segmentation},
        .first_index = first_index_,
        .alarm = alarm_.get(),
    };
    const unsigned count = std::min(config_.queues, offer_.max_queues);
    for (unsigned i = 0; i < count; ++i) {
        auto queue = Queue::Impl::create(hypervisor_, *grants_, setup);
        if (!queue) {
            return propagate(queue);
        }
        queue_impls_.push_back(queue->get());
        queues_.push_back(std::make_unique<Queue>(std::move(*queue)));
    }
    control_.reset();
    if (offer_.control_ring) {
        auto control = Control::create(hypervisor_, *grants_, info_.backend_domain);
        if (!control) {
            return propagate(control);
        }
        control_ = std::move(*control);
    }
    attached_ = true;
    return unless_gone(publish(*store_, info_.frontend, config_, offer_, queue_impls_, control_.get()));
}

/// The connection's own state: whether the backend is there, and its carrier.
Result<void> Device::Impl::look_at_link() {
    if (!was_up_) {
        was_up_ = true;
        for (Queue::Impl* queue : queue_impls_) {
            queue->notify_all();
        }
        if (control_ && config_.static_grants) {
            add_static_grants();
        }
    }
    auto carrier = read_carrier(*store_, info_.backend, notes_);
    if (!carrier) {
        return propagate(carrier);
    }
    carrier_ = *carrier;
    return {};
}

Result<void> Device::Impl::check_connected() const {
    const LinkState now = state();
    if (now != LinkState::up && now != LinkState::down) {
        return fail(ENOTCONN, "netfront: the device is not connected");
    }
    return {};
}

Result<void> Device::Impl::filter_multicast(bool on) {
    if (auto connected = check_connected(); !connected) {
        return connected;
    }
    if (!offer_.dynamic_groups) {
        return fail(EOPNOTSUPP, fmt::format("netfront: the backend {} {}", info_.backend,
                                            offer_.tx.groups
                                                ? "looks only when it connects whether to filter multicast "
                                                  "(no feature-dynamic-multicast-control): set Config::filter_multicast"
                                                : "does not filter multicast (no feature-multicast-control)"));
    }
    return request_groups(*store_, info_.frontend, on);
}

Result<void> Device::Impl::steer_by_hash(const Hashing& hashing) {
    if (auto connected = check_connected(); !connected) {
        return connected;
    }
    if (!control_) {
        return fail(
            EOPNOTSUPP,
            fmt::format("netfront: the backend {} has no control ring (feature-ctrl-ring), so it cannot be told "
                        "how to steer",
                        info_.backend));
    }
    return control_->steer_by_hash(hashing, queue_count());
}

/// What the backend refuses, or has no room for, it goes on mapping or copying.
void Device::Impl::add_static_grants() {
    for (unsigned i = 0; i < queue_impls_.size(); ++i) {
        const Queue::Impl& queue = *queue_impls_[i];
        for (const auto& [refs, access] : {std::pair(queue.tx_refs(), xen::Access::read_only),
                                           std::pair(queue.rx_refs(), xen::Access::read_write)}) {
            const auto added = control_->add_static(i, refs, access);
            if (!added) {
                return;
            }
            static_buffers_ += *added;
        }
    }
}

void Device::Impl::set_closed(std::string why) {
    closed_ = true;
    failure_ = std::move(why);
}

LinkState Device::Impl::state() const noexcept {
    if (closed_) {
        return LinkState::closed;
    }
    if (!attached_ || !was_up_ || !xen::is_live(view_.self) || !xen::is_live(view_.backend)) {
        return LinkState::connecting;
    }
    if (std::ranges::any_of(queue_impls_, [](const Queue::Impl* queue) { return queue->breach() != nullptr; })) {
        return LinkState::broken;
    }
    return carrier_ ? LinkState::up : LinkState::down;
}

std::string Device::Impl::failure() const {
    if (closed_) {
        return failure_;
    }
    for (std::size_t i = 0; i < queue_impls_.size(); ++i) {
        if (const char* breach = queue_impls_[i]->breach()) {
            return fmt::format("the backend {} broke the protocol on queue {}: {}", info_.backend, i, breach);
        }
    }
    return {};
}

bool Device::Impl::refused() const noexcept {
    const std::int64_t late = monotonic_ns() - limits::refusal_grace_ns;
    return (turned_down_ns_ != 0 && turned_down_ns_ < late) || (closed_since_ns_ != 0 && closed_since_ns_ < late);
}

std::string Device::Impl::describe_refusal() {
    const std::string path = xen::error_path(info_.backend_domain, info_.backend);
    const auto reason = read_lenient(*store_, path);
    return reason && *reason ? fmt::format("the backend refused: {}", printable(**reason, limits::log_line / 2))
                             : fmt::format(
                                   "the backend refused: the reason is in its log, and in domain {} in "
                                   "xenstore at {}",
                                   static_cast<unsigned>(info_.backend_domain), path);
}

std::string Device::Impl::describe_wait() {
    const std::string_view name = xen::to_string(view_.backend);
    switch (view_.backend) {
        case XenbusState::unknown:
            return fmt::format("its directory {} has no state: is the backend's domain running", info_.backend);
        case XenbusState::initialising:
            return fmt::format("nobody serves {} (state {}): start uvif-netback, or load xen-netback, in domain {}",
                               info_.backend, name, static_cast<unsigned>(info_.backend_domain));
        case XenbusState::init_wait: {
            auto hotplug = read_lenient(*store_, info_.backend + "/hotplug-status");
            const bool waits = hotplug && *hotplug && **hotplug != "connected";
            return fmt::format("{} stays in {}: {}", info_.backend, name,
                               waits
                                   ? "its hotplug script has not finished, see hotplug-error and the script's log there"
                                   : "see the log of the backend");
        }
        case XenbusState::closing:
        case XenbusState::closed:
            return fmt::format(
                "{} was {} already: start uvif-netback in domain {}, or see in its log why it refused, "
                "and attach the vif again",
                info_.backend, name, static_cast<unsigned>(info_.backend_domain));
        default:
            return fmt::format("{} stays in {}: see the log of the backend", info_.backend, name);
    }
}

void Device::Impl::close(int timeout_ms) noexcept {
    closing_ = true;
    told_ = LinkState::connecting;  // whoever closes has stopped using the queues
    const std::int64_t deadline = monotonic_ns() + timeout_ms * ns_per_ms;
    while (!closed_ && !overdue_) {
        const std::int64_t left_ms = (deadline - monotonic_ns()) / ns_per_ms;
        overdue_ = left_ms <= 0;
        static_cast<void>(advance());
        if (!closed_ && !overdue_) {
            pollfd news{poll_.get(), POLLIN, 0};
            static_cast<void>(::poll(&news, 1, static_cast<int>(left_ms)));
        }
    }
    closed_ = true;
    end_queues();
}

}  // namespace uvif::netfront
