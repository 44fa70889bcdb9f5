// SPDX-License-Identifier: MIT
//
// A hostile guest from bytes: each 16 octets are a command, which writes a slot of one of the rings, moves a
// producer, changes a grant entry, has the port give or take, or lets the backend take a turn. Whatever the guest
// does, the backend answers within the ring and keeps nothing mapped.
#include <cstdlib>
#include <cstring>

#include "netback/rx_queue.hpp"
#include "netback/tx_queue.hpp"
#include "support/fake_port.hpp"
#include "support/mock_guest.hpp"

namespace {

using namespace uvif;

void require(bool holds) {
    if (!holds) {
        std::abort();
    }
}

struct Command {
    std::uint8_t what;
    std::uint8_t where;
    std::uint16_t value;
    ring::TxSlot slot;
};
static_assert(sizeof(Command) == 16);

std::byte* map_ring(test::MockGuest& guest, xen::GrantTable& grants, xen::GrantRef ref, xen::MappingId& id) {
    std::array<std::byte*, 1> page{};
    require(grants.map(guest.id, std::array{ref}, xen::Access::read_write, page, id) == 0);
    return page[0];
}

void play(std::span<const std::uint8_t> input, netback::FetchStrategy strategy, bool granted, bool persistent) {
    static const auto host = std::move(*xen::LocalHost::create());
    static test::MockGuest guest(*host);
    static const auto backend = host->open(test::backend_domain);
    static const test::MockGuest::Page page = guest.page(xen::Access::read_write);
    guest.tx = ring::TxFrontRing(guest.memory.page(guest.tx_frame).data());
    guest.rx = ring::RxFrontRing(guest.memory.page(guest.rx_frame).data());
    guest.memory.write_entry(page.ref, {xen::grant_permit_access, 0, page.frame});

    const auto grants = std::move(*backend->open_grant_table());
    std::array<xen::MappingId, 2> rings;
    std::byte* const tx_page = map_ring(guest, *grants, guest.tx_ring_ref, rings[0]);
    std::byte* const rx_page = map_ring(guest, *grants, guest.rx_ring_ref, rings[1]);
    test::FakePort port;
    port.granted = granted;
    netback::TxCredit credit;
    netback::HeldSlots held;
    netback::MulticastGroups groups;
    CopyBatch copies;
    StaticTable table;
    PageBudget budget(limits::static_grants_per_vif);
    PersistentGrants learner(*grants, guest.id, table, budget);
    {
        auto tx = std::move(*netback::TxQueue::create(*ring::TxBackRing::attach(tx_page), guest.id, *grants, port,
                                                      {.strategy = strategy}, credit, held));
        auto rx =
            std::move(*netback::RxQueue::create(*ring::RxBackRing::attach(rx_page), guest.id, *grants, port,
                                                {.scatter_gather = true, .gso_v4 = true, .announces_buffers = true}));
        tx->tell(groups);
        rx->filter_by(groups);
        if (persistent) {
            tx->use(table, &learner);
            rx->use(table, &learner);
        }
        const ring::TxFrontRing::Shared tx_shared(tx_page);
        const ring::RxFrontRing::Shared rx_shared(rx_page);
        for (; input.size() >= sizeof(Command); input = input.subspan(sizeof(Command))) {
            Command command;
            std::memcpy(&command, input.data(), sizeof command);
            switch (command.what % 8) {
                case 0:
                case 1: {
                    // Most slots name a page that is there, or the fuzzer would mostly see failing grants.
                    if (command.what < 200) {
                        command.slot.words[0] = std::to_underlying(page.ref);
                    }
                    tx_shared.write(command.where, command.slot);
                    rx_shared.write(command.where, ring::RxSlot{{command.slot.words[1], command.slot.words[0]}});
                    break;
                }
                case 2:
                    tx_shared.req_prod().store(tx_shared.rsp_prod().load() + command.value % 300);
                    break;
                case 3:
                    rx_shared.req_prod().store(rx_shared.rsp_prod().load() + command.value % 300);
                    break;
                case 4:
                    guest.memory.write_entry(page.ref, {static_cast<std::uint16_t>(command.value & 7U), 0,
                                                        command.where < 250 ? page.frame : 0xffffffffU});
                    break;
                case 5:
                    port.defer = (command.value & 1U) != 0;
                    port.finish(command.where % 4);
                    groups.request((command.value & 2U) != 0);
                    break;
                case 6: {
                    test::Frame frame;
                    frame.data.resize(std::max<std::size_t>(command.value, 1));
                    frame.offload.gso_type = static_cast<GsoType>(command.where % 3);
                    port.to_receive.push_back(std::move(frame));
                    break;
                }
                default:
                    copies.clear();
                    (void)rx->gather(true, copies);
                    (void)tx->gather(copies);
                    copies.flush(*grants);
                    (void)rx->publish(copies);
                    (void)tx->publish(copies);
                    tx->send(copies);
                    learner.learn();
                    if (command.where < 64) {
                        learner.age();
                        (void)learner.give_back([&tx](const std::byte* octet) { return tx->uses(octet); });
                    }
                    (void)tx->arm();
                    (void)rx->arm();
                    require(groups.size() <= limits::multicast_groups);
                    break;
            }
        }
        (void)tx->abandon();
    }
    learner.forget_all();
    while (learner.give_back([](const std::byte*) { return false; })) {
    }
    require(learner.unmap_errors == 0 && budget.left() == limits::static_grants_per_vif);
    require(grants->unmap(rings) == 0);
    for (const xen::GrantRef ref : {page.ref, guest.tx_ring_ref, guest.rx_ring_ref}) {  // all that the guest has
        require(!guest.memory.use(ref).reading);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    play({data, size}, netback::FetchStrategy::copy, false, false);
    play({data, size}, netback::FetchStrategy::copy, true, false);
    play({data, size}, netback::FetchStrategy::map, false, false);
    play({data, size}, netback::FetchStrategy::copy, false, true);
    play({data, size}, netback::FetchStrategy::map, false, true);
    return 0;
}
