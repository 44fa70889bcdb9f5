// SPDX-License-Identifier: MIT
#include "netback/vif.hpp"

#include <fmt/format.h>
#include <net/if.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <utility>

#include "port/bridge_port.hpp"
#include "port/null.hpp"
#include "runtime/clock.hpp"
#include "runtime/limits.hpp"
#include "runtime/printable.hpp"

namespace uvif::netback {

using xen::BackendAction;
using xen::BackendStep;
using xen::BackendView;
using xen::XenbusState;

namespace {
/// What a frame has besides its MTU: an Ethernet header and a VLAN tag.
constexpr std::uint32_t link_header_max = 18;
}  // namespace

Vif::Vif(const Surroundings& surroundings, VifId id)
    : around_(surroundings),
      id_(id),
      name_(fmt::format("vif{}.{}", std::to_underlying(id.domain), id.handle)),
      backend_(fmt::format("backend/vif/{}/{}", std::to_underlying(id.domain), id.handle)),
      kept_pages_(limits::static_grants_per_vif, &around_.static_budget) {}

Vif::~Vif() {
    disconnect();
}

bool Vif::evaluate() {
    identify();
    follow_rate();
    follow_spoofing();
    follow_groups();
    for (unsigned steps = 0; steps < limits::backend_steps; ++steps) {
        const auto view = look();
        if (!view) {
            return true;  // the store does not answer: that says nothing about the device
        }
        adopt_interface(view->self);
        if (view->self == XenbusState::initialising && (prepared_ || unusable_)) {
            // Nobody writes that into a device that has begun: it was taken away and made anew between two looks.
            end();
            identify();
            continue;
        }
        if (unusable_ && view->backend_exists && view->online && view->self != XenbusState::closing) {
            return true;
        }
        const BackendStep step = xen::backend_step(*view);
        if (!view->backend_exists || step.action == BackendAction::remove) {
            end();
            return false;
        }
        if (step.action == BackendAction::none) {
            return true;
        }
        take(*view, step);
    }
    return true;
}

/// A daemon before us may have begun with this device and left its interface, which goes when the device goes.
void Vif::adopt_interface(XenbusState state) {
    const bool begun = state == XenbusState::init_wait || state == XenbusState::closing || state == XenbusState::closed;
    if (std::exchange(looked_at_, true) || prepared_ || !begun || around_.settings.port.kind != PortSpec::Kind::tap ||
        ::if_nametoindex(interface_to_open().c_str()) == 0) {
        return;
    }
    if (auto opened = open_interface(); !opened) {
        log(budget_, LogLevel::warning, "{}: {}", name_, opened.error().message);
    }
}

void Vif::end() {
    disconnect();
    around_.journals.remove(id_);
    if (tap_) {
        if (auto gone = tap_->set_persistent(false); !gone) {
            log(budget_, LogLevel::warning, "{}: {}", name_, gone.error().message);
        }
        tap_.reset();
    }
    if (prepared_) {
        log(budget_, LogLevel::info, "{}: removed", name_);
    }
    device_ = {};
    prepared_ = unusable_ = broken_ = hotplug_failed_ = false;
}

/// Without a frontend's folder there is nothing to follow, and nobody to whom a state would mean anything.
void Vif::identify() {
    if (!device_.frontend.empty()) {
        return;
    }
    auto keys = read_device_keys(around_.store, backend_, id_.domain, id_.handle);
    if (keys) {
        device_ = std::move(*keys);
        return;
    }
    // A closed one stays closed: to write that again would only have us look again.
    const auto state = around_.store.read(backend_ + "/state");
    if (keys.error().code == EINVAL && state && xen::parse_xenbus_state(*state) != XenbusState::closed) {
        give_up(keys.error());
    }
}

/// The toolstack's limit, which it may change at any time.
void Vif::follow_rate() {
    std::string text = around_.store.read(backend_ + "/rate").value_or("");
    if (text == rate_) {
        return;
    }
    rate_ = std::move(text);
    const auto rate = parse_rate(rate_);
    if (!rate && !rate_.empty()) {
        log(budget_, LogLevel::warning,
            "{}: {}/rate is \"{}\", expected BYTES,MICROSECONDS: the guest may send without limit", name_, backend_,
            printable(rate_));
    }
    credit_.set(rate.value_or(TxCredit::Rate{}));
    // Those that wait for credit do so by the old price.
    for (const PlacedQueue& placed : queues_) {
        placed.worker->run([&placed] { placed.worker->activate(*placed.queue); });
    }
}

/// The same, of a key that a script or an administrator writes: toolstacks have none for it.
void Vif::follow_spoofing() {
    std::string text = around_.store.read(backend_ + "/no-mac-spoofing").value_or("");
    own_address_only_ = text.empty() ? around_.settings.no_mac_spoofing : text != "0";
    if (seat_) {
        seat_->set_own_address_only(own_address_only_);
    }
    if (text == spoofing_) {
        return;
    }
    spoofing_ = std::move(text);
    if (!spoofing_.empty() && spoofing_ != "0" && spoofing_ != "1") {
        log(budget_, LogLevel::warning,
            "{}: {}/no-mac-spoofing is \"{}\", expected 0 or 1: the guest may send from its own address only", name_,
            backend_, printable(spoofing_));
    }
    if (own_address_only_ && !around_.settings.switched) {
        log(budget_, LogLevel::warning, "{}: no-mac-spoofing is of no effect without --switch; have the bridge filter",
            name_);
    }
}

/// The guest's wish, which it may change at any time (feature-dynamic-multicast-control).
void Vif::follow_groups() {
    if (!attached_) {
        return;
    }
    std::string text = around_.store.read(device_.frontend + "/request-multicast-control").value_or("");
    const auto asked = xen::parse_flag(text);
    groups_.request(asked.value_or(false));
    if (text != asked_groups_ && !asked && !text.empty()) {
        log(budget_, LogLevel::warning,
            "{}: {}/request-multicast-control is \"{}\", expected 0 or 1: it gets all groups", name_, device_.frontend,
            printable(text));
    }
    asked_groups_ = std::move(text);
}

void Vif::follow_bridge() {
    if (seat_) {
        seat_->set_isolated(is_isolated_bridge_port(device_.interface));
    }
}

/// In visits, so that the other queues of a worker have their turns in between.
void Vif::age_grants() {
    for (const PlacedQueue& placed : queues_) {
        if (!placed.queue->learns_grants()) {
            continue;
        }
        placed.worker->run([&placed] { placed.queue->age_grants(); });
        for (bool more = true; more;) {
            placed.worker->run([&] { more = placed.queue->give_back_grants(); });
        }
    }
}

std::optional<BackendView> Vif::look() {
    bool answered = true;
    const auto text = [this, &answered](const std::string& path) -> std::optional<std::string> {
        auto value = around_.store.read(path);
        if (value) {
            return std::move(*value);
        }
        // A guest may make its own keys unreadable, and a toolstack's path may be none: for us they are gone.
        const int code = value.error().code;
        answered &= code == ENOENT || code == EACCES || code == EINVAL;
        return std::nullopt;
    };
    BackendView view;
    const auto self = text(backend_ + "/state");
    view.backend_exists = self.has_value();
    view.self = xen::parse_xenbus_state(self.value_or(""));
    view.online = text(backend_ + "/online").value_or("0") == "1";
    const auto frontend = device_.frontend.empty() ? std::nullopt : text(device_.frontend + "/state");
    view.frontend_exists = frontend.has_value();
    view.frontend = xen::parse_xenbus_state(frontend.value_or(""));
    // A script sets up an interface. A VXLAN has none, and no script that could say so.
    const bool scripted = around_.settings.port.kind != PortSpec::Kind::vxlan;
    const auto hotplug = scripted ? text(backend_ + "/hotplug-status") : std::nullopt;
    view.hotplug = hotplug ? xen::parse_hotplug(*hotplug) : xen::Hotplug::absent;
    if (view.hotplug == xen::Hotplug::error && view.self == XenbusState::init_wait &&
        !std::exchange(hotplug_failed_, true)) {
        report(
            {EIO, fmt::format("the hotplug script failed: \"{}\"; see the log of the toolstack (xl's: /var/log/xen), "
                              "and the vif's `bridge` and `script`",
                              printable(text(backend_ + "/hotplug-error").value_or(""), 256))});
    }
    view.attached = attached_;
    view.broken = broken_;
    if (!answered) {
        return std::nullopt;
    }
    // The toolstack writes Closing too.
    if (view.self != XenbusState::closing) {
        closing_since_ns_ = 0;
    } else if (closing_since_ns_ == 0) {
        closing_since_ns_ = monotonic_ns();
    }
    overdue_ = closing_since_ns_ != 0 && monotonic_ns() - closing_since_ns_ >= limits::closing_patience_ns;
    view.overdue = overdue_;
    state_ = view.self;
    frontend_state_ = view.frontend;
    return view;
}

/// Takes one step; what came of it the next look tells.
void Vif::take(const BackendView& view, const BackendStep& step) {
    switch (step.action) {
        case BackendAction::connect:
            if (auto connected = connect(view.self == XenbusState::connected); !connected) {
                disconnect();
                report(connected.error());
                broken_ = true;
            }
            return;
        case BackendAction::disconnect:
            disconnect();
            return;
        case BackendAction::write_state:
            write_state(view.self, step.state);
            return;
        case BackendAction::none:
        case BackendAction::remove:
            return;
    }
}

void Vif::write_state(XenbusState from, XenbusState to) {
    if (to == XenbusState::init_wait) {
        if (auto prepared = prepare(); !prepared) {
            give_up(prepared.error());
            return;
        }
        broken_ = false;
    }
    if (!xen::is_live(to)) {
        // Whoever finds one later finds a guest that is connected, and takes it for that connection's.
        around_.journals.remove(id_);
    }
    const auto written = xen::change_state(around_.store, backend_, from, to);
    if (!written && written.error().code != ENOENT) {
        report(written.error());
    }
    if (!written || !*written) {
        return;
    }
    log(steps_budget_, LogLevel::debug, "{}: {}", name_, to_string(to));
    if (to == XenbusState::connected) {
        clear_report();
        log(budget_, LogLevel::info, "{}: connected, {} queue{}", name_, queues_.size(),
            queues_.size() == 1 ? "" : "s");
    }
}

std::optional<std::int64_t> Vif::deadline_ns() const noexcept {
    return closing_since_ns_ != 0 && !overdue_ ? std::optional(closing_since_ns_ + limits::closing_patience_ns)
                                               : std::nullopt;
}

/// What a device needs before it may be InitWait: its keys, its interface (the hotplug script looks for it), and
/// our features.
Result<void> Vif::prepare() {
    auto keys = read_device_keys(around_.store, backend_, id_.domain, id_.handle);
    if (!keys) {
        return propagate(keys);
    }
    device_ = std::move(*keys);
    prepared_ = true;
    if (tap_ && tap_->deleted()) {
        log(budget_, LogLevel::warning, "{}: the interface {} was deleted; {} is made anew, add it to its bridge",
            name_, device_.interface, interface_to_open());
        tap_.reset();
    }
    if (around_.settings.port.kind == PortSpec::Kind::tap && !tap_) {
        if (auto opened = open_interface(); !opened) {
            return opened;
        }
    }
    if (around_.settings.port.kind == PortSpec::Kind::vxlan) {
        tell_mtu();
    }
    return publish_features(around_.store, backend_, around_.settings.max_queues);
}

/// Xen's scripts look for vif<domid>.<handle>, refuse when there is an interface of the name `vifname`, and give it
/// that name themselves.
const std::string& Vif::interface_to_open() const {
    return device_.scripted && ::if_nametoindex(device_.interface.c_str()) == 0 ? name_ : device_.interface;
}

Result<void> Vif::open_interface() {
    TapConfig config;
    config.name = interface_to_open();
    config.queues = around_.settings.max_queues;
    config.persistent = true;  // it outlives a daemon that is restarted, and with it its place in a bridge
    auto tap = TapDevice::open(config);
    if (!tap) {
        return propagate(tap);
    }
    // The address that keeps a bridge from taking it for its own (Linux netback's).
    if (auto set = (*tap)->set_mac({0xfe, 0xff, 0xff, 0xff, 0xff, 0xff}); !set) {
        return set;
    }
    if (auto set = (*tap)->set_mtu(device_.mtu.value_or(limits::mtu_default)); !set) {
        return set;
    }
    if (auto set = (*tap)->set_carrier(false); !set) {
        return set;
    }
    tap_ = std::move(*tap);
    return {};
}

/// What it has begun with when it fails, disconnect() undoes.
Result<void> Vif::connect(bool resumed) {
    if (!prepared_ || (around_.settings.port.kind == PortSpec::Kind::tap && !tap_)) {
        if (auto prepared = prepare(); !prepared) {
            return prepared;
        }
    }
    auto keys = read_guest_keys(around_.store, device_.frontend, around_.settings.max_queues);
    if (!keys) {
        return propagate(keys);
    }
    if (tap_) {
        if (auto set =
                tap_->set_offload(keys->rx.checksum_v4 || keys->rx.checksum_v6, keys->rx.gso_v4, keys->rx.gso_v6);
            !set) {
            return set;
        }
    }
    if (around_.settings.port.kind == PortSpec::Kind::vxlan) {
        if (auto opened = open_tunnel(keys->rx); !opened) {
            return opened;
        }
    }
    ++connection_;
    if (keys->control) {
        if (auto connected = connect_control(*keys); !connected) {
            return connected;
        }
    }
    take_seat(keys->rx);
    for (std::uint32_t index = 0; index < keys->queues.size(); ++index) {
        if (auto connected = connect_queue(*keys, index, resumed); !connected) {
            return connected;
        }
    }
    attached_ = true;
    follow_groups();
    if (tap_) {
        if (auto set = tap_->set_carrier(true); !set) {
            return set;
        }
    }
    if (seat_ && !seat_->join()) {
        log(budget_, LogLevel::warning,
            "{}: the switch of {} is full or has its address {:02x} already: what it sends goes by the bridge", name_,
            device_.bridge, fmt::join(device_.mac, ":"));
    }
    return {};
}

/// Served from when the queues are there on.
Result<void> Vif::connect_control(const GuestKeys& keys) {
    auto control = ControlRing::connect(around_.grants, around_.events, id_.domain, *keys.control);
    if (!control) {
        return fail(control.error().code, fmt::format("{}: {}", device_.frontend, control.error().message));
    }
    control_ = std::move(*control);
    hash_.emplace(static_cast<std::uint32_t>(keys.queues.size()));
    statics_.emplace(around_.grants, id_.domain, keys.queues.size(), kept_pages_);
    exchange_ = std::make_unique<RxExchange>(keys.queues.size());
    return {};
}

bool Vif::serve_control() {
    if (!control_ || !attached_ || broken_) {
        return false;
    }
    const auto read = [this](xen::GrantRef ref, std::span<std::byte> out) { return control_->read_page(ref, out); };
    const auto write = [this](xen::GrantRef ref, std::span<const std::byte> octets) {
        return control_->write_page(ref, octets);
    };
    GrefControl grefs(*statics_, *this);
    bool changed = false;
    const auto execute = [&](const ring::CtrlRequest& request) {
        if (request.type >= std::to_underlying(ring::CtrlType::get_gref_mapping_size)) {
            return grefs.execute(request, read, write);
        }
        changed = true;
        return hash_->execute(request, read);
    };
    // Once a batch, so that a guest that changes its mind without end stops its own queues no oftener.
    const auto commit = [&] {
        if (changed) {
            steer(hash_->steering());
        }
    };
    const ControlRing::Served served = control_->serve(execute, commit);
    if (served == ControlRing::Served::impossible) {
        found_rogue(connection_, Rogue::impossible_producer);
    }
    return served == ControlRing::Served::more;
}

void Vif::enter(std::size_t queue, std::span<const StaticGrants::Page> pages) {
    queues_[queue].worker->run([&] { queues_[queue].queue->enter(pages); });
}

void Vif::forget(std::size_t queue, std::span<const std::uint32_t> refs, std::vector<bool>& forgotten) {
    queues_[queue].worker->run([&] {
        for (std::size_t i = 0; i < refs.size(); ++i) {
            forgotten[i] = queues_[queue].queue->forget(refs[i]);
        }
    });
}

void Vif::steer(const std::shared_ptr<const RxSteering>& steering) {
    for (const PlacedQueue& placed : queues_) {
        placed.worker->run([&] { placed.queue->steer_by(steering); });
    }
}

/// First nobody steers any more, and then everybody gives back what it has of the others.
void Vif::disconnect_control() noexcept {
    if (!control_) {
        return;
    }
    control_.reset();
    steer(nullptr);
    for (const PlacedQueue& placed : queues_) {
        placed.worker->run([&placed] { placed.queue->give_back([](const Packet&) { return true; }); });
    }
}

void Vif::take_seat(const RxFeatures& features) {
    if (!around_.settings.switched || device_.bridge.empty()) {
        return;
    }
    seat_ = around_.switching.seat(device_.bridge, mac_number(std::as_bytes(std::span(device_.mac))),
                                   {.frame_max = device_.mtu.value_or(limits::mtu_default) + link_header_max,
                                    .scatter_gather = features.scatter_gather,
                                    .checksum_v4 = features.checksum_v4,
                                    .checksum_v6 = features.checksum_v6,
                                    .gso_v4 = features.gso_v4,
                                    .gso_v6 = features.gso_v6},
                                   queues_);
    seat_->set_own_address_only(own_address_only_);
    follow_bridge();
}

Result<void> Vif::connect_queue(const GuestKeys& keys, std::uint32_t index, bool resumed) {
    Worker& worker = place(index);
    QueueConfig config;
    config.domain = id_.domain;
    config.keys = keys.queues[index];
    config.rx = keys.rx;
    config.fetch = around_.settings.fetch;
    config.credit = &credit_;
    config.exchange = exchange_.get();
    config.index = index;
    config.held = &held_;
    config.groups = &groups_;
    config.persistent = keys.persistent_grants ? &kept_pages_ : nullptr;
    auto journal = open_journal({id_, index, guest(), config.keys}, resumed);
    if (!journal) {
        return propagate(journal);
    }
    config.journal = std::move(*journal);
    config.resumed = resumed || (config.journal && config.journal->inherited());
    if (config.resumed) {
        groups_.lose();
    }
    config.rx_patience = around_.settings.rx_patience;
    config.receive = around_.settings.receive;
    config.on_stalled = [tell = around_.on_stalled, id = id_, connection = connection_](bool stalled) {
        tell(id, connection, stalled);
    };
    if (index == 0) {  // an interface is lost to all queues at once
        config.on_port_failed = [this, interface = device_.interface] {
            log(budget_, LogLevel::warning,
                "{}: the interface {} was deleted: the guest has no network until it connects again, which makes the "
                "interface anew",
                name_, interface);
        };
    }
    const auto make_port = [this, index](Loop& loop, Waker& waker) -> Result<std::unique_ptr<Port>> {
        auto port = open_port(index, loop);
        return port && seat_ ? seat_->wrap(std::move(*port), waker) : std::move(port);
    };
    const auto on_rogue = [tell = around_.on_rogue, id = id_, connection = connection_](Rogue reason) {
        tell(id, connection, reason);
    };
    Result<std::unique_ptr<QueuePair>> queue;
    worker.run([&] { queue = QueuePair::connect(worker, config, make_port, on_rogue); });
    if (!queue) {
        return fail(queue.error().code,
                    fmt::format("{}: queue {}: {}", device_.frontend, index, queue.error().message));
    }
    ++worker.load;
    queues_.push_back({&worker, std::move(*queue)});
    return {};
}

/// The guest's incarnation: no other domain ever has the same.
std::string Vif::guest() const {
    return around_.store.read(fmt::format("/local/domain/{}/vm", std::to_underlying(id_.domain))).value_or("");
}

/// The last daemon's, if there was one: it may have ended before it wrote Connected, too. Null: there can be none, and
/// that was said.
Result<std::shared_ptr<QueueJournal>> Vif::open_journal(const QueueIdentity& identity, bool resumed) {
    if (auto inherited = around_.journals.inherit(identity)) {
        return std::move(*inherited);
    } else if (resumed) {
        return fail(inherited.error().code,
                    fmt::format("{}: without it nobody knows what the last daemon had begun with, and the guest has to "
                                "connect again",
                                inherited.error().message));
    }
    auto created = around_.journals.create(identity);
    if (!created) {
        log(budget_, LogLevel::warning, "{}: {}; when this daemon ends, its guest will have to connect again", name_,
            created.error().message);
        return nullptr;
    }
    return std::move(*created);
}

/// Where a queue is to live: by its companions of the switch, else where there is the least to do.
Worker& Vif::place(std::uint32_t index) const {
    Worker* const companion = seat_ ? seat_->companion(index, around_.workers) : nullptr;
    return companion != nullptr
               ? *companion
               : **std::ranges::min_element(around_.workers, {}, [](const auto& worker) { return worker->load; });
}

/// On the worker's thread, while the control thread waits for it.
Result<std::unique_ptr<Port>> Vif::open_port(std::uint32_t index, Loop& loop) {
    if (tap_) {
        return tap_->queue(index, loop);
    }
    if (tunnel_) {
        return tunnel_->queue(index, around_.settings.fetch.pins());
    }
    NullConfig null = around_.settings.port.null;
    null.destination = device_.mac;
    return NullPort::create(null);
}

/// To the guest, where Xen's own hotplug scripts write it, before it looks: our library and Windows set it, a Linux
/// guest's administrator has to. In a driver domain that folder is not ours to write into, and the log has to do.
void Vif::tell_mtu() {
    const unsigned wanted = device_.mtu.value_or(limits::mtu_default);
    const unsigned fits = vxlan_guest_mtu(around_.settings.port.vxlan).value_or(wanted);
    (void)xen::transact(around_.store, [&](xen::Transaction t) -> Result<void> {
        // A folder that is being taken away is not made anew.
        if (auto there = around_.store.read(device_.frontend + "/state", t); !there) {
            return propagate(there);
        }
        return around_.store.write(device_.frontend + "/mtu", fmt::format("{}", std::min(wanted, fits)), t);
    });
}

/// Opened for each connection: a guest that reboots gets the UDP port of the one that was.
Result<void> Vif::open_tunnel(const RxFeatures& guest) {
    const VxlanConfig& config = around_.settings.port.vxlan;
    if (!around_.tunnel.taken_by.empty()) {
        return fail(EBUSY,
                    fmt::format("the VXLAN port serves one vif, and {} has it; for several guests use --port tap "
                                "and a vxlan device in their bridge",
                                around_.tunnel.taken_by));
    }
    auto tunnel =
        VxlanEndpoint::open(config, {.tcpv4 = guest.gso_v4, .tcpv6 = guest.gso_v6}, around_.tunnel.patient_until_ns);
    if (!tunnel) {
        return propagate(tunnel);
    }
    tunnel_ = std::move(*tunnel);
    around_.tunnel.taken_by = name_;
    const auto fits = vxlan_guest_mtu(config);
    const unsigned mtu = device_.mtu.value_or(limits::mtu_default);
    const std::string what =
        fmt::format("{}: VXLAN {} at {} port {}", name_, config.vni, to_string(config.local), config.port);
    if (!fits) {
        log(budget_, LogLevel::warning, "{}: no route to any remote endpoint; check addresses and routes of this host",
            what);
    } else if (*fits < mtu) {
        log(budget_, LogLevel::warning,
            "{}: carries packets of guests with an MTU of up to {}, longer ones are dropped; set that MTU in the "
            "guest, or "
            "raise the underlay's by {}",
            what, *fits, mtu - *fits);
    } else {
        log(budget_, LogLevel::info, "{}: carries packets of guests with an MTU of up to {}", what, *fits);
    }
    return {};
}

void Vif::disconnect() noexcept {
    attached_ = false;
    if (tap_) {
        (void)tap_->set_carrier(false);  // nothing to be done about it, and nothing depends on it
    }
    disconnect_control();
    if (seat_) {
        seat_->leave();
    }
    drain();
    for (PlacedQueue& placed : queues_) {
        placed.worker->run([&placed] { placed.queue.reset(); });
        --placed.worker->load;
    }
    queues_.clear();
    groups_.forget();
    statics_.reset();  // unmapped, and that before anybody writes Closed
    hash_.reset();
    exchange_.reset();
    seat_.reset();
    if (tunnel_) {
        tunnel_.reset();
        around_.tunnel.taken_by.clear();
    }
    if (std::exchange(stalled_queues_, 0) != 0) {
        tell_carrier(true);
    }
}

/// Waits until the kernel has sent what it was given from the guest's pages, which is at once with every port that does
/// not pin them. The workers go on meanwhile.
void Vif::drain() noexcept {
    for (const PlacedQueue& placed : queues_) {
        placed.worker->run([&placed] { placed.queue->stop(); });
    }
    const std::int64_t deadline = monotonic_ns() + limits::drain_ns;
    for (const PlacedQueue& placed : queues_) {
        for (;;) {
            bool drained = false;
            placed.worker->run([&] { drained = placed.queue->drained(); });
            if (drained || monotonic_ns() >= deadline) {
                break;
            }
            ::poll(nullptr, 0, 1);
        }
    }
}

void Vif::found_rogue(std::uint64_t connection, Rogue reason) {
    if (connection != connection_ || !attached_) {
        return;
    }
    broken_ = true;
    report({EPROTO, fmt::format("the guest broke the network protocol and is cut off until it reconnects: {}",
                                rogue_sentences[static_cast<std::size_t>(reason)])});
}

/// One queue is enough, as with Linux netback: nobody outside knows which of them a packet would come to.
void Vif::found_stalled(std::uint64_t connection, bool stalled) {
    if (connection != connection_ || !attached_) {
        return;
    }
    const bool had_carrier = stalled_queues_ == 0;
    stalled_queues_ = stalled ? stalled_queues_ + 1 : stalled_queues_ - 1;
    const bool has_carrier = stalled_queues_ == 0;
    if (has_carrier == had_carrier) {
        return;
    }
    log(budget_, has_carrier ? LogLevel::info : LogLevel::warning, "{}: the guest takes {}", name_,
        has_carrier ? "packets again: carrier on" : "no packets: carrier off until it does");
    if (tap_) {
        if (auto set = tap_->set_carrier(has_carrier); !set) {
            log(budget_, LogLevel::warning, "{}: {}", name_, set.error().message);
        }
    }
    tell_carrier(has_carrier);
}

void Vif::tell_carrier(bool up) {
    if (auto written = write_carrier(around_.store, backend_, up); !written && written.error().code != ESTALE) {
        log(budget_, LogLevel::warning, "{}: {}", name_, written.error().message);
    }
}

/// The toolstack has to take it away; until then it is Closed.
void Vif::give_up(const Error& error) {
    if (error.code == ESTALE) {
        return;  // it was taken away meanwhile
    }
    report(error);
    unusable_ = true;
    if (auto written = xen::write_state(around_.store, backend_, XenbusState::closed); !written) {
        log(budget_, LogLevel::warning, "{}: {}", name_, written.error().message);
    }
}

/// To the log, and to where Xen users look: the `error` folder of our domain (as Linux xenbus does).
void Vif::report(const Error& error) {
    last_error_ = error.message;
    log(budget_, LogLevel::error, "{}: {}", name_, error.message);
    (void)around_.store.write(fmt::format("error/{}/error", backend_), fmt::format("{} {}", error.code, error.message));
}

void Vif::clear_report() {
    if (!last_error_.empty()) {
        last_error_.clear();
        (void)around_.store.remove(fmt::format("error/{}", backend_));
    }
}

nlohmann::json Vif::describe() const {
    nlohmann::json json;
    json["name"] = name_;
    json["domain"] = std::to_underlying(id_.domain);
    json["handle"] = id_.handle;
    json["interface"] = tap_ ? device_.interface : "";
    json["port"] = name_of(around_.settings.port.kind);
    json["mac"] = fmt::format("{:02x}", fmt::join(device_.mac, ":"));
    json["state"] = to_string(state_);
    json["frontend_state"] = to_string(frontend_state_);
    json["queues"] = queues_.size();
    json["workers"] = nlohmann::json::array();  // of each queue, by number
    for (const PlacedQueue& placed : queues_) {
        json["workers"].push_back(
            std::ranges::find(around_.workers, placed.worker, [](const auto& worker) { return worker.get(); }) -
            around_.workers.begin());
    }
    json["strategy"] = fetch_strategy_names[static_cast<std::size_t>(around_.settings.fetch.strategy)];
    json["unmap"] = unmap_strategy_names[static_cast<std::size_t>(around_.settings.fetch.unmap)];
    json["receive"] = receive_strategy_names[static_cast<std::size_t>(around_.settings.receive)];
    json["choice"] = around_.settings.fetch_choice;
    json["rate"] = rate_;
    json["stalled_queues"] = stalled_queues_;
    json["multicast"] = groups_.lost()      ? "all, since an earlier daemon knew the groups"
                        : groups_.filters() ? "filtered"
                                            : "all";
    json["multicast_groups"] = groups_.size();
    json["error"] = last_error_;
    return json;
}

std::vector<QueueStatistics> Vif::statistics() const {
    std::vector<QueueStatistics> all;
    for (const PlacedQueue& placed : queues_) {
        placed.worker->run([&] {
            all.push_back({placed.queue->tx_counters(), placed.queue->rx_counters(), placed.queue->port_counters()});
        });
    }
    return all;
}

}  // namespace uvif::netback
