// SPDX-License-Identifier: MIT
//
// Theory of operation
//
// Two guests that connect as they should, send to each other, and do anything to what they share: requests in both
// rings whose references are their buffers, their rings, or none, control requests near every boundary, lists that
// change under them, grants that end, and in one case daemons that are killed, while a neighbour's traffic flows. What
// they do is random, from the same seeds every time. Nothing of it may stay, and no neighbour notice.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "emulated/host.hpp"
#include "emulated/traffic_guest.hpp"
#include "ring/front_ring.hpp"
#include "support/network_namespace.hpp"
#include "xen/hypervisor.hpp"

namespace uvif::test {
namespace {

constexpr xen::DomainId backend_domain{0};
constexpr unsigned queue_count = 2;

class HostileGuest {
public:
    HostileGuest(Host& host, unsigned domain, unsigned seed)
        : frontend_(Host::frontend(domain)),
          hypervisor_(*xen::open_hypervisor(host.hypervisor(domain))),
          store_(*hypervisor_->open_store()),
          grants_(*hypervisor_->open_grant_allocator()),
          events_(*hypervisor_->open_event_channels()),
          random_(seed) {
        rings_ = *grants_->share(backend_domain, ring_pages, xen::Access::read_write);
        writable_ = *grants_->share(backend_domain, pages, xen::Access::read_write);
        read_only_ = *grants_->share(backend_domain, pages, xen::Access::read_only);
        for (xen::EventPort& port : ports_) {
            port = *events_->alloc_unbound(backend_domain);
        }
    }

    /// Of whom its packets are for, and from; both are hostile.
    static std::string mac(unsigned which) { return fmt::format("02:00:00:00:00:0{}", which); }
    void address(unsigned from, unsigned to) {
        addresses_ = {2, 0, 0, 0, 0, static_cast<std::uint8_t>(to), 2, 0, 0, 0, 0, static_cast<std::uint8_t>(from),
                      8, 0};
    }

    void connect() {
        std::memset(rings_->memory().data(), 0, rings_->memory().size());
        for (unsigned i = 0; i < ring_pages; ++i) {
            ring::TxFrontRing::Shared(rings_->memory().data() + i * xen::page_size).initialise();
        }
        Keys keys{{"request-rx-copy", "1"},
                  {"feature-rx-notify", any(8) == 0 ? "0" : "1"},
                  {"feature-sg", "1"},
                  {"feature-gso-tcpv4", "1"},
                  {"feature-gso-tcpv6", "1"},
                  {"multi-queue-num-queues", std::to_string(queue_count)},
                  {"feature-persistent", std::to_string(any(2))}};
        keys["request-multicast-control"] = std::to_string(any(4) == 0 ? 1 : 0);
        if (any(4) != 0) {
            keys["ctrl-ring-ref"] = fmt::to_string(std::to_underlying(rings_->refs()[2 * queue_count]));
            keys["event-channel-ctrl"] = fmt::to_string(std::to_underlying(ports_[queue_count]));
        } else {
            (void)store_->remove(frontend_ + "/ctrl-ring-ref");
            (void)store_->remove(frontend_ + "/event-channel-ctrl");
        }
        for (unsigned q = 0; q < queue_count; ++q) {
            const std::string folder = fmt::format("queue-{}/", q);
            keys[folder + "tx-ring-ref"] = fmt::to_string(std::to_underlying(rings_->refs()[2 * q]));
            keys[folder + "rx-ring-ref"] = fmt::to_string(std::to_underlying(rings_->refs()[2 * q + 1]));
            keys[folder + "event-channel"] = fmt::to_string(std::to_underlying(ports_[q]));
        }
        for (const auto& [key, value] : keys) {
            set(key, value);
        }
        set("state", "4");
    }
    void set(const std::string& key, const std::string& value) {
        EXPECT_TRUE(store_->write(frontend_ + "/" + key, value).has_value());
    }

