// SPDX-License-Identifier: MIT
//
// The whole frontend on a machine in this process, against a backend that the test plays key by key.
#include "netfront/device.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "ring/back_ring.hpp"
#include "xen/emulated/local_hypervisor.hpp"
#include "xen/emulated/toolstack.hpp"
#include "xen/store_path.hpp"

namespace uvif::netfront {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using xen::dom0;
using xen::DomainId;
using xen::GrantRef;
using xen::XenbusState;

/// Two ring pages and the event channels of one queue, from the backend's side.
struct BackendQueue {
    std::array<std::byte*, 2> pages{};
    xen::MappingId mapping;
    std::vector<xen::EventPort> ports;
    std::unique_ptr<ring::TxBackRing> tx;
    std::unique_ptr<ring::RxBackRing> rx;
};

/// A host with one guest that has one vif, and the backend's handles.
class NetfrontDevice : public ::testing::Test {
protected:
    void SetUp() override {
        auto made = xen::LocalHost::create();
        ASSERT_TRUE(made);
        host_ = std::move(*made);
        auto guest = host_->create_domain("guest");
        ASSERT_TRUE(guest);
        guest_ = *guest;
        front_ = host_->open(guest_);
        back_ = host_->open(dom0);
        store_ = std::move(*back_->open_store());
        grants_ = std::move(*back_->open_grant_table());
        events_ = std::move(*back_->open_event_channels());
        xen::VifSpec spec;
        spec.mac = "00:16:3e:01:02:03";
        xen::Toolstack toolstack(*store_);
        auto devid = toolstack.write_vif(guest_, spec);
        ASSERT_TRUE(devid) << devid.error().message;
        ASSERT_EQ(*devid, 0U);
        frontend_ = xen::frontend_path(guest_, 0);
        backend_ = xen::backend_path(dom0, guest_, 0);
        offer_ = {{"feature-rx-copy", "1"},           {"feature-sg", "1"},
                  {"feature-gso-tcpv4", "1"},         {"feature-gso-tcpv6", "1"},
                  {"feature-ipv6-csum-offload", "1"}, {"feature-split-event-channels", "1"},
                  {"multi-queue-max-queues", "4"}};
    }

    void TearDown() override {
        device_.reset();
        let_go();
        const auto usage = host_->machine().usage(guest_);
        ASSERT_TRUE(usage);
        EXPECT_EQ(usage->pages_shared, 0U);
        EXPECT_EQ(usage->pages_deferred, 0U);
        EXPECT_EQ(usage->ports_unbound + usage->ports_interdomain, 0U);
    }

    void set(const std::string& path, std::string_view value) { ASSERT_TRUE(store_->write(path, value)); }
    std::string get(const std::string& path) { return store_->read(path).value_or("(missing)"); }
    [[nodiscard]] std::string frontend_state() { return get(frontend_ + "/state"); }
    void backend_state(XenbusState state) { set(backend_ + "/state", fmt::format("{}", std::to_underlying(state))); }

