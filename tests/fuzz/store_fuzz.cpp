// SPDX-License-Identifier: MIT
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "runtime/printable.hpp"
#include "xen/emulated/store_connection.hpp"
#include "xen/emulated/store_core.hpp"
#include "xen/store_path.hpp"
#include "xen/xenbus.hpp"

extern "C" {
#include <xen/io/xs_wire.h>
}

/// Theory of operation
///
/// The input is a script for three clients of one store: dom0 and two connections of one guest. Its bytes are
/// taken for raw octets of the protocol (in pieces), or for the parts of well-formed requests, since random octets
/// seldom get past the header; the clients read their replies now and then. Whatever a guest wrote is then given
/// to the strict readers and the state machines.
/// What must hold, beside no crash and no leak: the node counts are right, no answer makes an unprivileged domain own
/// more nodes than its quota, output is bounded, and the state machines keep their promises.
namespace {

using namespace uvif::xen;

void require(bool condition) {
    if (!condition) {
        std::abort();
    }
}

class Input {
public:
    explicit Input(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}
    [[nodiscard]] bool empty() const { return bytes_.empty(); }
    std::uint8_t byte() {
        if (bytes_.empty()) {
            return 0;
        }
        const std::uint8_t first = bytes_.front();
        bytes_ = bytes_.subspan(1);
        return first;
    }
    std::span<const std::uint8_t> take(std::size_t count) {
        const auto part = bytes_.first(std::min(count, bytes_.size()));
        bytes_ = bytes_.subspan(part.size());
        return part;
    }

private:
    std::span<const std::uint8_t> bytes_;
};

constexpr std::array paths = {"/",
                              "/a",
                              "/a/b",
                              "/a/b/c",
                              "/a/bb",
                              "/local/domain/1",
                              "device",
                              "device/x",
                              "/a/",
                              "//",
                              "@releaseDomain",
                              "/local/domain/1/device",
                              "/secret",
                              "/secret/x",
                              "state",
                              "/a/b/c/d/e/f/g/h",
                              "",
                              "@x"};

/// A request of plausible parts.
std::string request(Input& input) {
    const auto type = static_cast<std::uint32_t>(input.byte() % (XS_TYPE_COUNT + 1));
    const auto tx = static_cast<std::uint32_t>(input.byte() % 4);
    std::string payload;
    if (type == XS_TRANSACTION_END) {
        payload = input.byte() % 2 == 0 ? "T" : "F";
    } else {
        payload = paths[input.byte() % paths.size()];
    }
    payload += '\0';
    const std::uint8_t more = input.byte();
    if (type == XS_SET_PERMS) {
        for (int i = 0; i < more % 8; ++i) {
            payload += "nrwbx"[input.byte() % 5] + std::to_string(input.byte() % 3) + '\0';
        }
    } else if (type == XS_WRITE || more % 4 == 0) {
        const auto value = input.take(more);
        payload.append(value.begin(), value.end());
    } else if (more % 4 == 1) {
        payload += std::to_string(input.byte() % 3) + '\0';
    }
    const xsd_sockmsg header{type, 0, tx, static_cast<std::uint32_t>(payload.size())};
    std::string bytes(sizeof(header), '\0');
    std::memcpy(bytes.data(), &header, sizeof(header));
    return bytes + payload;
}

void check_counts(const StoreCore& core) {
    std::map<DomainId, std::size_t> counted;
    core.tree().walk("/", [&](const std::string&, const StoreNode& node) {
        require(!node.permissions.empty());
        ++counted[node.permissions.front().domain];
    });
    for (std::uint16_t id = 0; id < 3; ++id) {
        require(core.tree().owned(DomainId{id}) == counted[DomainId{id}]);
    }
}

XenbusState any_state(Input& input) {
    return static_cast<XenbusState>(input.byte() % xenbus_state_count);
}

/// A device whose other end and whose toolstack do as they like, between any two steps.
void run_state_machines(Input input) {
    BackendView backend;
    FrontendView frontend;
    while (!input.empty()) {
        const std::uint8_t flags = input.byte();
        backend.frontend = any_state(input);
        backend.frontend_exists = (flags & 1) != 0;
        backend.online = (flags & 2) != 0;
        backend.hotplug = static_cast<Hotplug>((flags >> 2) & 3);
        backend.broken = backend.broken || (flags & 16) != 0;
        backend.overdue = (flags & 32) != 0;
        backend.self = (flags & 64) != 0 ? any_state(input) : backend.self;
        frontend.backend = any_state(input);
        frontend.wanted = (flags & 128) == 0;
        for (int steps = input.byte() % 4; steps > 0; --steps) {
            const BackendStep step = backend_step(backend);
            require(step.action != BackendAction::connect || !backend.attached);
            require(step.action != BackendAction::remove || !backend.attached);
            backend.self = step.action == BackendAction::write_state ? step.state : backend.self;
            backend.attached =
                step.action == BackendAction::connect || (backend.attached && step.action != BackendAction::disconnect);
            const FrontendStep other = frontend_step(frontend);
            require(other.action != FrontendAction::connect || !frontend.attached);
            frontend.self = other.action == FrontendAction::write_state ? other.state : frontend.self;
            frontend.attached = other.action == FrontendAction::connect ||
                                (frontend.attached && other.action != FrontendAction::disconnect);
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input input({data, size});
    run_state_machines(input);

    const StoreQuota quota{.nodes = 8, .value_size = 64, .watches = 3, .transactions = 2, .transaction_nodes = 8};
    StoreCore core(quota);
    StoreSession setup(core, DomainId{0});
    core.introduce(DomainId{1});
    require(setup.make_directory("/local/domain/1", Transaction::none).has_value());
    require(setup.set_permissions("/local/domain/1", {{DomainId{1}, 'n'}}, Transaction::none).has_value());
    require(setup.write("/secret", "x", Transaction::none).has_value());

    std::array<std::unique_ptr<StoreConnection>, 3> clients;
    while (!input.empty()) {
        const std::uint8_t what = input.byte();
        auto& client = clients[what % clients.size()];
        if (client == nullptr) {
            client = std::make_unique<StoreConnection>(core, what % clients.size() == 0 ? DomainId{0} : DomainId{1});
        }
        const std::size_t owned = core.tree().owned(DomainId{1});
        bool alive = true;
        if (what < 128) {
            const std::string bytes = request(input);
            alive = client->feed(std::as_bytes(std::span(bytes)));
        } else if (what < 192) {
            alive = client->feed(std::as_bytes(input.take(what % 64)));
        } else if (what == 255) {
            core.release(DomainId{1});
            core.introduce(DomainId{1});
        } else {
            const std::size_t waiting = client->output().size();
            alive = client->sent(std::min(waiting, std::size_t{input.byte()} * 16));
        }
        require(client->output().size() < StoreConnection::backlog_max + 2 * XENSTORE_PAYLOAD_MAX);
        // dom0 may give it more, and then it may have less again.
        require(client->domain() == DomainId{0} || core.tree().owned(DomainId{1}) <= std::max(owned, quota.nodes));
        if (!alive) {
            client.reset();
        }
    }
    check_counts(core);
    core.tree().walk("/", [](const std::string&, const StoreNode& node) {
        static_cast<void>(parse_decimal(node.value));
        static_cast<void>(parse_mac(node.value));
        static_cast<void>(parse_xenbus_state(node.value));
        require(uvif::printable(node.value).size() < 300);
    });
    return 0;
}
