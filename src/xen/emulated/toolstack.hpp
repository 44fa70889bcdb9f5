// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "uvif/error.hpp"
#include "xen/emulated/vif_spec.hpp"
#include "xen/store.hpp"
#include "xen/types.hpp"

namespace uvif::xen {

/// A vif as the toolstack finds it.
struct VifStatus {
    unsigned devid = 0;
    DomainId backend{};
    std::string mac;
    std::uint32_t frontend_state = 0;
    std::uint32_t backend_state = 0;
};

/// What libxl does to the store for domains and their vifs: the same keys, owners and permissions, in the same
/// transactions, and the same waiting for the backend. It acts as dom0, through a Store of dom0's.
/// Thread rule: one thread at a time; the waiting calls take all events of the store.
class Toolstack {
public:
    /// libxl's own limits (LIBXL_INIT_TIMEOUT, LIBXL_DESTROY_TIMEOUT, LIBXL_HOTPLUG_TIMEOUT).
    struct Limits {
        std::chrono::milliseconds backend{10'000};
        std::chrono::milliseconds script{40'000};
    };

    /// `store_socket` is what hotplug scripts get as XENSTORED_PATH, so that the xenstore-* tools reach `store`.
    Toolstack(Store& store, std::string store_socket, Limits limits)
        : store_(store), store_socket_(std::move(store_socket)), limits_(limits) {}
    explicit Toolstack(Store& store) : store_(store) {}

    /// The nodes that xen-init-dom0 writes once the store is up.
    Result<void> write_dom0();
    Result<void> write_domain(DomainId domain, std::string_view name, bool driver_domain);
    Result<void> remove_domain(DomainId domain);
    [[nodiscard]] std::string name_of(DomainId domain);

    /// Writes the nodes of a vif, and nothing more; returns its device id.
    Result<unsigned> write_vif(DomainId domain, const VifSpec& spec);

    /// write_vif, then waits for the backend to reach InitWait and runs the hotplug script. When either fails, the
    /// device is taken away again. ECONNREFUSED, in the backend's own words: it closed instead.
    Result<unsigned> attach_vif(DomainId domain, const VifSpec& spec);

    /// Asks the backend to close and waits for it, runs the script, removes the nodes. ETIMEDOUT: the backend did
    /// not close; the nodes are gone all the same.
    Result<void> detach_vif(DomainId domain, unsigned devid);
    /// The same for a domain that is being destroyed: the frontend's nodes go first.
    Result<void> destroy_vif(DomainId domain, unsigned devid);

    Result<std::vector<VifStatus>> list_vifs(DomainId domain);

private:
    struct Vif {
        DomainId domain{};
        unsigned devid = 0;
        DomainId backend{};
        std::string frontend_path;
        std::string backend_path;
        std::string libxl_path;
    };
    struct Node {
        std::string key;
        std::string value;
    };

    Result<DomainId> domain_named(const std::string& name);
    Result<unsigned> free_devid(DomainId domain, Transaction t);
    [[nodiscard]] Vif vif_of(DomainId domain, unsigned devid, DomainId backend) const;
    Result<Vif> find_vif(DomainId domain, unsigned devid);
    Result<void> make_node(Transaction t, const std::string& path, const std::vector<Permission>& permissions);
    Result<void> write_nodes(Transaction t, const std::string& directory, const std::vector<Node>& nodes);
    Result<void> write_vif_nodes(Transaction t, const Vif& vif, const VifSpec& spec);
    Result<void> close_backend(const Vif& vif, bool frontend_first);
    Result<void> remove_nodes(const Vif& vif);
    Result<void> take_away(const Vif& vif, bool frontend_first);
    Result<void> run_script(const Vif& vif, const std::string& action);
    template <class Accept>
    Result<void> wait_for_backend(const Vif& vif, std::string_view what, Accept&& accept);
    Result<void> check_not_refused(const Vif& vif);
    std::uint32_t state_at(const std::string& directory);

    Store& store_;
    std::string store_socket_;
    Limits limits_;
};

}  // namespace uvif::xen
