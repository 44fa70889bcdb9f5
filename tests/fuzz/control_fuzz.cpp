// SPDX-License-Identifier: MIT
//
// A guest's control ring from bytes: each 16 octets are a request, whose type and values are mostly near a boundary,
// and the list page is filled from what follows, anew at each look. Whatever the guest asks, tables and mappings agree,
// no budget is exceeded, and nothing stays mapped.
#include <cstdlib>
#include <cstring>

#include "grant/static_table.hpp"
#include "netback/gref_control.hpp"
#include "netback/hash_control.hpp"
#include "support/mock_guest.hpp"

namespace {

using namespace uvif;
using netback::StaticUsers;

void require(bool holds) {
    if (!holds) {
        std::abort();
    }
}

constexpr std::uint32_t queues = 2;

struct Queues final : StaticUsers {
    std::array<StaticTable, queues> tables;
    std::uint32_t busy = 0;

    void enter(std::size_t queue, std::span<const StaticGrants::Page> pages) override {
        for (const auto& page : pages) {
            tables[queue].enter(page.ref, page.address, page.writable);
        }
    }
    void forget(std::size_t queue, std::span<const std::uint32_t> refs, std::vector<bool>& forgotten) override {
        for (std::size_t i = 0; i < refs.size(); ++i) {
            forgotten[i] = refs[i] % 7 != busy;
            if (forgotten[i]) {
                tables[queue].remove(refs[i]);
            }
        }
    }
};

/// Values at which something changes, or whatever the fuzzer likes.
std::uint32_t value(std::uint32_t from) {
    constexpr std::array<std::uint32_t, 16> edges{0,   1,   2,   15,  16,  40,         41,     127,
                                                  128, 129, 511, 512, 513, 0xffffff80, 524288, 0xffffffff};
    return (from & 0x80000000U) != 0 ? from : edges[from % edges.size()];
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const auto host = std::move(*xen::LocalHost::create());
    static test::MockGuest guest(*host);
    static const auto hypervisor = host->open(test::backend_domain);
    static const auto grants = std::move(*hypervisor->open_grant_table());
    static const std::array pages{guest.page(xen::Access::read_only), guest.page(xen::Access::read_write),
                                  guest.page(xen::Access::read_write)};
    std::span<const std::uint8_t> input(data, size);
    PageBudget budget{3};
    {
        StaticGrants statics(*grants, guest.id, queues, budget);
        Queues users;
        netback::GrefControl grefs(statics, users);
        netback::HashControl hash(queues);
        const netback::ReadPage read = [&input](xen::GrantRef, std::span<std::byte> out) {
            require(out.size() <= xen::page_size);
            for (std::size_t i = 0; i < out.size(); ++i) {
                out[i] = static_cast<std::byte>(i < input.size() ? input[i] : 0);
            }
            // Most entries name pages that there are.
            for (std::size_t i = 0; i + sizeof(ring::GrefEntry) <= out.size(); i += sizeof(ring::GrefEntry)) {
                if ((std::to_integer<unsigned>(out[i + 3]) & 0x80U) == 0) {
                    const auto ref = std::to_underlying(pages[std::to_integer<unsigned>(out[i]) % pages.size()].ref);
                    std::memcpy(&out[i], &ref, sizeof ref);
                }
            }
            return input.empty() || input[0] != 0xff;
        };
        const netback::WritePage write = [&input](xen::GrantRef, std::span<const std::byte>) {
            return input.empty() || input[0] != 0xfe;
        };
        while (input.size() >= sizeof(ring::CtrlRequest)) {
            ring::CtrlRequest request;
            std::memcpy(&request, input.data(), sizeof request);
            input = input.subspan(sizeof request);
            request.type %= 13;
            for (std::uint32_t& word : request.data) {
                word = value(word);
            }
            users.busy = request.id % 8;
            const auto response = request.type >= 8 ? grefs.execute(request, read, write) : hash.execute(request, read);
            require(response.id == request.id && response.type == request.type && response.status <= 3);
            std::size_t entries = 0;
            for (const StaticTable& table : users.tables) {
                entries += table.size();
                for (const auto& page : pages) {
                    const auto ref = std::to_underlying(page.ref);
                    const bool read_only = &page == pages.data();
                    require(!read_only || table.find_writable(ref) == nullptr);
                    if (std::byte* const memory = table.find(ref)) {
                        require(memory[0] == guest.memory.page(page.frame)[0]);
                    }
                }
            }
            require(entries + budget.left() == 3);
            if (const auto steering = hash.steering()) {
                require(steering->queue_of({.value = request.data[0], .type = 1}) < queues);
                (void)steering->hash(std::as_bytes(input.first(std::min<std::size_t>(input.size(), 128))));
            }
        }
    }
    require(budget.left() == 3);
    for (const auto& page : pages) {
        require(!guest.memory.use(page.ref).reading);
    }
    return 0;
}
