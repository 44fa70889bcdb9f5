// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "unit/xen_emulated/host.hpp"
#include "xen/emulated/admin.hpp"
#include "xen/emulated/seqpacket.hpp"
#include "xen/emulated/server.hpp"
#include "xen/emulated/wire.hpp"
#include "xen/xenstore_client.hpp"

namespace uvif::xen {
namespace {

using testing::HasSubstr;

/// A process that runs `body`, then waits to be killed. `wait_ready` returns once it has called its argument.
class Process {
public:
    explicit Process(const std::function<void(const std::function<void()>&)>& body) {
        std::array<int, 2> pipe_ends{};
        EXPECT_EQ(::pipe(pipe_ends.data()), 0);
        pid_ = ::fork();
        if (pid_ == 0) {
            ::close(pipe_ends[0]);
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // a test that crashes leaves nobody behind
            body([&pipe_ends] {
                const char ready = 'r';
                if (::write(pipe_ends[1], &ready, 1) != 1) {
                    ::_exit(2);
                }
            });
            ::_exit(0);
        }
        ::close(pipe_ends[1]);
        char ready = 0;
        EXPECT_EQ(::read(pipe_ends[0], &ready, 1), 1) << "the process failed before it was ready";
        ::close(pipe_ends[0]);
    }
    void kill() {
        if (pid_ > 0) {
            ::kill(pid_, SIGKILL);
            ::waitpid(std::exchange(pid_, 0), nullptr, 0);
        }
    }
    ~Process() { kill(); }
    Process(const Process&) = delete;
    Process& operator=(const Process&) = delete;

private:
    pid_t pid_ = 0;
};

std::string make_directory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "uvif-XXXXXX").string();
    EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
    return pattern;
}

void serve(const std::string& directory, const MachineConfig& config, const std::function<void()>& ready) {
    auto machine = must(Machine::create(config));
    StoreCore core;
    auto store = must(StoreServer::create(core));
    auto server = must(Server::create(*machine, core, *store, directory));
    std::array<int, 2> never{};
    ASSERT_EQ(::pipe(never.data()), 0);
    ready();
    ASSERT_TRUE(server->run(never[0]));
}

class RemoteTest : public testing::TestWithParam<bool> {
protected:
    RemoteTest() { guest = must(admin.create_domain()); }
    ~RemoteTest() override {
        machine.kill();
        std::filesystem::remove_all(directory);
    }

    std::unique_ptr<Hypervisor> hypervisor(DomainId domain) {
        return must(open_hypervisor("emulated:" + hypervisor_socket(directory, domain)));
    }
    DomainUsage usage(DomainId domain) {
        for (const DomainStatus& status : must(admin.list())) {
            if (status.domain == domain) {
                return status.usage;
            }
        }
        return {};
    }
    /// The machine learns of a death through a socket: soon, but not at once.
    bool eventually(const std::function<bool()>& condition) {
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
        while (!condition()) {
            if (std::chrono::steady_clock::now() > deadline) {
                return false;
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(5));
        }
        return true;
    }

    std::string directory = make_directory();
    Process machine{
        [this](const auto& ready) { serve(directory, {.charged = GetParam(), .gntalloc_limit = 16}, ready); }};
    Admin admin = must(Admin::connect(directory));
    DomainId guest{};
};

INSTANTIATE_TEST_SUITE_P(Costs, RemoteTest, testing::Bool(),
                         [](const auto& mode) { return mode.param ? "charged" : "uncharged"; });

