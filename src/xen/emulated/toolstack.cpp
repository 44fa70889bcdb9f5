// SPDX-License-Identifier: MIT
#include "xen/emulated/toolstack.hpp"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <random>
#include <utility>

#include "runtime/printable.hpp"
#include "xen/emulated/hotplug.hpp"
#include "xen/store_path.hpp"
#include "xen/xenbus.hpp"

namespace uvif::xen {
namespace {

// Theory of operation
// -------------------
// What libxl 4.17 was seen to do. A device is three folders: libxl's own record /libxl/D/device/vif/H, the frontend's
// (the guest's, readable by the backend) and the backend's (its domain's, readable by the guest). Each folder
// gets its permissions before its keys, for children inherit them. A device is taken away by writing online=0 and
// state=5 into the backend's own folder and waiting for the backend to write 6 there.

constexpr char no_access = 'n';
constexpr char may_read = 'r';
constexpr unsigned max_devices = 65536;
constexpr const char* memory_kib = "131072";

std::string domain_path(DomainId domain) {
    return fmt::format("/local/domain/{}", std::to_underlying(domain));
}
std::string libxl_path(DomainId domain) {
    return fmt::format("/libxl/{}", std::to_underlying(domain));
}

std::string random_uuid() {
    std::random_device entropy;
    const unsigned a = entropy();
    const unsigned b = entropy();
    const unsigned c = entropy();
    return fmt::format("{:08x}-{:04x}-4{:03x}-{:04x}-{:04x}{:08x}", a, b >> 16, b & 0xfff, 0x8000 | (c >> 16 & 0x3fff),
                       c & 0xffff, entropy());
}

}  // namespace

Result<void> Toolstack::make_node(Transaction t, const std::string& path, const std::vector<Permission>& permissions) {
    if (auto written = store_.write(path, "", t); !written) {
        return written;
    }
    return store_.set_permissions(path, permissions, t);
}

Result<void> Toolstack::write_nodes(Transaction t, const std::string& directory, const std::vector<Node>& nodes) {
    for (const Node& node : nodes) {
        if (auto written = store_.write(directory + "/" + node.key, node.value, t); !written) {
            return written;
        }
    }
    return {};
}

Result<void> Toolstack::write_dom0() {
    return transact(store_, [&](Transaction t) {
        return write_nodes(t, domain_path(dom0), {{"name", "Domain-0"}, {"domid", "0"}});
    });
}

Result<void> Toolstack::write_domain(DomainId domain, std::string_view name, bool driver_domain) {
    const std::string path = domain_path(domain);
    const std::string uuid = random_uuid();
    const std::string vm = "/vm/" + uuid;
    const std::vector<Permission> read_only{{dom0, no_access}, {domain, may_read}};
    const std::vector<Permission> own{{domain, no_access}};
    const std::vector<Permission> nobody{{dom0, no_access}};

    std::vector<std::pair<std::string, const std::vector<Permission>*>> folders{
        {path, &read_only},
        {vm, &read_only},
        {libxl_path(domain), &nobody},
        {libxl_path(domain) + "/device", &nobody},
        {path + "/cpu", &read_only},
        {path + "/memory", &read_only},
        {path + "/device", &read_only},
        {path + "/device/suspend/event-channel", &own},
        {path + "/control", &read_only},
    };
    for (const char* key :
         {"control/shutdown", "control/feature-poweroff", "control/feature-reboot", "control/feature-suspend",
          "control/sysrq", "data", "drivers", "feature", "attr", "error"}) {
        folders.emplace_back(path + "/" + key, &own);
    }
    if (driver_domain) {
        folders.emplace_back(path + "/libxl", &own);
        folders.emplace_back(path + "/device-model", &own);
    }
    return transact(store_, [&](Transaction t) -> Result<void> {
        for (const auto& [folder, permissions] : folders) {
            if (auto made = make_node(t, folder, *permissions); !made) {
                return made;
            }
        }
        if (auto written = write_nodes(t, vm, {{"uuid", uuid}, {"name", std::string(name)}}); !written) {
            return written;
        }
        if (auto written = write_nodes(t, libxl_path(domain), {{"type", "pv"}}); !written) {
            return written;
        }
        return write_nodes(t, path,
                           {{"vm", vm},
                            {"name", std::string(name)},
                            {"domid", fmt::format("{}", std::to_underlying(domain))},
                            {"memory/static-max", memory_kib},
                            {"memory/target", memory_kib},
                            {"control/platform-feature-multiprocessor-suspend", "1"},
                            {"control/platform-feature-xs_reset_watches", "1"}});
    });
}

Result<void> Toolstack::remove_domain(DomainId domain) {
    return transact(store_, [&](Transaction t) -> Result<void> {
        const auto vm = store_.read(domain_path(domain) + "/vm", t);
        for (const std::string& path : {vm ? *vm : std::string(), libxl_path(domain), domain_path(domain)}) {
            if (path.empty()) {
                continue;
            }
            if (auto removed = store_.remove(path, t); !removed && removed.error().code != ENOENT) {
                return removed;
            }
        }
        return {};
    });
}

std::string Toolstack::name_of(DomainId domain) {
    return store_.read(domain_path(domain) + "/name").value_or("");
}

Result<DomainId> Toolstack::domain_named(const std::string& name) {
    if (const auto number = parse_decimal(name, first_reserved_domain_id - 1); number) {
        return static_cast<DomainId>(*number);
    }
    auto ids = store_.list("/local/domain");
    if (!ids) {
        return propagate(ids);
    }
    for (const std::string& id : *ids) {
        const auto number = parse_decimal(id, first_reserved_domain_id - 1);
        if (number && store_.read("/local/domain/" + id + "/name").value_or("") == name) {
            return static_cast<DomainId>(*number);
        }
    }
    return fail(ENOENT, fmt::format("there is no domain named \"{}\"", printable(name)));
}

Result<unsigned> Toolstack::free_devid(DomainId domain, Transaction t) {
    const std::vector<std::string> taken =
        store_.list(libxl_path(domain) + "/device/vif", t).value_or(std::vector<std::string>{});
    for (unsigned devid = 0; devid < max_devices; ++devid) {
        if (std::ranges::find(taken, fmt::format("{}", devid)) == taken.end()) {
            return devid;
        }
    }
    return fail(ENOSPC, "the domain has no device id left");
}

Toolstack::Vif Toolstack::vif_of(DomainId domain, unsigned devid, DomainId backend) const {
    return {domain,
            devid,
            backend,
            xen::frontend_path(domain, devid),
            xen::backend_path(backend, domain, devid),
            fmt::format("{}/device/vif/{}", xen::libxl_path(domain), devid)};
}

Result<Toolstack::Vif> Toolstack::find_vif(DomainId domain, unsigned devid) {
    const std::string record = vif_of(domain, devid, dom0).libxl_path;
    const auto path = store_.read(record + "/backend");
    constexpr std::string_view prefix = "/local/domain/";
    if (!path || !path->starts_with(prefix)) {
        return fail(ENOENT, fmt::format("domain {} has no vif {}", std::to_underlying(domain), devid));
    }
    const std::string_view rest = std::string_view(*path).substr(prefix.size());
    const auto backend = parse_decimal(rest.substr(0, rest.find('/')), first_reserved_domain_id - 1);
    if (!backend) {
        return fail(EINVAL, fmt::format("{}/backend names no backend: \"{}\"", record, printable(*path)));
    }
    return vif_of(domain, devid, static_cast<DomainId>(*backend));
}

Result<void> Toolstack::write_vif_nodes(Transaction t, const Vif& vif, const VifSpec& spec) {
    const std::string handle = fmt::format("{}", vif.devid);
    std::vector<Node> back{{"frontend", vif.frontend_path},
                           {"frontend-id", fmt::format("{}", std::to_underlying(vif.domain))},
                           {"online", "1"},
                           {"state", "1"}};
    const auto add_given = [&back](const char* key, const std::string& value) {
        if (!value.empty()) {
            back.push_back({key, value});
        }
    };
    add_given("script", spec.script);
    back.push_back({"mac", spec.mac});
    add_given("ip", spec.ip);
    add_given("bridge", spec.bridge);
    add_given("vifname", spec.vifname);
    if (spec.rate) {
        back.push_back({"rate", fmt::format("{},{}", spec.rate->bytes, spec.rate->interval_us)});
    }
    if (spec.mtu != 1500) {
        back.push_back({"mtu", fmt::format("{}", spec.mtu)});
    }
    back.push_back({"handle", handle});
    back.push_back({"type", spec.type});
    if (!spec.script.empty()) {
        // Empty tells the backend to wait for the script; without one nobody would ever fill it.
        back.push_back({"hotplug-status", ""});
    }
    std::vector<Node> record = back;
    record[0] = {"frontend", vif.frontend_path};
    record.insert(record.begin() + 1, Node{"backend", vif.backend_path});
    const std::vector<Node> front{{"backend", vif.backend_path},
                                  {"backend-id", fmt::format("{}", std::to_underlying(vif.backend))},
                                  {"state", "1"},
                                  {"handle", handle},
                                  {"mac", spec.mac},
                                  {"trusted", "1"}};
    const std::vector<Permission> guest_owns{{vif.domain, no_access}, {vif.backend, may_read}};
    const std::vector<Permission> backend_owns{{vif.backend, no_access}, {vif.domain, may_read}};

    const std::pair<const std::string&, std::vector<Permission>> folders[] = {
        {vif.libxl_path, {{dom0, no_access}}}, {vif.frontend_path, guest_owns}, {vif.backend_path, backend_owns}};
    const std::vector<Node>* contents[] = {&record, &front, &back};
    for (std::size_t i = 0; i < std::size(folders); ++i) {
        if (auto made = make_node(t, folders[i].first, folders[i].second); !made) {
            return made;
        }
        if (auto written = write_nodes(t, folders[i].first, *contents[i]); !written) {
            return written;
        }
    }
    // The one key of the frontend's that the guest cannot write.
    if (auto written = store_.write(vif.frontend_path + "/mtu", fmt::format("{}", spec.mtu), t); !written) {
        return written;
    }
    return store_.set_permissions(vif.frontend_path + "/mtu", backend_owns, t);
}

Result<unsigned> Toolstack::write_vif(DomainId domain, const VifSpec& spec) {
    auto backend = domain_named(spec.backend);
    if (!backend) {
        return propagate(backend);
    }
    for (const DomainId needed : {domain, *backend}) {
        if (!store_.read(domain_path(needed) + "/domid")) {
            return fail(ENOENT, fmt::format("there is no domain {}", std::to_underlying(needed)));
        }
    }
    unsigned devid = 0;
    auto written = transact(store_, [&](Transaction t) -> Result<void> {
        auto chosen = spec.devid ? Result<unsigned>(*spec.devid) : free_devid(domain, t);
        if (!chosen) {
            return propagate(chosen);
        }
        devid = *chosen;
        const Vif vif = vif_of(domain, devid, *backend);
        if (store_.read(vif.libxl_path, t)) {
            return fail(EEXIST, fmt::format("domain {} has a vif {} already", std::to_underlying(domain), devid));
        }
        // What was wrong with an earlier device of that number says nothing of this one.
        if (auto removed = store_.remove(error_path(*backend, vif.backend_path), t);
            !removed && removed.error().code != ENOENT) {
            return removed;
        }
        return write_vif_nodes(t, vif, spec);
    });
    if (!written) {
        return propagate(written);
    }
    return devid;
}

Result<unsigned> Toolstack::attach_vif(DomainId domain, const VifSpec& spec) {
    auto devid = write_vif(domain, spec);
    if (!devid) {
        return devid;
    }
    auto vif = find_vif(domain, *devid);
    if (!vif) {
        return propagate(vif);
    }
    // A backend that has nothing to wait for may have passed through InitWait before anybody looked, and its guest may
    // have come and gone.
    auto done = wait_for_backend(*vif, "reach InitWait (is the netback daemon running?)", [](std::uint32_t state) {
        return state == std::to_underlying(XenbusState::init_wait) ||
               state == std::to_underlying(XenbusState::connected) || state == std::to_underlying(XenbusState::closed);
    });
    if (done) {
        done = check_not_refused(*vif);
    }
    if (done) {
        done = run_script(*vif, "online");
    }
    if (!done) {
        [[maybe_unused]] const auto undone = take_away(*vif, false);
        return propagate(done);
    }
    return devid;
}

Result<void> Toolstack::detach_vif(DomainId domain, unsigned devid) {
    auto vif = find_vif(domain, devid);
    if (!vif) {
        return propagate(vif);
    }
    return take_away(*vif, false);
}

Result<void> Toolstack::destroy_vif(DomainId domain, unsigned devid) {
    auto vif = find_vif(domain, devid);
    if (!vif) {
        return propagate(vif);
    }
    return take_away(*vif, true);
}

Result<void> Toolstack::take_away(const Vif& vif, bool frontend_first) {
    auto closed = close_backend(vif, frontend_first);
    if (closed) {
        closed = run_script(vif, "offline");
    }
    // As libxl does, whatever the backend or the script made of it.
    if (auto removed = remove_nodes(vif); !removed) {
        return removed;
    }
    return closed;
}

Result<void> Toolstack::close_backend(const Vif& vif, bool frontend_first) {
    auto asked = transact(store_, [&](Transaction t) -> Result<void> {
        if (frontend_first) {
            if (auto removed = store_.remove(vif.frontend_path, t); !removed && removed.error().code != ENOENT) {
                return removed;
            }
        }
        const auto state = store_.read(vif.backend_path + "/state", t);
        if (!state) {
            return {};
        }
        if (auto written = store_.write(vif.backend_path + "/online", "0", t); !written) {
            return written;
        }
        if (parse_xenbus_state(*state) == XenbusState::closed) {
            return {};
        }
        return store_.write(vif.backend_path + "/state", "5", t);
    });
    if (!asked) {
        return asked;
    }
    return wait_for_backend(vif, "close; its nodes were removed all the same", [](std::uint32_t state) {
        return state == std::to_underlying(XenbusState::closed) || state == std::to_underlying(XenbusState::unknown);
    });
}

Result<void> Toolstack::remove_nodes(const Vif& vif) {
    return transact(store_, [&](Transaction t) -> Result<void> {
        for (const std::string* path : {&vif.libxl_path, &vif.frontend_path, &vif.backend_path}) {
            if (auto removed = store_.remove(*path, t); !removed && removed.error().code != ENOENT) {
                return removed;
            }
            // libxl leaves no empty folder behind.
            const std::string parent = path->substr(0, path->rfind('/'));
            if (const auto left = store_.list(parent, t); left && left->empty()) {
                [[maybe_unused]] const auto pruned = store_.remove(parent, t);
            }
        }
        return {};
    });
}

std::uint32_t Toolstack::state_at(const std::string& directory) {
    const auto state = store_.read(directory + "/state");
    return state ? std::to_underlying(parse_xenbus_state(*state)) : std::to_underlying(XenbusState::unknown);
}

template <class Accept>
Result<void> Toolstack::wait_for_backend(const Vif& vif, std::string_view what, Accept&& accept) {
    const std::string watched = vif.backend_path + "/state";
    const std::string token = "toolstack";
    if (auto watching = store_.watch(watched, token); !watching) {
        return watching;
    }
    const auto deadline = std::chrono::steady_clock::now() + limits_.backend;
    bool accepted = accept(state_at(vif.backend_path));
    while (!accepted) {
        const auto left =
            std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
        pollfd wait{store_.fd(), POLLIN, 0};
        if (left.count() <= 0 || ::poll(&wait, 1, static_cast<int>(left.count())) == 0) {
            break;
        }
        while (store_.next_event()) {
        }
        accepted = accept(state_at(vif.backend_path));
    }
    [[maybe_unused]] const auto unwatched = store_.unwatch(watched, token);
    while (store_.next_event()) {
    }
    if (!accepted) {
        return fail(ETIMEDOUT,
                    fmt::format("the backend of vif {} of domain {}, {}, did not within {} s {}", vif.devid,
                                std::to_underlying(vif.domain), vif.backend_path,
                                std::chrono::duration_cast<std::chrono::seconds>(limits_.backend).count(), what));
    }
    return {};
}

/// A backend that closed a device because of its guest leaves no reason.
Result<void> Toolstack::check_not_refused(const Vif& vif) {
    const auto reason = store_.read(error_path(vif.backend, vif.backend_path));
    if (!reason || state_at(vif.backend_path) != std::to_underlying(XenbusState::closed)) {
        return {};
    }
    return fail(ECONNREFUSED, fmt::format("the backend of vif {} of domain {} refused: {}", vif.devid,
                                          std::to_underlying(vif.domain), printable(*reason, 512)));
}

Result<void> Toolstack::run_script(const Vif& vif, const std::string& action) {
    const auto script = store_.read(vif.libxl_path + "/script");
    // In a driver domain the scripts are that domain's business (xl devd).
    if (!script || script->empty() || vif.backend != dom0) {
        return {};
    }
    // As libxl, whatever its vifname: the script gives it that.
    const std::string name = fmt::format("vif{}.{}", std::to_underlying(vif.domain), vif.devid);
    return run_hotplug_script(*script, {action, "type_if=vif"},
                              {"script=" + *script, "XENBUS_TYPE=vif",
                               fmt::format("XENBUS_PATH=backend/vif/{}/{}", std::to_underlying(vif.domain), vif.devid),
                               "XENBUS_BASE_PATH=backend", "netdev=", "vif=" + name, "XENSTORED_PATH=" + store_socket_},
                              limits_.script);
}

Result<std::vector<VifStatus>> Toolstack::list_vifs(DomainId domain) {
    std::vector<VifStatus> vifs;
    const auto devids = store_.list(libxl_path(domain) + "/device/vif");
    if (!devids) {
        if (devids.error().code == ENOENT) {
            return vifs;
        }
        return fail(devids.error().code, devids.error().message);
    }
    for (const std::string& text : *devids) {
        const auto devid = parse_decimal(text, max_devices - 1);
        auto vif = devid ? find_vif(domain, *devid) : fail(EINVAL, "not a device id");
        if (vif) {
            vifs.push_back({*devid, vif->backend, store_.read(vif->libxl_path + "/mac").value_or(""),
                            state_at(vif->frontend_path), state_at(vif->backend_path)});
        }
    }
    return vifs;
}

}  // namespace uvif::xen
