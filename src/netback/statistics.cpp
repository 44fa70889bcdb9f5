// SPDX-License-Identifier: MIT
#include "netback/statistics.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>

namespace uvif::netback {
namespace {

/// Calls visit(name, field of a, field of b) for every counter: the one list that sums and prints go by.
template <class A, class B, class Visit>
void each_counter(A& a, B& b, Visit visit) {
    visit("tx_packets", a.tx.packets, b.tx.packets);
    visit("tx_bytes", a.tx.bytes, b.tx.bytes);
    visit("tx_slots", a.tx.slots, b.tx.slots);
    visit("tx_gso_packets", a.tx.gso_packets, b.tx.gso_packets);
    visit("tx_by_copy", a.tx.by_copy, b.tx.by_copy);
    visit("tx_by_map", a.tx.by_map, b.tx.by_map);
    visit("tx_by_static", a.tx.by_static, b.tx.by_static);
    visit("tx_zerocopy_sent", a.tx.zerocopy_sent, b.tx.zerocopy_sent);
    visit("tx_zerocopy_success", a.tx.zerocopy_success, b.tx.zerocopy_success);
    visit("tx_zerocopy_fail", a.tx.zerocopy_fail, b.tx.zerocopy_fail);
    visit("tx_held_pages", a.tx.held_pages, b.tx.held_pages);
    visit("tx_held_slots", a.tx.held_slots, b.tx.held_slots);
    visit("tx_regions", a.tx.regions, b.tx.regions);
    visit("tx_lazy_copies", a.tx.lazy_copies, b.tx.lazy_copies);
    visit("tx_held_back", a.tx.held_back, b.tx.held_back);
    visit("tx_copied_bytes", a.tx.copied_bytes, b.tx.copied_bytes);
    visit("tx_copy_calls", a.tx.copy_calls, b.tx.copy_calls);
    visit("tx_map_calls", a.tx.map_calls, b.tx.map_calls);
    visit("tx_unmap_calls", a.tx.unmap_calls, b.tx.unmap_calls);
    visit("tx_unmap_errors", a.tx.unmap_errors, b.tx.unmap_errors);
    visit("tx_notifications", a.tx.notify_calls, b.tx.notify_calls);
    for (std::size_t i = 0; i < tx_drop_names.size(); ++i) {
        visit("tx_drop_" + std::string(tx_drop_names[i]), a.tx.drops[i], b.tx.drops[i]);
    }
    visit("rx_packets", a.rx.packets, b.rx.packets);
    visit("rx_bytes", a.rx.bytes, b.rx.bytes);
    visit("rx_slots", a.rx.slots, b.rx.slots);
    visit("rx_gso_packets", a.rx.gso_packets, b.rx.gso_packets);
    visit("rx_copied_bytes", a.rx.copied_bytes, b.rx.copied_bytes);
    visit("rx_copy_calls", a.rx.copy_calls, b.rx.copy_calls);
    visit("rx_notifications", a.rx.notify_calls, b.rx.notify_calls);
    visit("rx_direct", a.rx.direct, b.rx.direct);
    visit("rx_direct_missed", a.rx.direct_missed, b.rx.direct_missed);
    visit("rx_passed", a.rx.passed, b.rx.passed);
    visit("tx_static_hits", a.tx.static_hits, b.tx.static_hits);
    visit("tx_static_misses", a.tx.static_misses, b.tx.static_misses);
    visit("rx_static_hits", a.rx.static_hits, b.rx.static_hits);
    visit("rx_static_misses", a.rx.static_misses, b.rx.static_misses);
    visit("static_entries", a.tx.static_entries, b.tx.static_entries);
    visit("tx_by_persistent", a.tx.by_persistent, b.tx.by_persistent);
    visit("tx_persistent_hits", a.tx.persistent_hits, b.tx.persistent_hits);
    visit("tx_persistent_misses", a.tx.persistent_misses, b.tx.persistent_misses);
    visit("rx_persistent_hits", a.rx.persistent_hits, b.rx.persistent_hits);
    visit("rx_persistent_misses", a.rx.persistent_misses, b.rx.persistent_misses);
    visit("persistent_learned", a.tx.persistent_learned, b.tx.persistent_learned);
    visit("persistent_refused", a.tx.persistent_refused, b.tx.persistent_refused);
    visit("persistent_given_back", a.tx.persistent_given_back, b.tx.persistent_given_back);
    visit("persistent_pages", a.tx.persistent_pages, b.tx.persistent_pages);
    visit("self_granted_pages", a.tx.self_granted_pages, b.tx.self_granted_pages);
    visit("rx_steered", a.rx.steered, b.rx.steered);
    visit("rx_lazy_copies", a.rx.lazy_copies, b.rx.lazy_copies);
    visit("rx_waits", a.rx.waits, b.rx.waits);
    visit("rx_stalls", a.rx.stalls, b.rx.stalls);
    for (std::size_t i = 0; i < rx_drop_names.size(); ++i) {
        visit("rx_drop_" + std::string(rx_drop_names[i]), a.rx.drops[i], b.rx.drops[i]);
    }
    visit("port_submitted", a.port.submitted, b.port.submitted);
    visit("port_passed", a.port.passed, b.port.passed);
    visit("port_zerocopy_sent", a.port.zerocopy_sent, b.port.zerocopy_sent);
    visit("port_zerocopy_copied", a.port.zerocopy_copied, b.port.zerocopy_copied);
    visit("port_dropped", a.port.submit_dropped, b.port.submit_dropped);
    visit("port_dropped_metadata", a.port.dropped_metadata, b.port.dropped_metadata);
    visit("port_dropped_link_down", a.port.dropped_link_down, b.port.dropped_link_down);
    visit("port_dropped_too_long", a.port.dropped_too_long, b.port.dropped_too_long);
    visit("port_dropped_refused", a.port.dropped_refused, b.port.dropped_refused);
    visit("port_dropped_spoofed", a.port.dropped_spoofed, b.port.dropped_spoofed);
    visit("port_dropped_held_up", a.port.dropped_held_up, b.port.dropped_held_up);
    visit("port_reordered", a.port.reordered, b.port.reordered);
    visit("port_gso_fixups", a.port.gso_fixups, b.port.gso_fixups);
    visit("port_received", a.port.received, b.port.received);
    visit("port_receive_dropped", a.port.receive_dropped, b.port.receive_dropped);
    visit("port_receive_foreign", a.port.receive_foreign, b.port.receive_foreign);
    visit("port_system_calls", a.port.system_calls, b.port.system_calls);
}

}  // namespace

QueueStatistics& QueueStatistics::operator+=(const QueueStatistics& other) {
    each_counter(*this, other, [](const auto&, std::uint64_t& sum, const std::uint64_t& more) { sum += more; });
    tx.oldest_hold_us = std::max(tx.oldest_hold_us, other.tx.oldest_hold_us);
    return *this;
}

nlohmann::json to_json(const QueueStatistics& statistics) {
    nlohmann::json json;
    each_counter(statistics, statistics,
                 [&json](const auto& name, std::uint64_t value, std::uint64_t) { json[name] = value; });
    json["tx_oldest_hold_us"] = statistics.tx.oldest_hold_us;
    const auto sum = [](const auto& drops) { return std::accumulate(drops.begin(), drops.end(), std::uint64_t{0}); };
    json["tx_drops"] = sum(statistics.tx.drops) + statistics.port.submit_dropped;
    json["rx_drops"] = sum(statistics.rx.drops) + statistics.port.receive_dropped;
    return json;
}

}  // namespace uvif::netback
