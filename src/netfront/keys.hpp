// SPDX-License-Identifier: MIT
//
// What the two sides tell each other through xenstore (xen/io/netif.h; protocol order as Linux netfront's).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "netfront/control.hpp"
#include "netfront/queue.hpp"
#include "netfront/tx.hpp"
#include "uvif/netfront.hpp"
#include "xen/store.hpp"

namespace uvif::netfront {

/// Remarks about the store, one sentence each: bounded, and none twice, whatever the store says.
class Notes {
public:
    void add(std::string note);
    [[nodiscard]] const std::vector<std::string>& all() const noexcept { return notes_; }

private:
    std::vector<std::string> notes_;
};

/// What a backend offers. A key that is missing or makes no sense has its default from netif.h.
struct Offer {
    bool rx_copy = false;
    bool split_event_channels = false;
    bool control_ring = false;
    bool persistent_grants = false;
    bool dynamic_groups = false;  ///< filtering of multicast can be turned on and off while connected
    bool multi_queue = false;     ///< multi-queue-max-queues exists: say how many
    unsigned max_queues = 1;
    TxFeatures tx;
};

/// An error means that the store is out of reach; what it says is never one.
Result<Offer> read_offer(xen::Store& store, const std::string& backend, Notes& notes);

/// The `carrier` key of the backend: absent means up.
Result<bool> read_carrier(xen::Store& store, const std::string& backend, Notes& notes);

/// Asks the backend to filter multicast, or to stop that.
Result<void> request_groups(xen::Store& store, const std::string& frontend, bool filter);

/// Whether the backend is promised that buffers stay granted: static grants, where they are to be had, are the better.
[[nodiscard]] bool promises_grants(const Config& config, const Offer& offer) noexcept;

/// Writes everything a backend needs to connect, in one transaction: keys of the queues (flat for one queue,
/// queue-N/ for more) and of the control ring, if there is one, then features. What an earlier connection left is
/// removed.
Result<void> publish(xen::Store& store, const std::string& frontend, const Config& config, const Offer& offer,
                     const std::vector<Queue::Impl*>& queues, const Control* control);

}  // namespace uvif::netfront