TEST_P(RemoteTest, GrantsAndEventsWorkAcrossProcesses) {
    // The guest is another process; it answers each event by adding 1 to the page and notifying back.
    std::array<int, 2> channel{};
    ASSERT_EQ(::pipe(channel.data()), 0);
    Process frontend([&](const auto& ready) {
        auto xen = hypervisor(guest);
        auto pages = must(must(xen->open_grant_allocator())->share(dom0, 1, Access::read_write));
        auto events = must(xen->open_event_channels());
        const EventPort port = must(events->alloc_unbound(dom0));
        const std::array<std::uint32_t, 2> names{std::to_underlying(pages->refs()[0]), std::to_underlying(port)};
        if (::write(channel[1], names.data(), sizeof names) != sizeof names) {
            ::_exit(1);
        }
        ready();
        for (;;) {
            pollfd wait{events->fd(), POLLIN, 0};
            ::poll(&wait, 1, -1);
            EventPort ports[1];
            const std::size_t count = events->pending(ports);
            events->unmask(std::span(ports).first(count));
            pages->memory()[0] = static_cast<std::byte>(std::to_integer<int>(pages->memory()[0]) + 1);
            events->notify(port);
        }
    });
    std::array<std::uint32_t, 2> names{};
    ASSERT_EQ(::read(channel[0], names.data(), sizeof names), static_cast<ssize_t>(sizeof names));
    const GrantRef ref{names[0]};

    auto xen = hypervisor(dom0);
    auto table = must(xen->open_grant_table());
    auto events = must(xen->open_event_channels());
    std::byte* page = nullptr;
    MappingId id;
    ASSERT_EQ(table->map(guest, std::span(&ref, 1), Access::read_only, std::span(&page, 1), id), 0);
    const EventPort port = must(events->bind_interdomain(guest, EventPort{names[1]}));
    for (int rounds = 0; rounds < 100; ++rounds) {
        pollfd wait{events->fd(), POLLIN, 0};
        ASSERT_EQ(::poll(&wait, 1, 60'000), 1);
        EventPort ports[4];
        const std::size_t count = events->pending(ports);
        events->unmask(std::span(ports).first(count));
        ASSERT_EQ(events->notify(port), 0);
    }
    std::byte copied{};
    CopySegment segment = CopySegment::from_guest(guest, ref, 0, &copied, 1);
    ASSERT_EQ(table->copy(std::span(&segment, 1)), 0);
    EXPECT_EQ(segment.status, 0);
    EXPECT_GT(std::to_integer<int>(copied), 10);
    EXPECT_EQ(usage(guest).grants_in_use, 1U);

    frontend.kill();
    EXPECT_TRUE(eventually([&] { return usage(guest).pages_deferred == 1 && usage(guest).handles == 0; }));
    EXPECT_EQ(usage(dom0).ports_unbound, 1U);
    EXPECT_EQ(table->unmap(std::span(&id, 1)), 0);
    EXPECT_EQ(usage(guest), DomainUsage{});
    ::close(channel[0]);
    ::close(channel[1]);
}

TEST_P(RemoteTest, AKilledBackendLeavesNothingBehind) {
    auto xen = hypervisor(guest);
    auto allocator = must(xen->open_grant_allocator());
    auto pages = must(allocator->share(dom0, 4, Access::read_write));
    auto events = must(xen->open_event_channels());
    const EventPort port = must(events->alloc_unbound(dom0));
    const std::vector<GrantRef> refs(pages->refs().begin(), pages->refs().end());
    {
        Process backend([&](const auto& ready) {
            auto far = hypervisor(dom0);
            auto table = must(far->open_grant_table());
            std::array<std::byte*, 4> addresses{};
            MappingId id;
            auto channels = must(far->open_event_channels());
            const bool bound = channels->bind_interdomain(guest, port).has_value();
            if (table->map(guest, refs, Access::read_write, addresses, id) != 0 || !bound) {
                ::_exit(1);
            }
            ready();
            ::pause();
        });
        EXPECT_EQ(usage(guest).grants_in_use, 4U);
        EXPECT_EQ(usage(guest).ports_interdomain, 1U);
        backend.kill();
    }
    EXPECT_TRUE(eventually([&] { return usage(dom0) == DomainUsage{}; }));
    EXPECT_EQ(usage(guest).grants_in_use, 0U);
    EXPECT_EQ(usage(guest).ports_unbound, 1U);

    // Its successor uses the same pages, inherits no pins, and binds the same port.
    auto far = hypervisor(dom0);
    auto table = must(far->open_grant_table());
    std::byte octet{};
    CopySegment segment = CopySegment::from_guest(guest, refs[0], 0, &octet, 1);
    ASSERT_EQ(table->copy(std::span(&segment, 1)), 0);
    EXPECT_EQ(segment.status, 0);
    EXPECT_EQ(usage(guest).grants_in_use, 0U);
    auto channels = must(far->open_event_channels());
    EXPECT_TRUE(channels->bind_interdomain(guest, port));
}

TEST_P(RemoteTest, ErrorsComeWithTheMachinesWords) {
    auto allocator = must(hypervisor(guest)->open_grant_allocator());
    const auto refused = allocator->share(dom0, 17, Access::read_write);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ENOSPC);
    EXPECT_THAT(refused.error().message, HasSubstr("--gntalloc-limit"));
    EXPECT_EQ(allocator->share(dom0, wire::max_share_pages + 1, Access::read_write).error().code, ENOSPC);
    auto events = must(hypervisor(guest)->open_event_channels());
    EXPECT_EQ(events->bind_interdomain(dom0, EventPort{5}).error().code, EINVAL);
}

TEST_P(RemoteTest, FaultsComeFromTheEnvironment) {
    ASSERT_EQ(::setenv("UVIF_FAULTS", "open@2=EMFILE,store.write@1=ENOSPC", 1), 0);
    auto xen = hypervisor(dom0);
    ASSERT_EQ(::setenv("UVIF_FAULTS", "nonsense", 1), 0);
    EXPECT_FALSE(open_hypervisor("emulated:" + hypervisor_socket(directory, dom0)));
    ASSERT_EQ(::unsetenv("UVIF_FAULTS"), 0);
    auto store = must(xen->open_store());
    EXPECT_EQ(store->write("/x", "1", Transaction::none).error().code, ENOSPC);
    EXPECT_TRUE(store->write("/x", "1", Transaction::none));
    EXPECT_EQ(xen->open_grant_table().error().code, EMFILE);
    EXPECT_TRUE(xen->open_grant_table());
}

TEST_P(RemoteTest, ADestroyedDomainsProcessesAreCutOff) {
    auto xen = hypervisor(guest);
    auto events = must(xen->open_event_channels());
    ASSERT_TRUE(admin.destroy_domain(guest));
    const auto port = events->alloc_unbound(dom0);
    ASSERT_FALSE(port);
    EXPECT_THAT(port.error().message, HasSubstr("destroyed"));
    EXPECT_FALSE(xen->open_grant_table());
    EXPECT_FALSE(admin.destroy_domain(guest));
    EXPECT_FALSE(admin.destroy_domain(dom0));
}

TEST_P(RemoteTest, ClientsSurviveTheMachinesDeath) {
    auto front = hypervisor(guest);
    auto back = hypervisor(dom0);
    auto allocator = must(front->open_grant_allocator());
    auto pages = must(allocator->share(dom0, 1, Access::read_write));
    auto table = must(back->open_grant_table());
    auto front_events = must(front->open_event_channels());
    auto back_events = must(back->open_event_channels());
    const GrantRef ref = pages->refs()[0];
    std::byte* page = nullptr;
    MappingId id;
    ASSERT_EQ(table->map(guest, std::span(&ref, 1), Access::read_only, std::span(&page, 1), id), 0);
    const EventPort port = must(front_events->alloc_unbound(dom0));
    const EventPort bound = must(back_events->bind_interdomain(guest, port));

    machine.kill();
    pages->memory()[0] = std::byte{'x'};
    EXPECT_EQ(*page, std::byte{'x'});
    EXPECT_EQ(back_events->notify(bound), 0);
    EXPECT_FALSE(allocator->share(dom0, 1, Access::read_write));
    EXPECT_FALSE(front_events->alloc_unbound(dom0));
    EXPECT_FALSE(front->open_grant_table());
    EXPECT_FALSE(admin.list());
    front_events->unbind(port);
    pages.reset();
    EXPECT_EQ(table->unmap(std::span(&id, 1)), 0);
}

TEST_P(RemoteTest, NonsenseCostsOnlyTheClientThatSendsIt) {
    const auto raw = must(connect_to(hypervisor_socket(directory, guest)));
    std::array<std::byte, 64> buffer{};
    const auto ask = [&](const wire::Request& request) {
        EXPECT_TRUE(send_message(raw.get(), std::as_bytes(std::span(&request, 1))));
        auto received = must(receive_message(raw.get(), std::span(buffer)));
        wire::Reply reply;
        std::memcpy(&reply, buffer.data(), std::min(received.length, sizeof reply));
        return reply.error;
    };
    std::vector<std::byte> wide(wire::max_reply);
    const auto roomy = [&](const wire::Request& request) {
        EXPECT_TRUE(send_message(raw.get(), std::as_bytes(std::span(&request, 1))));
        must(receive_message(raw.get(), wide));
        wire::Reply reply;
        std::memcpy(&reply, wide.data(), sizeof reply);
        return reply.error;
    };
    EXPECT_EQ(roomy({static_cast<wire::Call>(99), 0, 0, 0}), ENOSYS);
    EXPECT_EQ(roomy({wire::Call::hello, 77, 0, 0}), EPROTO);
    EXPECT_EQ(roomy({wire::Call::attach, ~0U, 0, 0}), ESRCH);
    EXPECT_EQ(roomy({wire::Call::attach, 65536, 0, 0}), ESRCH);
    EXPECT_EQ(roomy({wire::Call::memory, 4711, 0, 0}), ESRCH);
    EXPECT_EQ(roomy({wire::Call::event_target, ~0U, 0, 0}), ENOTCONN);
    EXPECT_EQ(roomy({wire::Call::bind_interdomain, 0, ~0U, 0}), EINVAL);
    EXPECT_EQ(roomy({wire::Call::share, 0, ~0U, 0}), ENOSPC);
    EXPECT_EQ(roomy({wire::Call::share, ~0U, 1, 0}), EINVAL);
    EXPECT_EQ(ask({wire::Call::unbind, ~0U, 0, 0}), 0);
    EXPECT_EQ(ask({wire::Call::unshare, ~0U, 0, 0}), 0);
    ASSERT_TRUE(send_message(raw.get(), std::span(wide).first(5)));
    ASSERT_TRUE(receive_message(raw.get(), wide));

    const auto admin_raw = must(connect_to(admin_socket(directory)));
    for (const std::string text :
         {"{", "[]", "7", R"({"request":7})", R"({"request":"destroy"})", R"({"request":"destroy","domain":-1})",
          R"({"request":"destroy","domain":1e99})", R"({"request":"destroy","domain":"1"})",
          R"({"request":"destroy","domain":70000})"}) {
        ASSERT_TRUE(send_message(admin_raw.get(), std::as_bytes(std::span(text))));
        auto answer = must(receive_message(admin_raw.get(), wide));
        EXPECT_THAT(std::string(reinterpret_cast<const char*>(wide.data()), answer.length), HasSubstr("error")) << text;
    }
    // A message too long costs the connection, and nothing else.
    const std::vector<std::byte> flood(64 * 1024);
    ASSERT_TRUE(send_message(raw.get(), flood));
    const auto hung_up = receive_message(raw.get(), wide);
    EXPECT_TRUE(!hung_up || hung_up->length == 0);
    EXPECT_EQ(usage(guest).handles, 0U);
}

TEST_P(RemoteTest, AMachineOutOfDescriptorsRefusesAndGoesOn) {
    const std::string limited_directory = make_directory();
    Process limited([&](const auto& ready) {
        const rlimit few{40, 40};
        ::setrlimit(RLIMIT_NOFILE, &few);
        serve(limited_directory, {.charged = GetParam(), .gntalloc_limit = 16}, ready);
    });
    {
        std::vector<UniqueFd> clients;
        for (int i = 0; i < 60; ++i) {
            clients.push_back(must(connect_to(hypervisor_socket(limited_directory, dom0))));
        }
        // The last one was refused: its connection ends without an answer.
        std::array<std::byte, 16> buffer{};
        const auto refused = receive_message(clients.back().get(), buffer);
        EXPECT_TRUE(!refused || refused->length == 0);
        // The store refuses too: a client that nobody accepts would wait for its answer for ever.
        const auto store = open_libxenstore(store_socket(limited_directory, dom0));
        EXPECT_FALSE(store && (*store)->read("domid", Transaction::none));
    }
    EXPECT_TRUE(eventually([&] {
        auto again = Admin::connect(limited_directory);
        return again && again->list();
    }));
    limited.kill();
    std::filesystem::remove_all(limited_directory);
}

TEST_P(RemoteTest, AClientThatReadsNothingIsDroppedNotWaitedFor) {
    const auto raw = must(connect_to(hypervisor_socket(directory, guest)));
    const wire::Request request{wire::Call::hello, wire::version, 0, 0};
    bool dropped = false;
    for (int i = 0; i < 100'000 && !dropped; ++i) {
        dropped = !send_message(raw.get(), std::as_bytes(std::span(&request, 1))).has_value();
    }
    EXPECT_TRUE(dropped);
    EXPECT_TRUE(admin.list());
}

TEST(SeqpacketTest, KeepsNoDescriptorThatWasNotAskedFor) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()), 0);
    const UniqueFd here(ends[0]);
    const UniqueFd there(ends[1]);
    ASSERT_EQ(::pipe2(ends.data(), O_NONBLOCK | O_CLOEXEC), 0);
    const UniqueFd reader(ends[0]);
    UniqueFd writer(ends[1]);
    char octet = 'x';
    // Two fit what one needs; of more the kernel itself keeps the rest.
    for (const std::size_t count : {1U, 2U, 3U}) {
        const std::array<int, 3> sent{writer.get(), writer.get(), writer.get()};
        iovec piece{&octet, 1};
        alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof sent)> control{};
        msghdr header{};
        header.msg_iov = &piece;
        header.msg_iovlen = 1;
        header.msg_control = control.data();
        header.msg_controllen = CMSG_SPACE(count * sizeof(int));
        cmsghdr* rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(count * sizeof(int));
        std::memcpy(CMSG_DATA(rights), sent.data(), count * sizeof(int));
        ASSERT_EQ(::sendmsg(here.get(), &header, 0), 1);
        std::array<std::byte, 16> buffer;
        const auto received = receive_message(there.get(), buffer);
        EXPECT_EQ(received.has_value() && bool(received->fd), count < 3) << count;
    }
    writer.reset();
    EXPECT_EQ(::read(reader.get(), &octet, 1), 0) << "somebody still holds the other end";
}

}  // namespace
}  // namespace uvif::xen
