// SPDX-License-Identifier: MIT
#include "emulated/raw_guest.hpp"

#include <fmt/format.h>

#include <array>
#include <stdexcept>
#include <utility>

namespace uvif::test {
namespace {

constexpr xen::DomainId backend_domain{0};

template <class T>
T must(Result<T> result) {
    if (!result) {
        throw std::runtime_error(result.error().message);
    }
    return std::move(*result);
}

}  // namespace

RawGuest::RawGuest(Host& host, unsigned domain, unsigned handle, unsigned queues)
    : host_(host),
      domain_(domain),
      handle_(handle),
      count_(queues),
      frontend_(Host::frontend(domain, handle)),
      backend_(Host::backend(domain, handle)),
      hypervisor_(must(xen::open_hypervisor(host.hypervisor(domain)))),
      store_(must(hypervisor_->open_store())),
      grants_(must(hypervisor_->open_grant_allocator())),
      events_(must(hypervisor_->open_event_channels())) {
    share();
}

void RawGuest::share() {
    for (unsigned i = 0; i < count_; ++i) {
        auto pages = must(grants_->share(backend_domain, 2, xen::Access::read_write));
        ring::TxFrontRing tx(pages->memory().data());
        ring::RxFrontRing rx(pages->memory().data() + xen::page_size);
        queues_.push_back({std::move(pages), must(events_->alloc_unbound(backend_domain)),
                           must(events_->alloc_unbound(backend_domain)), rx});
    }
}

Keys RawGuest::keys(bool split) const {
    Keys keys{{"request-rx-copy", "1"},   {"feature-rx-notify", "1"}, {"feature-sg", "1"},
              {"feature-gso-tcpv4", "1"}, {"feature-gso-tcpv6", "1"}, {"feature-ipv6-csum-offload", "1"}};
    if (count_ > 1) {
        keys["multi-queue-num-queues"] = std::to_string(count_);
    }
    for (unsigned i = 0; i < count_; ++i) {
        const std::string prefix = count_ > 1 ? fmt::format("queue-{}/", i) : "";
        const Queue& queue = queues_[i];
        keys[prefix + "tx-ring-ref"] = fmt::to_string(std::to_underlying(queue.pages->refs()[0]));
        keys[prefix + "rx-ring-ref"] = fmt::to_string(std::to_underlying(queue.pages->refs()[1]));
        keys[prefix + (split ? "event-channel-tx" : "event-channel")] = fmt::to_string(std::to_underlying(queue.tx));
        if (split) {
            keys[prefix + "event-channel-rx"] = fmt::to_string(std::to_underlying(queue.rx));
        }
    }
    return keys;
}

void RawGuest::announce(const Keys& keys) {
    auto done = xen::transact(*store_, [&](xen::Transaction t) -> Result<void> {
        for (const auto& [key, value] : keys) {
            if (auto written = store_->write(fmt::format("{}/{}", frontend_, key), value, t); !written) {
                return written;
            }
        }
        return keys.contains("state") ? Result<void>() : store_->write(frontend_ + "/state", "4", t);
    });
    EXPECT_TRUE(done.has_value());
}

void RawGuest::post_buffers(unsigned count, unsigned queue) {
    Queue& to = queues_[queue];
    to.buffers.push_back(must(grants_->share(backend_domain, count, xen::Access::read_write)));
    for (const xen::GrantRef ref : to.buffers.back()->refs()) {
        to.rx_ring.put({static_cast<std::uint16_t>(to.rx_ring.produced()), 0, std::to_underlying(ref)});
    }
    if (to.rx_ring.push_and_check_notify()) {
        events_->notify(to.rx);
    }
}

void RawGuest::set(const std::string& key, const std::string& value) {
    auto written = store_->write(fmt::format("{}/{}", frontend_, key), value);
    EXPECT_TRUE(written.has_value()) << key;
}

bool RawGuest::starts_over() {
    set_state("6");
    if (!backend_reaches("6")) {
        return false;
    }
    forget();
    set_state("1");
    return backend_reaches("2");
}

void RawGuest::forget() {
    const std::array<std::string, 7> given{"backend", "backend-id", "state", "handle", "mac", "trusted", "mtu"};
    auto present = store_->list(frontend_);
    for (const std::string& key : present ? *present : std::vector<std::string>()) {
        if (std::ranges::find(given, key) == given.end()) {
            EXPECT_TRUE(store_->remove(fmt::format("{}/{}", frontend_, key)).has_value());
        }
    }
    for (Queue& queue : queues_) {
        events_->unbind(queue.tx);
        events_->unbind(queue.rx);
    }
    queues_.clear();
    share();
}

}  // namespace uvif::test
