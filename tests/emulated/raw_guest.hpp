// SPDX-License-Identifier: MIT
//
// A frontend played by hand: honest pages and ports, and keys that a test may spoil before they are written.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "emulated/host.hpp"
#include "ring/front_ring.hpp"
#include "xen/hypervisor.hpp"

namespace uvif::test {

class RawGuest {
public:
    RawGuest(Host& host, unsigned domain, unsigned handle = 0, unsigned queues = 1);

    /// What an honest guest would write: flat for one queue, in folders for more.
    [[nodiscard]] Keys keys(bool split = true) const;
    /// Writes keys and Connected; an empty optional value is not written.
    void announce(const Keys& keys);
    void connect(bool split = true) { announce(keys(split)); }

    /// Makes room for so many packets of up to a page.
    void post_buffers(unsigned count, unsigned queue = 0);

    void set_state(const std::string& state) { set("state", state); }
    void set(const std::string& key, const std::string& value);
    /// Everything but what the toolstack wrote goes, and new rings are made.
    void forget();
    /// Ends its connection, and is as one that has just booted. False: the backend does not follow.
    [[nodiscard]] bool starts_over();
    [[nodiscard]] bool backend_reaches(const std::string& state) { return host_.reaches(backend_, state); }

    [[nodiscard]] const std::string& frontend() const noexcept { return frontend_; }
    [[nodiscard]] const std::string& backend() const noexcept { return backend_; }
    [[nodiscard]] unsigned domain() const noexcept { return domain_; }
    [[nodiscard]] unsigned handle() const noexcept { return handle_; }
    [[nodiscard]] xen::Store& store() noexcept { return *store_; }

private:
    struct Queue {
        std::unique_ptr<xen::SharedPages> pages;
        xen::EventPort tx, rx;
        ring::RxFrontRing rx_ring;
        std::vector<std::unique_ptr<xen::SharedPages>> buffers = {};
    };
    void share();

    Host& host_;
    unsigned domain_, handle_, count_;
    std::string frontend_, backend_;
    std::unique_ptr<xen::Hypervisor> hypervisor_;
    std::unique_ptr<xen::Store> store_;
    std::unique_ptr<xen::GrantAllocator> grants_;
    std::unique_ptr<xen::EventChannels> events_;
    std::vector<Queue> queues_;
};

}  // namespace uvif::test
