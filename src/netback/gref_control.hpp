// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "grant/static_grants.hpp"
#include "netback/hash_control.hpp"
#include "ring/netif.hpp"

namespace uvif::netback {

/// Writes to the beginning of a page that the guest has granted. False: that cannot be.
using WritePage = std::function<bool(xen::GrantRef, std::span<const std::byte>)>;

/// What the queues are told of static grants; each call has its effect when it returns.
class StaticUsers {
public:
    virtual void enter(std::size_t queue, std::span<const StaticGrants::Page> pages) = 0;
    /// Sets to false those of `forgotten`, all true at first, which the queue goes on using: packets in flight do.
    virtual void forget(std::size_t queue, std::span<const std::uint32_t> refs, std::vector<bool>& forgotten) = 0;

protected:
    ~StaticUsers() = default;
};

/// A guest's requests for static grants (netif.h, "Control messages", 8 to 10). Lists are copied once, and judged then.
class GrefControl {
public:
    GrefControl(StaticGrants& grants, StaticUsers& users) noexcept : grants_(grants), users_(users) {}

    /// Answers a request of one of these types; all others are not_supported.
    [[nodiscard]] ring::CtrlResponse execute(const ring::CtrlRequest& request, const ReadPage& read,
                                             const WritePage& write);

private:
    using Status = ring::CtrlStatus;
    Status add(std::size_t queue, std::span<const ring::GrefEntry> list);
    std::uint32_t remove(std::size_t queue, std::span<ring::GrefEntry> list);

    StaticGrants& grants_;
    StaticUsers& users_;
};

}  // namespace uvif::netback