    void attack() {
        const unsigned queue = any(queue_count);
        switch (any(12)) {
            case 0:
            case 1:
            case 2:
                send(queue);
                break;
            case 3:
            case 4:
            case 5:
                post(queue);
                break;
            case 6:
            case 7:
                ask();
                break;
            case 8:
                lists()[any(xen::page_size / sizeof(std::uint32_t))] = any_ref();
                break;
            case 9:
                events_->notify(ports_[any(queue_count + 1)]);
                break;
            case 10:
                if (any(20) == 0) {
                    auto& ended = any(2) == 0 ? writable_ : read_only_;
                    const auto access = any(2) == 0 ? xen::Access::read_write : xen::Access::read_only;
                    // What the backend still uses stays the backend's, so that there may be no more.
                    if (auto others = grants_->share(backend_domain, pages, access)) {
                        ended = std::move(*others);
                    }
                }
                break;
            default:
                if (any(400) == 0) {
                    rx(queue).req_prod().store(any(1U << 16));
                }
                if (any(8) == 0) {
                    set("request-multicast-control", std::to_string(any(2)));
                }
                break;
        }
    }

    std::uint32_t any(std::uint32_t below) { return static_cast<std::uint32_t>(random_() >> 8) % below; }

private:
    using Tx = ring::TxFrontRing::Shared;
    using Rx = ring::RxFrontRing::Shared;
    using Ctrl = ring::CtrlFrontRing::Shared;

    static constexpr unsigned pages = 48;
    static constexpr unsigned ring_pages = 2 * queue_count + 2;  // the last is for lists

    [[nodiscard]] std::byte* ring_page(unsigned n) { return rings_->memory().data() + n * xen::page_size; }
    [[nodiscard]] Tx tx(unsigned queue) { return Tx(ring_page(2 * queue)); }
    [[nodiscard]] Rx rx(unsigned queue) { return Rx(ring_page(2 * queue + 1)); }
    [[nodiscard]] std::uint32_t* lists() { return reinterpret_cast<std::uint32_t*>(ring_page(ring_pages - 1)); }

    std::uint32_t any_ref() {
        // Seldom: what is written to a ring soon ends the connection.
        if (any(4000) == 0) {
            return std::to_underlying(rings_->refs()[any(ring_pages)]);
        }
        switch (any(16)) {
            case 0:
                return any(2) == 0 ? any(6000) : any(0xffffffffU);
            case 1:
            case 2:
            case 3:
            case 4:
            case 5:
                return std::to_underlying(read_only_->refs()[any(pages)]);
            default:
                return std::to_underlying(writable_->refs()[any(pages)]);
        }
    }

    void send(unsigned queue) {
        const Tx ring = tx(queue);
        std::uint32_t at = ring.req_prod().load();
        for (unsigned packets = any(8); packets-- != 0;) {
            const unsigned extra = any(8) == 0 ? 1 : 0;
            const unsigned slots = 1 + (any(3) == 0 ? any(19) : 0);
            if (at - ring.rsp_prod().load() + slots + extra > Tx::size) {
                break;
            }
            std::vector<std::uint32_t> sizes(slots);
            std::uint32_t total = 0;
            for (unsigned i = 0; i < slots; ++i) {
                sizes[i] = i == 0 ? 14 + any(4000) : any(4) == 0 ? any(3) : any(3000);
                total += sizes[i];
            }
            total = std::min(total, 65535U);
            for (unsigned i = 0; i < slots; ++i) {
                ring::TxRequest request;
                request.gref = any_ref();
                request.offset = static_cast<std::uint16_t>(any(xen::page_size - std::min(sizes[i], 4095U)));
                request.id = static_cast<std::uint16_t>(any(65536));
                request.size = static_cast<std::uint16_t>(i == 0 ? total : sizes[i]);
                if (i == 0) {
                    write_addresses(request.gref, request.offset);
                }
                request.flags.bits =
                    static_cast<std::uint16_t>((i + 1 < slots ? ring::TxFlags::more_data : 0) |
                                               (i == 0 && extra != 0 ? ring::TxFlags::extra_info : 0) |
                                               (i == 0 && any(4) == 0 ? ring::TxFlags::checksum_blank : 0));
                ring.write(at++, ring::TxSlot::from(request));
                if (i == 0 && extra != 0) {
                    const std::array<std::uint8_t, 6> group{
                        1, 0, 94, static_cast<std::uint8_t>(any(2)), 0, static_cast<std::uint8_t>(any(100))};
                    // A request for a group has no data: then what follows are packets of their own.
                    ring.write(at++, ring::TxSlot::from(any(2) == 0 ? ring::ExtraInfo::gso(GsoType::tcpv4, 1448)
                                                                    : ring::ExtraInfo::multicast(
                                                                          any(2) == 0 ? ring::ExtraType::mcast_add
                                                                                      : ring::ExtraType::mcast_del,
                                                                          group)));
                }
            }
        }
        ring.req_prod().store(at);
        events_->notify(ports_[queue]);
    }

