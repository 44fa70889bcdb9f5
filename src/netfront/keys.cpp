// SPDX-License-Identifier: MIT
#include "netfront/keys.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <optional>
#include <utility>

#include "runtime/limits.hpp"
#include "xen/store_path.hpp"

namespace uvif::netfront {
namespace {

constexpr std::uint32_t most_queues_offered = 65535;
constexpr const char* groups_key = "request-multicast-control";

/// What a reader of store_path.hpp found, with a missing, unreadable or malformed value as nothing. An error is left
/// only where the store itself is out of reach.
template <class T>
Result<std::optional<T>> lenient(Result<std::optional<T>> value, Notes& notes) {
    if (value) {
        return value;
    }
    switch (value.error().code) {
        case EINVAL:
            notes.add(value.error().message + "; taken as absent");
            return std::optional<T>();
        case EACCES:
            return std::optional<T>();
        default:
            return value;
    }
}

Result<bool> read_feature(xen::Store& store, const std::string& dir, std::string_view key, bool missing, Notes& notes) {
    auto value = lenient(xen::read_flag(store, fmt::format("{}/{}", dir, key)), notes);
    if (!value) {
        return propagate(value);
    }
    return value->value_or(missing);
}

using Pairs = std::vector<std::pair<std::string, std::string>>;

void add_queue_keys(Pairs& keys, const std::string& prefix, const Queue::Impl& queue) {
    const auto number = [](auto value) { return fmt::format("{}", static_cast<std::uint32_t>(value)); };
    keys.emplace_back(prefix + "tx-ring-ref", number(queue.tx_ring_ref()));
    keys.emplace_back(prefix + "rx-ring-ref", number(queue.rx_ring_ref()));
    if (queue.split()) {
        keys.emplace_back(prefix + "event-channel-tx", number(queue.tx_port()));
        keys.emplace_back(prefix + "event-channel-rx", number(queue.rx_port()));
    } else {
        keys.emplace_back(prefix + "event-channel", number(queue.tx_port()));
    }
}

Pairs frontend_keys(const Config& config, const Offer& offer, const std::vector<Queue::Impl*>& queues,
                    const Control* control) {
    Pairs keys;
    if (offer.multi_queue) {
        keys.emplace_back("multi-queue-num-queues", fmt::format("{}", queues.size()));
    }
    for (std::size_t i = 0; i < queues.size(); ++i) {
        add_queue_keys(keys, queues.size() == 1 ? std::string() : fmt::format("queue-{}/", i), *queues[i]);
    }
    if (control != nullptr) {
        keys.emplace_back("ctrl-ring-ref", fmt::format("{}", std::to_underlying(control->ring_ref())));
        keys.emplace_back("event-channel-ctrl", fmt::format("{}", std::to_underlying(control->port())));
    }
    if (promises_grants(config, offer)) {
        keys.emplace_back("feature-persistent", "1");
    }
    keys.emplace_back("request-rx-copy", "1");
    keys.emplace_back("feature-rx-notify", "1");
    keys.emplace_back("feature-sg", config.scatter_gather ? "1" : "0");
    const bool segmentation = config.scatter_gather && config.segmentation;
    keys.emplace_back("feature-gso-tcpv4", segmentation ? "1" : "0");
    keys.emplace_back("feature-gso-tcpv6", segmentation ? "1" : "0");
    keys.emplace_back("feature-no-csum-offload", config.checksum_offload ? "0" : "1");
    keys.emplace_back("feature-ipv6-csum-offload", config.checksum_offload ? "1" : "0");
    if (config.filter_multicast && offer.tx.groups) {
        keys.emplace_back(groups_key, "1");
    }
    return keys;
}

/// Keys that an earlier connection, perhaps another driver's, may have left and that would contradict ours.
bool is_stale(std::string_view key) {
    static constexpr std::string_view left_behind[] = {"tx-ring-ref",
                                                       "rx-ring-ref",
                                                       "event-channel",
                                                       "event-channel-tx",
                                                       "event-channel-rx",
                                                       "ctrl-ring-ref",
                                                       "feature-persistent",
                                                       "xdp-headroom",
                                                       "event-channel-ctrl",
                                                       "multi-queue-num-queues",
                                                       groups_key,
                                                       "feature-gso-tcpv4-prefix",
                                                       "feature-gso-tcpv6-prefix"};
    return key.starts_with("queue-") || std::ranges::find(left_behind, key) != std::end(left_behind);
}

Result<void> remove_stale(xen::Store& store, const std::string& frontend, xen::Transaction t) {
    auto present = store.list(frontend, t);
    if (!present) {
        return propagate(present);
    }
    for (const std::string& key : *present) {
        if (!is_stale(key)) {
            continue;
        }
        if (auto removed = store.remove(fmt::format("{}/{}", frontend, key), t); !removed) {
            return removed;
        }
    }
    return {};
}

}  // namespace

void Notes::add(std::string note) {
    if (notes_.size() < limits::notes && std::ranges::find(notes_, note) == notes_.end()) {
        notes_.push_back(std::move(note));
    }
}

Result<Offer> read_offer(xen::Store& store, const std::string& backend, Notes& notes) {
    Offer offer;
    bool no_checksum = false;
    const struct {
        std::string_view key;
        bool* value;
    } flags[] = {
        {"feature-rx-copy", &offer.rx_copy},
        {"feature-split-event-channels", &offer.split_event_channels},
        {"feature-ctrl-ring", &offer.control_ring},
        {"feature-sg", &offer.tx.scatter_gather},
        {"feature-gso-tcpv4", &offer.tx.tcpv4},
        {"feature-gso-tcpv6", &offer.tx.tcpv6},
        {"feature-multicast-control", &offer.tx.groups},
        {"feature-dynamic-multicast-control", &offer.dynamic_groups},
        {"feature-no-csum-offload", &no_checksum},
        {"feature-ipv6-csum-offload", &offer.tx.checksum_ipv6},
        {"feature-persistent", &offer.persistent_grants},
    };
    for (const auto& flag : flags) {
        auto value = read_feature(store, backend, flag.key, false, notes);
        if (!value) {
            return propagate(value);
        }
        *flag.value = *value;
    }
    offer.tx.checksum_ipv4 = !no_checksum;
    offer.dynamic_groups = offer.dynamic_groups && offer.tx.groups;

    auto queues = lenient(xen::read_decimal(store, backend + "/multi-queue-max-queues", most_queues_offered), notes);
    if (!queues) {
        return propagate(queues);
    }
    offer.multi_queue = queues->value_or(0) != 0;
    offer.max_queues = offer.multi_queue ? **queues : 1;
    return offer;
}

Result<bool> read_carrier(xen::Store& store, const std::string& backend, Notes& notes) {
    return read_feature(store, backend, "carrier", true, notes);
}

Result<void> request_groups(xen::Store& store, const std::string& frontend, bool filter) {
    return store.write(fmt::format("{}/{}", frontend, groups_key), filter ? "1" : "0");
}

bool promises_grants(const Config& config, const Offer& offer) noexcept {
    return config.persistent_grants && offer.persistent_grants && !(config.static_grants && offer.control_ring);
}

Result<void> publish(xen::Store& store, const std::string& frontend, const Config& config, const Offer& offer,
                     const std::vector<Queue::Impl*>& queues, const Control* control) {
    const Pairs keys = frontend_keys(config, offer, queues, control);
    return xen::transact(store, [&](xen::Transaction t) -> Result<void> {
        // Also the proof that the directory still exists: a write would make it anew.
        if (auto removed = remove_stale(store, frontend, t); !removed) {
            return removed;
        }
        for (const auto& [key, value] : keys) {
            if (auto written = store.write(fmt::format("{}/{}", frontend, key), value, t); !written) {
                return written;
            }
        }
        return {};
    });
}

}  // namespace uvif::netfront