    void announce() {
        for (const auto& [key, value] : offer_) {
            set(backend_ + "/" + key, value);
        }
        backend_state(XenbusState::init_wait);
    }
    void start(ring::Index first_index = 0) {
        auto device = Device::Impl::start(*front_, 0, config_, first_index);
        ASSERT_TRUE(device) << device.error().message;
        device_ = std::move(*device);
    }
    LinkState advance() {
        auto state = device_->advance();
        last_error_ = state ? Error{} : state.error();
        return device_->state();
    }
    /// What a backend does at Connected: maps the rings and binds the ports.
    void attach(unsigned queues) {
        for (unsigned i = 0; i < queues; ++i) {
            const std::string dir = queues == 1 ? frontend_ : fmt::format("{}/queue-{}", frontend_, i);
            BackendQueue queue;
            const std::array<GrantRef, 2> refs{static_cast<GrantRef>(number(dir + "/tx-ring-ref")),
                                               static_cast<GrantRef>(number(dir + "/rx-ring-ref"))};
            ASSERT_EQ(grants_->map(guest_, refs, xen::Access::read_write, queue.pages, queue.mapping), 0);
            for (const char* key : {"event-channel", "event-channel-tx", "event-channel-rx"}) {
                if (store_->read(dir + "/" + key)) {
                    auto port = events_->bind_interdomain(guest_, static_cast<xen::EventPort>(number(dir + "/" + key)));
                    ASSERT_TRUE(port);
                    queue.ports.push_back(*port);
                }
            }
            queue.tx = std::make_unique<ring::TxBackRing>(*ring::TxBackRing::attach(queue.pages[0]));
            queue.rx = std::make_unique<ring::RxBackRing>(*ring::RxBackRing::attach(queue.pages[1]));
            queues_.push_back(std::move(queue));
        }
    }
    void let_go() {
        for (BackendQueue& queue : queues_) {
            for (const xen::EventPort port : queue.ports) {
                events_->unbind(port);
            }
            EXPECT_EQ(grants_->unmap({&queue.mapping, 1}), 0);
        }
        queues_.clear();
    }
    std::uint32_t number(const std::string& path) { return xen::parse_decimal(get(path)).value_or(0xffffffff); }

    /// The ordinary way up.
    void connect(unsigned queues = 1, ring::Index first_index = 0) {
        announce();
        start(first_index);
        ASSERT_EQ(advance(), LinkState::connecting) << last_error_.message;
        ASSERT_EQ(frontend_state(), "4");
        attach(queues);
        backend_state(XenbusState::connected);
        ASSERT_EQ(advance(), LinkState::up);
    }
    bool readable(int fd) {
        pollfd news{fd, POLLIN, 0};
        return ::poll(&news, 1, 0) == 1;
    }
    std::size_t send_one(Queue& queue) {
        Packet packet;
        packet.fragment_count = static_cast<std::uint16_t>(queue.allocate({packet.fragments.data(), 1}));
        packet.fragments[0].length = 60;
        return queue.send({&packet, 1});
    }
    void answer_tx(BackendQueue& queue) {
        std::array<ring::TxSlot, 256> slots;
        const ring::Taken taken = queue.tx->take(slots);
        ASSERT_FALSE(taken.impossible);
        for (ring::Index i = 0; i < taken.count; ++i) {
            const std::array<ring::TxResponse, 1> answer{ring::TxResponse{slots[i].request().id, 0}};
            queue.tx->respond(answer);
        }
        if (queue.tx->push_and_check_notify()) {
            EXPECT_EQ(events_->notify(queue.ports.front()), 0);
        }
    }
    void deliver(BackendQueue& queue, std::int16_t status, std::uint16_t id_error = 0) {
        std::array<ring::RxRequest, 1> request;
        ASSERT_EQ(queue.rx->take(request).count, 1U);
        const auto id = static_cast<std::uint16_t>(request[0].id + id_error);
        const std::array<ring::RxSlot, 1> answer{ring::RxSlot::from(ring::RxResponse{id, 0, {}, status})};
        queue.rx->respond(answer);
        if (queue.rx->push_and_check_notify()) {
            EXPECT_EQ(events_->notify(queue.ports.back()), 0);
        }
    }