    void write_addresses(std::uint32_t ref, std::uint16_t offset) {
        for (const xen::SharedPages* shared : {writable_.get(), read_only_.get()}) {
            const auto refs = shared->refs();
            const auto found = std::ranges::find(refs, xen::GrantRef{ref});
            if (found != refs.end() && any(8) != 0) {
                const auto page =
                    shared->memory().subspan(static_cast<std::size_t>(found - refs.begin()) * xen::page_size);
                std::memcpy(page.data() + offset, addresses_.data(), addresses_.size());
            }
        }
    }

    void post(unsigned queue) {
        const Rx ring = rx(queue);
        std::uint32_t at = ring.req_prod().load();
        for (unsigned count = any(40); count-- != 0 && at - ring.rsp_prod().load() < Rx::size;) {
            ring.write(at++, ring::RxRequest{static_cast<std::uint16_t>(any(65536)), 0, any_ref()});
        }
        ring.req_prod().store(at);
        events_->notify(ports_[queue]);
    }

    void ask() {
        const Ctrl ring(ring_page(2 * queue_count));
        std::uint32_t at = ring.req_prod().load();
        for (unsigned count = any(4); count-- != 0 && at - ring.rsp_prod().load() < Ctrl::size;) {
            ring::CtrlRequest request;
            request.id = static_cast<std::uint16_t>(any(65536));
            request.type = static_cast<std::uint16_t>(any(3) == 0 ? any(12) : 9 + any(2));
            const std::uint32_t list = std::to_underlying(rings_->refs()[ring_pages - 1]);
            if (request.type >= 8) {
                request.data = {any(8) == 0 ? any(5) : any(queue_count), any(16) == 0 ? any_ref() : list,
                                any(8) == 0 ? any(600) : any(20)};
                fill_list(any(20));
            } else {
                request.data = {any(3) == 0 ? list : any(4), any(130), any(130)};
            }
            ring.write(at++, request);
        }
        ring.req_prod().store(at);
        events_->notify(ports_[queue_count]);
    }
    void fill_list(unsigned count) {
        for (unsigned i = 0; i < count; ++i) {
            const bool writable = any(2) == 0;
            const auto refs = writable ? writable_->refs() : read_only_->refs();
            const ring::GrefEntry entry{.ref = any(10) == 0 ? any_ref() : std::to_underlying(refs[any(pages)]),
                                        .flags = writable ? std::uint16_t{0} : ring::GrefEntry::read_only};
            std::memcpy(lists() + 2 * i, &entry, sizeof entry);
        }
    }

