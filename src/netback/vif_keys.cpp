// SPDX-License-Identifier: MIT
#include "netback/vif_keys.hpp"

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <utility>

#include "runtime/limits.hpp"
#include "runtime/printable.hpp"

namespace uvif::netback {
namespace {

constexpr std::uint32_t any_u32 = 0xffffffff;

std::unexpected<Error> missing(const std::string& path, std::string_view why) {
    return fail(EINVAL, fmt::format("{} is missing: {}", path, why));
}

Result<std::uint32_t> need_decimal(xen::Store& store, const std::string& path, std::uint32_t max, std::string_view why,
                                   xen::Transaction t = xen::Transaction::none) {
    auto value = xen::read_decimal(store, path, max, t);
    if (!value) {
        return propagate(value);
    }
    if (!*value) {
        return missing(path, why);
    }
    return **value;
}

Result<bool> flag(xen::Store& store, const std::string& path) {
    auto value = xen::read_flag(store, path);
    if (!value) {
        return propagate(value);
    }
    return value->value_or(false);
}

Result<QueueKeys> read_queue(xen::Store& store, const std::string& folder) {
    QueueKeys keys;
    auto tx = need_decimal(store, folder + "/tx-ring-ref", any_u32, "the guest announced no TX ring");
    if (!tx) {
        return propagate(tx);
    }
    auto rx = need_decimal(store, folder + "/rx-ring-ref", any_u32, "the guest announced no RX ring");
    if (!rx) {
        return propagate(rx);
    }
    keys.tx_ring = xen::GrantRef{*tx};
    keys.rx_ring = xen::GrantRef{*rx};
    // Split channels first, as Linux: a guest that has them may leave a stale flat key behind.
    auto tx_event = xen::read_decimal(store, folder + "/event-channel-tx", any_u32);
    if (!tx_event) {
        return propagate(tx_event);
    }
    if (*tx_event) {
        auto rx_event = need_decimal(store, folder + "/event-channel-rx", any_u32,
                                     "event-channel-tx is there, so the channels are split");
        if (!rx_event) {
            return propagate(rx_event);
        }
        keys.tx_event = xen::EventPort{**tx_event};
        keys.rx_event = xen::EventPort{*rx_event};
        return keys;
    }
    auto both = need_decimal(store, folder + "/event-channel", any_u32, "the guest announced no event channel");
    if (!both) {
        return propagate(both);
    }
    keys.tx_event = keys.rx_event = xen::EventPort{*both};
    return keys;
}

Result<void> read_queues(xen::Store& store, const std::string& frontend, std::uint32_t max_queues, GuestKeys& keys) {
    auto count = xen::read_decimal(store, frontend + "/multi-queue-num-queues", any_u32);
    if (!count) {
        return propagate(count);
    }
    const std::uint32_t queues = count->value_or(1);
    if (queues == 0 || queues > max_queues) {
        return fail(EINVAL, fmt::format("{}/multi-queue-num-queues is {}, and this backend offered 1 to {}", frontend,
                                        queues, max_queues));
    }
    for (std::uint32_t n = 0; n < queues; ++n) {
        // With one queue the keys are flat, whether or not their number was announced.
        auto queue = read_queue(store, queues == 1 ? frontend : fmt::format("{}/queue-{}", frontend, n));
        if (!queue) {
            return propagate(queue);
        }
        keys.queues.push_back(*queue);
    }
    return {};
}

Result<std::optional<ControlRingKeys>> read_control_ring(xen::Store& store, const std::string& frontend) {
    auto ring = xen::read_decimal(store, frontend + "/ctrl-ring-ref", any_u32);
    if (!ring) {
        return propagate(ring);
    }
    if (!*ring) {
        return std::optional<ControlRingKeys>();
    }
    auto event = need_decimal(store, frontend + "/event-channel-ctrl", any_u32,
                              "ctrl-ring-ref is there, so there is a control ring");
    if (!event) {
        return propagate(event);
    }
    return ControlRingKeys{xen::GrantRef{**ring}, xen::EventPort{*event}};
}

/// ESTALE when there is no such device (any more).
Result<void> check_device(xen::Store& store, const std::string& backend, xen::Transaction t) {
    auto state = store.read(backend + "/state", t);
    if (!state) {
        return fail(state.error().code == ENOENT ? ESTALE : state.error().code, state.error().message);
    }
    return {};
}

Result<DeviceKeys> read_device_keys(xen::Store& store, const std::string& backend, xen::DomainId guest,
                                    std::uint32_t handle, xen::Transaction t) {
    if (auto there = check_device(store, backend, t); !there) {
        return propagate(there);
    }
    DeviceKeys keys;
    auto frontend = xen::read_text(store, backend + "/frontend", t);
    if (!frontend) {
        return propagate(frontend);
    }
    if (!*frontend) {
        return missing(backend + "/frontend", "the toolstack writes the path of the guest's folder there");
    }
    if (!(*frontend)->starts_with('/')) {
        return fail(EINVAL, fmt::format("xenstore key {}/frontend is \"{}\", expected the path of the guest's folder",
                                        backend, printable(**frontend)));
    }
    keys.frontend = **frontend;
    auto id = need_decimal(store, backend + "/frontend-id", xen::first_reserved_domain_id - 1U,
                           "the toolstack writes the guest's domain id there", t);
    if (!id) {
        return propagate(id);
    }
    if (*id != std::to_underlying(guest)) {
        return fail(EINVAL, fmt::format("{}/frontend-id is {}, but the folder belongs to domain {}", backend, *id,
                                        std::to_underlying(guest)));
    }
    auto number =
        need_decimal(store, backend + "/handle", any_u32, "the toolstack writes the device's number there", t);
    if (!number) {
        return propagate(number);
    }
    if (*number != handle) {
        return fail(EINVAL, fmt::format("{}/handle is {}, but the folder is called {}", backend, *number, handle));
    }
    auto mac = xen::read_mac(store, backend + "/mac", t);
    if (!mac) {
        return propagate(mac);
    }
    if (!*mac) {
        return missing(backend + "/mac", "the toolstack writes the interface's address there");
    }
    keys.mac = **mac;
    auto name = xen::read_text(store, backend + "/vifname", t);
    if (!name) {
        return propagate(name);
    }
    keys.interface = *name && !(*name)->empty() ? **name : fmt::format("vif{}.{}", std::to_underlying(guest), handle);
    auto script = xen::read_text(store, backend + "/script", t);
    if (!script) {
        return propagate(script);
    }
    keys.scripted = *script && !(*script)->empty();
    auto mtu = xen::read_decimal(store, backend + "/mtu", limits::mtu_max, t);
    if (!mtu) {
        return propagate(mtu);
    }
    if (mtu->value_or(limits::mtu_min) < limits::mtu_min) {
        return fail(EINVAL,
                    fmt::format("{}/mtu is {}, expected {} to {}", backend, **mtu, limits::mtu_min, limits::mtu_max));
    }
    keys.mtu = *mtu;
    auto bridge = xen::read_text(store, backend + "/bridge", t);
    if (!bridge) {
        return propagate(bridge);
    }
    keys.bridge = bridge->value_or("");
    return keys;
}

}  // namespace

Result<DeviceKeys> read_device_keys(xen::Store& store, const std::string& backend, xen::DomainId guest,
                                    std::uint32_t handle) {
    auto t = store.begin();
    if (!t) {
        return propagate(t);
    }
    auto keys = read_device_keys(store, backend, guest, handle, *t);
    store.abort(*t);  // nothing was changed
    return keys;
}

std::optional<TxCredit::Rate> parse_rate(std::string_view text) noexcept {
    TxCredit::Rate rate;
    const char* const end = text.data() + text.size();
    const auto bytes = std::from_chars(text.data(), end, rate.bytes);
    if (bytes.ec != std::errc{} || bytes.ptr == end || *bytes.ptr != ',') {
        return std::nullopt;
    }
    const auto interval = std::from_chars(bytes.ptr + 1, end, rate.interval_us);
    const bool whole = interval.ec == std::errc{} && interval.ptr == end;
    return whole && rate.bytes != 0 && rate.interval_us != 0 ? std::optional(rate) : std::nullopt;
}

Result<GuestKeys> read_guest_keys(xen::Store& store, const std::string& frontend, std::uint32_t max_queues) {
    GuestKeys keys;
    bool rx_copy = false;
    bool no_checksum_v4 = false;
    struct Flag {
        std::string_view key;
        bool& value;
    };
    const std::array flags{
        Flag{"request-rx-copy", rx_copy},
        Flag{"feature-rx-notify", keys.rx.announces_buffers},
        Flag{"feature-sg", keys.rx.scatter_gather},
        Flag{"feature-gso-tcpv4", keys.rx.gso_v4},
        Flag{"feature-gso-tcpv6", keys.rx.gso_v6},
        Flag{"feature-no-csum-offload", no_checksum_v4},
        Flag{"feature-ipv6-csum-offload", keys.rx.checksum_v6},
        Flag{"feature-persistent", keys.persistent_grants},
    };
    for (const Flag& f : flags) {
        auto value = flag(store, fmt::format("{}/{}", frontend, f.key));
        if (!value) {
            return propagate(value);
        }
        f.value = *value;
    }
    keys.rx.checksum_v4 = !no_checksum_v4;
    if (!rx_copy) {
        return fail(EOPNOTSUPP, fmt::format("{}/request-rx-copy is not 1: this backend copies to the guest and cannot "
                                            "flip pages; the guest's driver is too old",
                                            frontend));
    }
    // A GSO packet is longer than a page and its checksum is blank: it needs both of the others.
    keys.rx.gso_v4 = keys.rx.gso_v4 && keys.rx.scatter_gather && keys.rx.checksum_v4;
    keys.rx.gso_v6 = keys.rx.gso_v6 && keys.rx.scatter_gather && keys.rx.checksum_v6;
    if (auto queues = read_queues(store, frontend, max_queues, keys); !queues) {
        return propagate(queues);
    }
    auto control = read_control_ring(store, frontend);
    if (!control) {
        return propagate(control);
    }
    keys.control = *control;
    return keys;
}

Result<void> publish_features(xen::Store& store, const std::string& backend, std::uint32_t max_queues) {
    const std::string queues = fmt::format("{}", max_queues);
    const std::array<std::pair<std::string_view, std::string_view>, 13> features{{
        {"feature-sg", "1"},
        {"feature-gso-tcpv4", "1"},
        {"feature-gso-tcpv6", "1"},
        {"feature-ipv6-csum-offload", "1"},
        {"feature-rx-copy", "1"},
        {"feature-rx-flip", "0"},
        {"feature-split-event-channels", "1"},
        {"feature-ctrl-ring", "1"},
        {"feature-multicast-control", "1"},
        {"feature-dynamic-multicast-control", "1"},
        {"feature-persistent", "1"},
        {"multi-queue-max-queues", queues},
        {"carrier", "1"},
    }};
    return xen::transact(store, [&](xen::Transaction t) -> Result<void> {
        // Reading the state makes the commit fail when the folder is removed meanwhile, so it is not made again.
        if (auto there = check_device(store, backend, t); !there) {
            return there;
        }
        for (const auto& [key, value] : features) {
            if (auto written = store.write(fmt::format("{}/{}", backend, key), value, t); !written) {
                return written;
            }
        }
        return {};
    });
}

Result<void> write_carrier(xen::Store& store, const std::string& backend, bool up) {
    return xen::transact(store, [&](xen::Transaction t) -> Result<void> {
        if (auto there = check_device(store, backend, t); !there) {
            return there;
        }
        return store.write(backend + "/carrier", up ? "1" : "0", t);
    });
}

}  // namespace uvif::netback