    Config config_;
    std::unique_ptr<xen::LocalHost> host_;
    DomainId guest_{};
    std::unique_ptr<xen::Hypervisor> front_, back_;
    std::unique_ptr<xen::Store> store_;
    std::unique_ptr<xen::GrantTable> grants_;
    std::unique_ptr<xen::EventChannels> events_;
    std::string frontend_, backend_;
    std::vector<std::pair<std::string, std::string>> offer_;
    std::vector<BackendQueue> queues_;
    std::unique_ptr<Device::Impl> device_;
    Error last_error_;
};

TEST_F(NetfrontDevice, publishes_flat_keys_for_one_queue) {
    connect();
    EXPECT_EQ(get(frontend_ + "/multi-queue-num-queues"), "1");
    for (const char* key : {"request-rx-copy", "feature-rx-notify", "feature-sg", "feature-gso-tcpv4",
                            "feature-gso-tcpv6", "feature-ipv6-csum-offload"}) {
        EXPECT_EQ(get(frontend_ + "/" + key), "1") << key;
    }
    EXPECT_EQ(get(frontend_ + "/feature-no-csum-offload"), "0");
    EXPECT_EQ(get(frontend_ + "/event-channel"), "(missing)");
    EXPECT_NE(get(frontend_ + "/event-channel-tx"), "(missing)");
    EXPECT_EQ(get(frontend_ + "/queue-0/tx-ring-ref"), "(missing)");
    EXPECT_EQ(device_->info().mac, (std::array<std::uint8_t, 6>{0, 0x16, 0x3e, 1, 2, 3}));
    EXPECT_EQ(device_->mtu(), 1500U);
    EXPECT_EQ(device_->queue_count(), 1U);
}

TEST_F(NetfrontDevice, publishes_a_folder_a_queue_and_never_more_than_offered) {
    config_.queues = 9;
    config_.tx_buffers = 64;
    config_.rx_buffers = 64;
    set(frontend_ + "/tx-ring-ref", "7");  // left by a former driver
    set(frontend_ + "/queue-7/tx-ring-ref", "7");
    connect(4);
    EXPECT_EQ(device_->queue_count(), 4U);
    EXPECT_EQ(get(frontend_ + "/multi-queue-num-queues"), "4");
    EXPECT_EQ(get(frontend_ + "/tx-ring-ref"), "(missing)");
    EXPECT_EQ(get(frontend_ + "/queue-7/tx-ring-ref"), "(missing)");
    for (unsigned i = 0; i < 4; ++i) {
        EXPECT_EQ(send_one(device_->queue(i)), 1U);
        EXPECT_EQ(queues_[i].tx->available(), 1U);
    }
}

TEST_F(NetfrontDevice, asks_for_filtered_multicast_at_connect_and_later_where_it_can) {
    const std::string key = frontend_ + "/request-multicast-control";
    set(key, "1");  // left by a former driver
    offer_.emplace_back("feature-multicast-control", "1");
    connect();
    EXPECT_EQ(get(key), "(missing)");
    EXPECT_TRUE(device_->offer().tx.groups);
    EXPECT_EQ(device_->filter_multicast(true).error().code, EOPNOTSUPP);
    EXPECT_EQ(device_->queue(0).join({1, 0, 0x5e, 0, 0, 1}), 0);
    let_go();
    device_.reset();
    config_.filter_multicast = true;
    connect();
    EXPECT_EQ(get(key), "1");
    let_go();
    device_.reset();
    offer_.emplace_back("feature-dynamic-multicast-control", "1");
    connect();
    ASSERT_TRUE(device_->filter_multicast(false));
    EXPECT_EQ(get(key), "0");
    ASSERT_TRUE(device_->filter_multicast(true));
    EXPECT_EQ(get(key), "1");
    backend_state(XenbusState::closed);
    advance();
    EXPECT_EQ(device_->filter_multicast(true).error().code, ENOTCONN);
}

TEST_F(NetfrontDevice, says_nothing_of_what_the_backend_did_not_offer) {
    offer_ = {{"feature-rx-copy", "1"}};
    config_.queues = 2;
    connect();
    EXPECT_EQ(get(frontend_ + "/multi-queue-num-queues"), "(missing)");
    EXPECT_NE(get(frontend_ + "/event-channel"), "(missing)");
    EXPECT_EQ(get(frontend_ + "/event-channel-tx"), "(missing)");
    EXPECT_FALSE(device_->offer().tx.scatter_gather);
    EXPECT_TRUE(device_->offer().tx.checksum_ipv4);
    EXPECT_FALSE(device_->offer().tx.checksum_ipv6);
}

TEST_F(NetfrontDevice, offers_what_the_configuration_says) {
    config_.scatter_gather = false;
    config_.checksum_offload = false;
    config_.split_event_channels = false;
    connect();
    EXPECT_EQ(get(frontend_ + "/feature-sg"), "0");
    EXPECT_EQ(get(frontend_ + "/feature-gso-tcpv4"), "0");
    EXPECT_EQ(get(frontend_ + "/feature-no-csum-offload"), "1");
    EXPECT_EQ(get(frontend_ + "/feature-ipv6-csum-offload"), "0");
    EXPECT_NE(get(frontend_ + "/event-channel"), "(missing)");
}

TEST_F(NetfrontDevice, refuses_settings_out_of_range) {
    for (auto change :
         {+[](Config& c) { c.queues = 0; }, +[](Config& c) { c.queues = 65; }, +[](Config& c) { c.tx_buffers = 17; },
          +[](Config& c) { c.tx_buffers = 257; }, +[](Config& c) { c.rx_buffers = 18; },
          +[](Config& c) { c.rx_buffers = 257; }, +[](Config& c) { c.tx_headers = 257; }}) {
        Config config;
        change(config);
        EXPECT_EQ(Device::Impl::start(*front_, 0, config).error().code, EINVAL);
    }
}

TEST_F(NetfrontDevice, moves_packets_and_wakes_by_events) {
    connect(1, 0xfffffff0);
    Queue& queue = device_->queue(0);
    EXPECT_TRUE(queue.arm(true)) << "binding raised an event, which arming takes";
    EXPECT_FALSE(readable(queue.fd()));
    std::array<Packet, 8> packets;
    for (int round = 0; round < 600; ++round) {
        ASSERT_EQ(send_one(queue), 1U);
        answer_tx(queues_[0]);
        deliver(queues_[0], 60);
        EXPECT_TRUE(readable(queue.fd())) << round;
        EXPECT_FALSE(queue.arm(true)) << "there is work";
        ASSERT_EQ(queue.receive(packets), 1U);
        queue.release(std::span(packets).first(1));
        while (!queue.arm(true)) {
            std::array<Fragment, 1> reaped;
            queue.free(std::span(reaped).first(queue.allocate(reaped)));
        }
        EXPECT_FALSE(readable(queue.fd())) << round;
    }
    EXPECT_EQ(queue.statistics().tx_packets, 600U);
    EXPECT_EQ(queue.statistics().rx_packets, 600U);
    EXPECT_EQ(queue.tx_in_flight(), 0U);
}

/// One event for all that send() puts on the ring, and the ring's answers are taken when their room is needed, or when
/// the application asks for buffers.
TEST_F(NetfrontDevice, sends_with_one_event_and_reaps_before_and_on_demand) {
    config_.tx_buffers = 256;
    connect();
    Queue& queue = device_->queue(0);
    std::array<Fragment, 256> buffers;
    ASSERT_EQ(queue.allocate(buffers), 256U);
    std::array<Packet, 256> packets;
    for (std::size_t i = 0; i < packets.size(); ++i) {
        packets[i].fragment_count = 1;
        packets[i].fragments[0] = buffers[i];
        packets[i].fragments[0].length = 60;
    }
    const std::uint64_t before = queue.statistics().notifications;
    EXPECT_EQ(queue.send(std::span(packets).first(240)), 240U);
    EXPECT_EQ(queue.statistics().notifications, before + 1);
    answer_tx(queues_[0]);
    EXPECT_EQ(queue.tx_in_flight(), 240U);
    EXPECT_EQ(queue.send(std::span(packets).last(16)), 16U);
    EXPECT_EQ(queue.tx_in_flight(), 16U) << "reaped before";
    answer_tx(queues_[0]);
    EXPECT_EQ(queue.allocate({}), 0U);
    EXPECT_EQ(queue.tx_in_flight(), 0U) << "and on demand";
    EXPECT_EQ(queue.allocate(buffers), 256U);
}

TEST_F(NetfrontDevice, two_queues_with_header_areas_fit_what_gntalloc_lends) {
    offer_.emplace_back("feature-ctrl-ring", "1");
    config_.static_grants = false;
    config_.queues = 2;
    config_.tx_headers = 256;
    connect(2);
    EXPECT_EQ(host_->machine().usage(guest_)->pages_shared, 2 * (2 + 224 + 16 + 256) + 2);
    for (unsigned i = 0; i < 2; ++i) {
        std::array<Fragment, 257> headers;
        EXPECT_EQ(device_->queue(i).allocate_headers(headers), 256U);
        for (const Fragment& slot : std::span(headers).first(256)) {
            std::memset(slot.data, 1, slot.length);
        }
    }
}

TEST_F(NetfrontDevice, backend_of_pages_to_flip_is_refused) {
    offer_ = {{"feature-rx-copy", "0"}};
    announce();
    start();
    EXPECT_EQ(advance(), LinkState::closed);
    EXPECT_EQ(last_error_.code, EPROTO);
    EXPECT_THAT(device_->failure(), AllOf(HasSubstr("feature-rx-copy"), HasSubstr(backend_)));
}

TEST_F(NetfrontDevice, a_device_that_is_missing_or_unfinished_is_named) {
    EXPECT_THAT(Device::Impl::start(*front_, 3, config_).error().message, HasSubstr("device/vif/3"));
    for (const char* key : {"backend", "backend-id", "mac"}) {
        const std::string old = get(frontend_ + "/" + key);
        for (const char* value : {"", "nonsense", "-1", "4294967296"}) {
            set(frontend_ + "/" + key, value);
            auto started = Device::Impl::start(*front_, 0, config_);
            ASSERT_FALSE(started) << key << ' ' << value;
            EXPECT_THAT(started.error().message, HasSubstr(key));
        }
        ASSERT_TRUE(store_->remove(frontend_ + "/" + key));
        EXPECT_THAT(Device::Impl::start(*front_, 0, config_).error().message, HasSubstr(key));
        set(frontend_ + "/" + key, old);
    }
}

TEST_F(NetfrontDevice, the_page_limit_comes_through_with_its_remedy) {
    config_.queues = 4;
    announce();
    start();
    EXPECT_EQ(advance(), LinkState::closed);
    EXPECT_EQ(last_error_.code, ENOSPC);
    EXPECT_THAT(last_error_.message, HasSubstr("1024"));
}

TEST_F(NetfrontDevice, garbage_in_any_key_of_the_backend_counts_as_absent) {
    const std::string huge(2000, 'x');
    for (const auto& [key, value] : std::vector(offer_)) {
        for (const std::string& garbage : {std::string(""), std::string("-1"), std::string(" 1"), std::string("yes"),
                                           std::string("4294967296"), std::string("\xff\x00\n", 3), huge}) {
            announce();
            set(backend_ + "/" + key, garbage);
            start();
            const LinkState state = advance();
            if (key == "feature-rx-copy") {
                EXPECT_EQ(state, LinkState::closed);
            } else {
                EXPECT_EQ(state, LinkState::connecting) << key;
                EXPECT_EQ(frontend_state(), "4");
            }
            EXPECT_THAT(device_->notes(), Contains(AllOf(HasSubstr(key), Not(HasSubstr("\n"))))) << garbage;
            for (const std::string& note : device_->notes()) {
                EXPECT_LT(note.size(), 300U);
            }
            device_.reset();
        }
    }
}

TEST_F(NetfrontDevice, garbage_in_state_online_and_carrier_is_survived) {
    connect();
    set(backend_ + "/carrier", "perhaps");
    EXPECT_EQ(advance(), LinkState::up);
    set(backend_ + "/carrier", "0");
    EXPECT_EQ(advance(), LinkState::down);
    set(backend_ + "/carrier", "1");
    EXPECT_EQ(advance(), LinkState::up);
    set(backend_ + "/online", "\xff");
    EXPECT_EQ(advance(), LinkState::up);
    set(backend_ + "/state", "four");
    EXPECT_EQ(advance(), LinkState::connecting);
    EXPECT_THAT(device_->notes(), Contains(HasSubstr("no state of xenbus")));
}

/// The backend goes away politely and comes back: new rings, and packets move again.
TEST_F(NetfrontDevice, reconnects_when_the_backend_comes_back) {
    connect();
    for (int round = 0; round < 5; ++round) {
        Queue& old = device_->queue(0);
        ASSERT_EQ(send_one(old), 1U);
        backend_state(XenbusState::closing);
        EXPECT_EQ(advance(), LinkState::connecting);
        EXPECT_EQ(send_one(old), 1U) << "the queues do not end before the next call";
        let_go();
        backend_state(XenbusState::closed);
        EXPECT_EQ(advance(), LinkState::connecting);
        EXPECT_EQ(frontend_state(), "1");
        announce();
        EXPECT_EQ(advance(), LinkState::connecting);
        EXPECT_EQ(frontend_state(), "4");
        attach(1);
        backend_state(XenbusState::connected);
        EXPECT_EQ(advance(), LinkState::up);
        EXPECT_EQ(send_one(device_->queue(0)), 1U);
        deliver(queues_[0], 60);
        std::array<Packet, 2> packets;
        EXPECT_EQ(device_->queue(0).receive(packets), 1U);
    }
    const auto usage = host_->machine().usage(guest_);
    EXPECT_EQ(usage->pages_shared, 2 + config_.tx_buffers + config_.rx_buffers);
}

TEST_F(NetfrontDevice, a_dead_backend_that_still_maps_old_pages_does_not_hinder_the_new_one) {
    connect();
    backend_state(XenbusState::closed);
    EXPECT_EQ(advance(), LinkState::connecting);
    EXPECT_EQ(send_one(device_->queue(0)), 1U) << "the queues do not end before the next call";
    EXPECT_TRUE(readable(device_->fd())) << "there is more to do";
    EXPECT_EQ(advance(), LinkState::connecting);
    EXPECT_EQ(frontend_state(), "1");
    announce();
    EXPECT_EQ(advance(), LinkState::connecting);
    EXPECT_EQ(frontend_state(), "4");
    EXPECT_GT(host_->machine().usage(guest_)->pages_deferred, 0U);
    let_go();
}

TEST_F(NetfrontDevice, features_are_read_anew_at_each_connection) {
    connect();
    EXPECT_TRUE(device_->offer().tx.tcpv4);
    backend_state(XenbusState::closed);
    advance();
    advance();
    let_go();
    for (auto& [key, value] : offer_) {
        value = key == "feature-rx-copy" ? "1" : "0";
    }
    offer_.emplace_back("feature-no-csum-offload", "1");
    announce();
    advance();
    EXPECT_EQ(frontend_state(), "4");
    EXPECT_EQ(device_->offer().tx, (TxFeatures{.checksum_ipv4 = false}));
    EXPECT_EQ(device_->queue_count(), 1U) << "no queues offered is no offer of several";
    EXPECT_EQ(get(frontend_ + "/multi-queue-num-queues"), "(missing)");
}

TEST_F(NetfrontDevice, writes_its_first_state_so_that_a_backend_hears_of_it) {
    set(frontend_ + "/state", "1");
    ASSERT_TRUE(store_->watch(frontend_ + "/state", "backend"));
    while (store_->next_event()) {
    }
    start();
    EXPECT_TRUE(store_->next_event());
}

TEST_F(NetfrontDevice, takes_up_a_device_that_a_dead_program_left_connected) {
    set(frontend_ + "/state", "4");
    announce();
    backend_state(XenbusState::connected);
    start();
    EXPECT_EQ(advance(), LinkState::connecting);
    EXPECT_EQ(frontend_state(), "1");
    backend_state(XenbusState::closing);
    advance();
    backend_state(XenbusState::closed);
    advance();
    EXPECT_EQ(frontend_state(), "1");
    backend_state(XenbusState::init_wait);
    EXPECT_EQ(advance(), LinkState::connecting);
    EXPECT_EQ(frontend_state(), "4");
}

TEST_F(NetfrontDevice, closes_when_the_toolstack_detaches_the_device) {
    connect();
    set(backend_ + "/online", "0");
    backend_state(XenbusState::closing);
    EXPECT_EQ(advance(), LinkState::connecting);
    EXPECT_EQ(frontend_state(), "6");
    let_go();
    backend_state(XenbusState::closed);
    EXPECT_EQ(advance(), LinkState::closed);
    EXPECT_THAT(device_->failure(), HasSubstr("toolstack"));
}

TEST_F(NetfrontDevice, closes_when_its_directories_vanish) {
    connect();
    let_go();
    ASSERT_TRUE(store_->remove(frontend_));
    ASSERT_TRUE(store_->remove(backend_));
    EXPECT_EQ(advance(), LinkState::connecting);
    EXPECT_TRUE(readable(device_->fd())) << "there is more to do";
    EXPECT_EQ(advance(), LinkState::closed);
    EXPECT_EQ(frontend_state(), "(missing)") << "nothing is made anew";
    EXPECT_EQ(device_->advance().value_or(LinkState::up), LinkState::closed);
}

TEST_F(NetfrontDevice, waits_when_only_the_backends_directory_vanishes) {
    connect();
    let_go();
    ASSERT_TRUE(store_->remove(backend_));
    EXPECT_EQ(advance(), LinkState::connecting);
    EXPECT_EQ(advance(), LinkState::connecting);
    EXPECT_EQ(frontend_state(), "1");
    EXPECT_EQ(host_->machine().usage(guest_)->pages_shared, 0U);
}

TEST_F(NetfrontDevice, a_breach_breaks_the_device_until_the_backend_begins_anew) {
    connect();
    Queue& queue = device_->queue(0);
    while (device_->advance() && readable(device_->fd())) {
    }
    deliver(queues_[0], 60, 1);
    std::array<Packet, 4> packets;
    EXPECT_EQ(queue.receive(packets), 0U);
    EXPECT_TRUE(readable(device_->fd())) << "whoever waits for the device hears of it";
    EXPECT_EQ(advance(), LinkState::broken);
    EXPECT_THAT(device_->failure(), AllOf(HasSubstr("queue 0"), HasSubstr("id"), HasSubstr(backend_)));
    int error = 0;
    Packet packet;
    packet.fragment_count = 1;
    EXPECT_EQ(queue.send({&packet, 1}, &error), 0U);
    EXPECT_EQ(error, ENOTCONN);
    std::array<Fragment, 1> buffers;
    EXPECT_EQ(queue.allocate(buffers), 0U);
    EXPECT_EQ(queue.receive(packets), 0U);
    EXPECT_TRUE(queue.arm(true)) << "nobody spins on a broken queue";
    EXPECT_EQ(advance(), LinkState::broken);

    backend_state(XenbusState::closed);
    advance();
    EXPECT_EQ(advance(), LinkState::connecting);
    let_go();
    announce();
    advance();
    attach(1);
    backend_state(XenbusState::connected);
    EXPECT_EQ(advance(), LinkState::up);
    EXPECT_EQ(device_->failure(), "");
}

TEST_F(NetfrontDevice, closing_goes_through_closing_and_closed) {
    connect();
    let_go();
    device_.reset();
    EXPECT_EQ(frontend_state(), "6");
}

/// States in any order, keys that vanish: never a crash, never a state of ours that says what is not so, and
/// in the end a decent backend gets its connection.
TEST_F(NetfrontDevice, survives_a_backend_whose_states_jump) {
    config_.tx_buffers = 18;
    config_.rx_buffers = 19;
    for (std::uint32_t seed = 0; seed < 40; ++seed) {
        std::mt19937 random(seed);
        announce();
        start();
        for (int step = 0; step < 40; ++step) {
            switch (random() % 6) {
                case 0: {
                    const auto& [key, value] = offer_[1 + random() % (offer_.size() - 1)];
                    static_cast<void>(store_->remove(backend_ + "/" + key));
                    break;
                }
                case 1:
                    set(backend_ + "/carrier", random() % 2 == 0 ? "0" : "x");
                    break;
                default:
                    set(backend_ + "/state", fmt::format("{}", random() % 11));
            }
            const LinkState state = advance();
            ASSERT_NE(state, LinkState::closed) << last_error_.message;
            if (state == LinkState::up || state == LinkState::down) {
                EXPECT_EQ(frontend_state(), "4");
                std::array<Packet, 4> packets;
                EXPECT_EQ(device_->queue(0).receive(packets), 0U);
                EXPECT_EQ(send_one(device_->queue(0)), 1U);
                ASSERT_EQ(device_->queue(0).tx_in_flight() != 0, true);
            }
        }
        set(backend_ + "/carrier", "1");
        for (const XenbusState state : {XenbusState::closing, XenbusState::closed, XenbusState::init_wait}) {
            if (state == XenbusState::init_wait) {
                announce();
            }
            backend_state(state);
            advance();
            advance();
        }
        EXPECT_EQ(frontend_state(), "4");
        attach(1);
        backend_state(XenbusState::connected);
        EXPECT_EQ(advance(), LinkState::up);
        let_go();
        device_.reset();
    }
}

/// The thread of a queue and the control thread at once: what may run together runs together.
TEST_F(NetfrontDevice, queues_may_work_while_the_device_is_looked_at) {
    connect();
    Queue& queue = device_->queue(0);
    std::atomic<bool> stop = false;
    std::thread worker([&] {
        std::array<Packet, 4> packets;
        while (!stop) {
            send_one(queue);
            queue.release(std::span(packets).first(queue.receive(packets)));
            queue.arm(false);
        }
    });
    std::array<ring::RxRequest, 1> request;
    for (int i = 0; i < 300; ++i) {
        answer_tx(queues_[0]);
        EXPECT_EQ(advance(), LinkState::up);
    }
    ASSERT_EQ(queues_[0].rx->take(request).count, 1U);
    const std::array<ring::RxSlot, 1> wrong{ring::RxSlot::from(ring::RxResponse{999, 0, {}, 60})};
    queues_[0].rx->respond(wrong);
    static_cast<void>(queues_[0].rx->push_and_check_notify());
    while (advance() != LinkState::broken) {
        pollfd news{device_->fd(), POLLIN, 0};
        ASSERT_EQ(::poll(&news, 1, 60000), 1);
    }
    stop = true;
    worker.join();
}

/// Nothing that fails below leaves anything behind.
TEST_F(NetfrontDevice, every_failing_call_on_the_way_up_is_reported_and_cleaned_up) {
    unsigned failed = 0;
    for (const char* operation : {"share", "bind", "open", "store.write", "store.read"}) {
        for (int nth = 1; nth < 30; ++nth) {
            auto faults = xen::FaultPlan::parse(fmt::format("{}@{}", operation, nth));
            ASSERT_TRUE(faults) << faults.error().message;
            auto faulty = host_->open(guest_, *faults);
            announce();
            auto device = Device::Impl::start(*faulty, 0, config_);
            if (!device || !(*device)->advance()) {
                ++failed;
            }
            if (device) {
                device->reset();
            }
            const auto usage = host_->machine().usage(guest_);
            ASSERT_EQ(usage->pages_shared, 0U);
            ASSERT_EQ(usage->ports_unbound, 0U);
        }
    }
    EXPECT_GT(failed, 20U);
}

}  // namespace
}  // namespace uvif::netfront
