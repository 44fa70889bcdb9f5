// SPDX-License-Identifier: MIT
#include "uvif_perf_backend.hpp"

#include <fmt/format.h>
#include <time.h>

#include <cerrno>
#include <utility>

#include "netback/instance.hpp"
#include "runtime/clock.hpp"
#include "xen/hypervisor.hpp"
#include "xen/store_path.hpp"

namespace uvif::perf {
namespace {

Result<std::uint32_t> read_domain(xen::Store& store, const std::string& path) {
    auto id = xen::read_decimal(store, path, xen::first_reserved_domain_id - 1U);
    if (!id) {
        return propagate(id);
    }
    if (!*id) {
        return fail(ENOENT, fmt::format("xenstore has no {}", path));
    }
    return **id;
}

/// The socket of another domain of the same emulated machine; real Xen's description as it stands.
std::string seen_from(const std::string& description, std::uint32_t domain) {
    const std::size_t slash = description.rfind('/');
    return description.starts_with("emulated:") && slash != std::string::npos
               ? fmt::format("{}/dom{}", description.substr(0, slash), domain)
               : description;
}

}  // namespace

BackendCounters BackendCounters::from(const nlohmann::json& statistics) {
    const auto get = [&statistics](const char* name) { return statistics.at(name).get<std::uint64_t>(); };
    BackendCounters counters;
    counters.tx_packets = get("tx_packets");
    counters.tx_bytes = get("tx_bytes");
    counters.rx_packets = get("rx_packets");
    counters.rx_bytes = get("rx_bytes");
    counters.copied_bytes = get("tx_copied_bytes") + get("rx_copied_bytes");
    counters.copy_calls = get("tx_copy_calls") + get("rx_copy_calls");
    counters.map_calls = get("tx_map_calls");
    counters.unmap_calls = get("tx_unmap_calls");
    counters.notifications = get("tx_notifications") + get("rx_notifications");
    counters.port_system_calls = get("port_system_calls");
    counters.drops = get("tx_drops") + get("rx_drops");
    return counters;
}

Result<Backend> Backend::find(const std::string& hypervisor, unsigned device, std::string control) {
    auto machine = xen::open_hypervisor(hypervisor);
    if (!machine) {
        return propagate(machine);
    }
    auto store = (*machine)->open_store();
    if (!store) {
        return propagate(store);
    }
    auto self = read_domain(**store, "domid");
    if (!self) {
        return propagate(self);
    }
    auto peer = read_domain(**store, fmt::format("device/vif/{}/backend-id", device));
    if (!peer) {
        return propagate(peer);
    }
    if (control.empty()) {
        control = netback::Instance::control_path(seen_from((*machine)->description(), *peer));
    }
    auto client = tools::ControlClient::connect(control);
    if (!client) {
        return propagate(client);
    }
    Backend backend(std::move(*client));
    auto vifs = backend.client_.request({{"command", "list"}});
    if (!vifs) {
        return propagate(vifs);
    }
    try {
        for (const auto& vif : *vifs) {
            if (vif.at("domain") == *self && vif.at("handle") == device) {
                backend.vif_ = vif.at("name").get<std::string>();
                backend.strategy_ = vif.at("strategy").get<std::string>();
                backend.unmap_ = vif.at("unmap").get<std::string>();
                backend.choice_ = vif.at("choice").get<std::string>();
            }
        }
    } catch (const nlohmann::json::exception& error) {
        return fail(EPROTO, fmt::format("control socket {}: the answer makes no sense ({})", control, error.what()));
    }
    if (backend.vif_.empty()) {
        return fail(ENODEV,
                    fmt::format("the daemon at {} does not serve device {} of domain {}", control, device, *self));
    }
    return backend;
}

Result<BackendCounters> Backend::counters() {
    auto answer = client_.request({{"command", "stats"}, {"vif", vif_}});
    if (!answer) {
        return propagate(answer);
    }
    try {
        auto counters = BackendCounters::from(answer->at("statistics"));
        counters.daemon = client_.peer();
        return counters;
    } catch (const nlohmann::json::exception& error) {
        return fail(EPROTO,
                    fmt::format("the daemon's statistics make no sense ({}): is it of another version?", error.what()));
    }
}

std::int64_t Backend::cpu_ns() const noexcept {
    clockid_t clock{};
    timespec used{};
    if (::clock_getcpuclockid(client_.peer(), &clock) != 0 || ::clock_gettime(clock, &used) != 0) {
        return -1;
    }
    return static_cast<std::int64_t>(used.tv_sec) * ns_per_s + used.tv_nsec;
}

}  // namespace uvif::perf