    std::string frontend_;
    std::unique_ptr<xen::Hypervisor> hypervisor_;
    std::unique_ptr<xen::Store> store_;
    std::unique_ptr<xen::GrantAllocator> grants_;
    std::unique_ptr<xen::EventChannels> events_;
    std::unique_ptr<xen::SharedPages> rings_, writable_, read_only_;
    std::array<xen::EventPort, queue_count + 1> ports_{};
    std::array<std::uint8_t, 14> addresses_{};
    std::minstd_rand random_;
};

struct Attack {
    const char* name;
    const char* port;
    std::vector<std::string> arguments;
    bool kills = false;
    bool needs_network = false;
};

void PrintTo(const Attack& attack, std::ostream* out) {
    *out << attack.name;
}

constexpr unsigned rounds = 2;

class HostileTest : public testing::TestWithParam<Attack> {};

TEST_P(HostileTest, NothingStaysAndNoNeighbourNotices) {
    const Attack& attack = GetParam();
    std::optional<NetworkNamespace> network;
    if (attack.needs_network) {
        UVIF_NEEDS_PRIVILEGE();
        network.emplace();
    }
    Host host({.port = attack.port,
               .arguments = attack.arguments,
               .network = network ? network->fd() : -1,
               .log_level = "info"});
    const bool reflects = std::string(attack.port) == "null:reflect";
    const unsigned neighbours_domain = host.create();
    host.attach(neighbours_domain);
    std::optional<TrafficGuest> neighbour;
    if (reflects) {
        neighbour.emplace(host.hypervisor(neighbours_domain));
        ASSERT_TRUE(neighbour->connected()) << neighbour->failure();
    }
    for (unsigned seed = 1; seed <= rounds; ++seed) {
        SCOPED_TRACE(seed);
        std::vector<unsigned> domains;
        std::vector<std::unique_ptr<HostileGuest>> guests;
        for (unsigned i = 0; i < 2; ++i) {
            domains.push_back(host.create());
            host.attach(domains[i], "mac=" + HostileGuest::mac(i));
            host.write(Host::backend(domains[i]) + "/bridge", "br0");  // from the second connection on
            guests.push_back(std::make_unique<HostileGuest>(host, domains[i], 2 * seed + i));
            guests[i]->address(i, 1 - i);
        }
        constexpr unsigned connections = 4;
        for (unsigned connection = 0; connection < connections; ++connection) {
            for (unsigned i = 0; i < guests.size(); ++i) {
                if (connection != 0) {
                    guests[i]->set("state", connection % 2 == i ? "1" : "5");
                    guests[i]->set("state", "6");
                    ASSERT_TRUE(host.reaches(Host::backend(domains[i]), "6"));
                    guests[i]->set("state", "1");
                    ASSERT_TRUE(host.reaches(Host::backend(domains[i]), "2"));
                }
                guests[i]->connect();
            }
            for (unsigned i = 0; i < 6000; ++i) {
                const unsigned which = guests[0]->any(2);
                guests[which]->attack();
                if (i % 16 == 0) {
                    (void)host.read(Host::backend(domains[which]) + "/state");  // the daemon comes to its turn
                }
                if (attack.kills && guests[0]->any(2000) == 0) {
                    host.daemon().send(SIGKILL);
                    ASSERT_TRUE(host.daemon().wait().has_value());
                    host.start_daemon();
                }
            }
            ASSERT_TRUE(host.daemon().running()) << host.log();
        }
        for (unsigned i = 0; i < guests.size(); ++i) {  // as they are
            host.destroy(domains[i]);
            guests[i].reset();
        }
        if (neighbour) {
            EXPECT_TRUE(neighbour->flows());
        }
    }
    ASSERT_TRUE(host.daemon().running()) << host.log();
    if (neighbour) {
        EXPECT_EQ(neighbour->spoiled(), 0U);
        EXPECT_EQ(neighbour->interruptions(), 0U);
        neighbour.reset();
    }
    host.destroy(neighbours_domain);
    EXPECT_TRUE(host.at_rest());
}

INSTANTIATE_TEST_SUITE_P(
    Attacks, HostileTest,
    testing::Values(Attack{"Copied", "null:reflect", {"--workers", "2", "--switch"}},
                    Attack{"Mapped", "null:reflect", {"--workers", "1", "--strategy", "map", "--switch"}},
                    Attack{"ReceivedDirectly", "null:generate,9000", {"--workers", "2", "--receive", "direct"}},
                    Attack{"Tap", "tap", {"--workers", "2", "--receive", "direct", "--switch"}, false, true},
                    Attack{"Killed", "null:reflect", {"--workers", "2", "--strategy", "map", "--switch"}, true}),
    [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace uvif::test
