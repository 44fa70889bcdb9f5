// SPDX-License-Identifier: MIT
//
// A guest, and backends that are killed and followed by others: each in a process of its own, on the guest's shared
// memory and with its journal in a file. One can be traced instruction by instruction: after each one that changed what
// outlives the process, a successor takes over from just that, and what comes of it is judged by what the guest sees.
// Then everything is put back as it was, and the traced one goes on by another instruction.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include <csignal>
#include <cstring>
#include <deque>
#include <map>
#include <set>

#include "netback/queue_pair.hpp"
#include "support/mock_guest.hpp"
#include "support/process.hpp"

namespace uvif::test {

inline constexpr std::uint32_t frame_max = 1500;

inline std::vector<std::byte> make_frame(std::uint32_t number, std::uint32_t length) {
    std::vector<std::byte> data(length);
    for (std::uint32_t i = 0; i < length; ++i) {
        data[i] = static_cast<std::byte>(number * 37 + i * 11);
    }
    std::memcpy(data.data(), &number, sizeof number);
    return data;
}

inline std::uint32_t number_of(std::span<const std::byte> frame) {
    std::uint32_t number = 0;
    std::memcpy(&number, frame.data(), sizeof number);
    return number;
}

inline bool may_trace() {
    const pid_t child = ::fork();
    if (child == 0) {
        ::_exit(::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0 ? 0 : 1);
    }
    int status = -1;
    return ::waitpid(child, &status, 0) == child && status == 0;
}

/// Memory that a child process shares with us.
template <class T>
class Shared {
public:
    Shared() : at_(::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) {}
    Shared(const Shared&) = delete;
    Shared& operator=(const Shared&) = delete;
    ~Shared() { ::munmap(at_, sizeof(T)); }
    T* operator->() const { return static_cast<T*>(at_); }
    T& operator*() const { return *static_cast<T*>(at_); }

private:
    void* at_;
};

/// What a port has sent.
struct Log {
    struct Entry {
        std::uint32_t length;
        std::array<std::byte, frame_max> data;
    };
    std::atomic<std::uint32_t> count;
    std::array<Entry, 4096> entries;
    [[nodiscard]] std::span<const std::byte> frame(std::uint32_t i) const {
        return std::span(entries[i].data).first(entries[i].length);
    }
};

class LoggingPort final : public Port {
public:
    explicit LoggingPort(Log& log) : log_(log) {}
    bool defer = false;    ///< keep packets until finish()
    bool granted = false;  ///< prefers_granted(), though it passes nothing on
    std::deque<std::vector<std::byte>> to_receive;
    std::vector<Packet*> kept;

    [[nodiscard]] bool writable() const noexcept override { return true; }
    [[nodiscard]] bool prefers_granted() const noexcept override { return granted; }
    void submit(std::span<Packet* const> packets) noexcept override {
        for (Packet* packet : packets) {
            Log::Entry& entry = log_.entries[log_.count];
            entry.length = 0;
            for (const Fragment& piece : packet->pieces()) {
                std::memcpy(entry.data.data() + entry.length, piece.data, piece.length);
                entry.length += piece.length;
            }
            log_.count.store(log_.count + 1, std::memory_order_release);
            kept.push_back(packet);
        }
        while (!defer && !kept.empty()) {
            finish(0);
        }
    }
    void finish(std::size_t which) noexcept {
        if (which < kept.size()) {
            Packet* const packet = kept[which];
            kept.erase(kept.begin() + static_cast<std::ptrdiff_t>(which));
            complete(packet);
        }
    }
    void flush(bool /*abandon*/) noexcept override {
        while (!kept.empty()) {
            finish(0);
        }
    }
    std::size_t receive(std::span<Packet*> packets) noexcept override {
        std::size_t n = 0;
        for (; n < packets.size() && !to_receive.empty(); ++n) {
            const auto& data = to_receive.front();
            std::memcpy(packets[n]->fragments[0].data, data.data(), data.size());
            packets[n]->length = packets[n]->fragments[0].length = static_cast<std::uint32_t>(data.size());
            packets[n]->offload = {};
            if (data.size() > 1000) {
                packets[n]->offload = {
                    .checksum_blank = true, .data_validated = true, .gso_type = GsoType::tcpv4, .gso_size = 100};
            }
            to_receive.pop_front();
        }
        return n;
    }
    [[nodiscard]] int fd() const noexcept override { return -1; }
    [[nodiscard]] const PortCounters& counters() const noexcept override { return counters_; }

private:
    Log& log_;
    PortCounters counters_;
};

struct Way {
    netback::FetchStrategy strategy = netback::FetchStrategy::copy;
    bool granted = false;  ///< only headers are copied before the port decides
};

/// A whole backend, wherever it runs.
class Backend {
public:
    Backend(xen::LocalHost& host, netback::QueueConfig config, Way way, Log& log)
        : hypervisor(host.open(backend_domain)),
          worker(*Worker::create(*hypervisor, {.loop = LoopKind::epoll, .spin_ns = 0})) {
        config.fetch.strategy = way.strategy;
        config.credit = &credit;
        config.held = &held;
        auto owned = std::make_unique<LoggingPort>(log);
        owned->granted = way.granted;
        port = owned.get();
        auto connected = netback::QueuePair::connect(
            *worker, config,
            [&](Loop& /*loop*/, Waker& /*waker*/) -> Result<std::unique_ptr<Port>> { return std::move(owned); },
            [](netback::Rogue) { FAIL() << "an honest guest"; });
        if (connected) {
            queue = std::move(*connected);
        } else {
            failure = connected.error().message;
        }
    }
    ~Backend() { queue.reset(); }
    Backend(const Backend&) = delete;
    Backend& operator=(const Backend&) = delete;

    netback::TxCredit credit;
    netback::HeldSlots held;
    std::unique_ptr<xen::Hypervisor> hypervisor;
    std::unique_ptr<Worker> worker;
    LoggingPort* port = nullptr;
    std::unique_ptr<netback::QueuePair> queue;
    std::string failure;
};

/// A packet that the guest has sent.
struct Sent {
    std::uint32_t number;
    std::uint32_t length;
    std::vector<std::uint16_t> ids;
    std::uint32_t nulls = 0;
    bool good = true;
};

/// The guest, with all it knows. Copied to look what would come of something.
struct Guest {
    ring::TxFrontRing tx;
    ring::RxFrontRing rx;
    std::map<std::uint32_t, Sent> in_flight;  ///< by number
    std::vector<std::uint16_t> free_pages;    ///< of TX; their indices
    std::uint32_t nulls = 0;                  ///< owed
    std::uint32_t next_number = 1;
    std::uint32_t last_received = 0;
    std::vector<std::uint32_t> done;  ///< answered: numbers of good ones
};

class Stage {
public:
    static constexpr std::size_t tx_pages = 60;
    /// Divides 2^32, so that past the wrap, too, no slot has the page of another that is in flight.
    static constexpr std::size_t rx_pages = 32;

    Stage(Way how, ring::Index start)
        : way(how),
          host(*xen::LocalHost::create()),
          mock(*host, start),
          guest{mock.tx, mock.rx, {}, {}, 0, 1, 0, {}},
          folder(*netback::JournalFolder::open(directory.path() + "/journals")),
          journal_file(directory.path() + "/journals/vif1.0-0") {
        // What an answer names when it is taken for a request: ids of TX, and 1, which is the type of a GSO extra.
        canary = *mock.memory.allocate_frame();
        std::ranges::fill(mock.memory.page(canary), std::byte{0xcc});
        const xen::GrantEntry canary_entry{xen::grant_permit_access, std::to_underlying(backend_domain), canary};
        mock.memory.write_entry(xen::GrantRef{1}, canary_entry);
        for (std::uint16_t i = 0; i < tx_pages; ++i) {
            pages.push_back(mock.page());
            ids.push_back(*mock.memory.grant(canary, backend_domain, xen::Access::read_write));
            guest.free_pages.push_back(i);
        }
        for (std::size_t i = 0; i < rx_pages; ++i) {
            rx_buffers.push_back(mock.page(xen::Access::read_write));
        }
        *offered = 1;
        post_rx();
    }
    Stage(const Stage&) = delete;
    Stage& operator=(const Stage&) = delete;
    ~Stage() { kill(); }

    // The guest

    void post_rx() {
        while (guest.rx.in_flight() < rx_pages) {
            const ring::Index at = guest.rx.produced();
            guest.rx.put({static_cast<std::uint16_t>(at), 0, std::to_underlying(rx_buffers[at % rx_pages].ref)});
        }
        (void)guest.rx.push_and_check_notify();
    }

    /// One packet of a shape; not, when there is no room.
    void send(std::uint8_t shape) {
        static const std::vector<std::vector<std::uint16_t>> shapes{{60}, {700},      {300, 900}, {200, 300, 200},
                                                                    {10}, {500, 400}, {128},      {129}};
        shape = static_cast<std::uint8_t>(shape % shapes.size());
        const auto& sizes = shapes[shape];
        const std::uint32_t extras = shape == 3 ? 1 : shape == 6 ? 2 : 0;
        if (guest.free_pages.size() < sizes.size() || guest.tx.room() < sizes.size() + extras) {
            return;
        }
        Sent sent{guest.next_number++, 0, {}, extras, shape != 4 && shape != 5};
        for (const std::uint16_t size : sizes) {
            sent.length += size;
        }
        const auto data = make_frame(sent.number, sent.length);
        std::size_t at = 0;
        for (std::size_t n = 0; n < sizes.size(); ++n) {
            const std::uint16_t page = guest.free_pages.back();
            guest.free_pages.pop_back();
            std::memcpy(mock.memory.page(pages[page].frame).data(), data.data() + at, sizes[n]);
            at += sizes[n];
            ring::TxRequest request;
            request.gref = shape == 5 && n == 1 ? 0xffff : std::to_underlying(pages[page].ref);
            request.id = static_cast<std::uint16_t>(std::to_underlying(ids[page]));
            request.size = static_cast<std::uint16_t>(n == 0 ? sent.length : sizes[n]);
            request.flags.bits |= n + 1 < sizes.size() ? ring::TxFlags::more_data : std::uint16_t{0};
            request.flags.bits |= n == 0 && extras != 0 ? ring::TxFlags::extra_info : std::uint16_t{0};
            sent.ids.push_back(request.id);
            guest.tx.put(ring::TxSlot::from(request));
            for (std::uint32_t e = 0; n == 0 && e < extras; ++e) {
                auto extra = ring::ExtraInfo::gso(GsoType::tcpv4, 100);
                extra.flags = e + 1 < extras ? ring::ExtraInfo::more : std::uint8_t{0};
                guest.tx.put(ring::TxSlot::from(extra));
            }
        }
        guest.nulls += extras;
        guest.in_flight.emplace(sent.number, std::move(sent));
        (void)guest.tx.push_and_check_notify();
    }

    /// Takes what was answered and what has come. False: something is wrong, and `complaint` says what.
    bool collect(Guest& who) {
        for (std::array<ring::TxResponse, 1> answer; who.tx.take(answer).count != 0;) {
            if (!take_answer(who, answer[0])) {
                return false;
            }
        }
        std::vector<std::byte> frame;
        bool more = false;
        bool extra = false;
        ring::RxFrontRing looked = who.rx;
        for (std::array<ring::RxSlot, 1> answer; looked.take(answer).count != 0;) {
            const ring::Index at = looked.consumed() - 1;
            if (std::exchange(extra, false)) {
                continue;
            }
            const ring::RxResponse response = answer[0].response();
            if (response.id != static_cast<std::uint16_t>(at) || response.status < 0) {
                return complain("an RX slot with the answer of another, or with an error");
            }
            const auto page = mock.memory.page(rx_buffers[at % rx_pages].frame);
            const auto piece = page.subspan(response.offset, static_cast<std::size_t>(response.status));
            frame.insert(frame.end(), piece.begin(), piece.end());
            extra = response.flags.has(ring::RxFlags::extra_info);
            more = response.flags.has(ring::RxFlags::more_data);
            if (!more) {
                const std::uint32_t number = number_of(frame);
                if (frame != make_frame(number, static_cast<std::uint32_t>(frame.size()))) {
                    return complain("a packet with other octets than those sent to the guest");
                }
                if (number <= who.last_received) {
                    return complain("a packet that comes twice, or late");
                }
                who.last_received = number;
                frame.clear();
            }
        }
        who.rx = looked;
        return frame.empty() || complain("a packet that does not end");
    }

    bool complain(std::string what) {
        complaint = std::move(what);
        return false;
    }

    bool take_answer(Guest& who, const ring::TxResponse& answer) {
        if (answer.status == static_cast<std::int16_t>(ring::TxStatus::null)) {
            return who.nulls-- != 0 || complain("more null answers than extras");
        }
        for (auto& [number, sent] : who.in_flight) {
            if (const auto at = std::ranges::find(sent.ids, answer.id); at != sent.ids.end()) {
                if (sent.good && answer.status != 0) {
                    return complain("an error for a good slot");
                }
                sent.ids.erase(at);
                who.free_pages.push_back(
                    static_cast<std::uint16_t>(std::ranges::find(ids, xen::GrantRef{answer.id}) - ids.begin()));
                if (sent.ids.empty()) {
                    if (sent.good) {
                        who.done.push_back(number);
                    }
                    who.in_flight.erase(number);
                }
                return true;
            }
        }
        return complain("an answer to nothing, or a second one");
    }

    // The backend's processes

    [[nodiscard]] netback::QueueConfig config() {
        netback::QueueConfig config;
        config.domain = mock.id;
        config.keys = {mock.tx_ring_ref, mock.rx_ring_ref, mock.tx_port, mock.rx_port};
        config.rx = {.scatter_gather = true,
                     .checksum_v4 = true,
                     .checksum_v6 = true,
                     .gso_v4 = true,
                     .gso_v6 = true,
                     .announces_buffers = true};
        const netback::QueueIdentity identity{{mock.id, 0}, 0, "/vm/1", config.keys};
        config.journal = generation == 0 ? *folder.create(identity) : *folder.inherit(identity);
        config.resumed = generation != 0;
        return config;
    }

    /// Starts one, which obeys commands: t, a turn; s, a traced turn; d, the port defers or not; f and l, it is done
    /// with the first or the last of what it has; o and O, a packet for the guest, small or large.
    void start() {
        launch(false);
        ASSERT_EQ(hear(), 'r');
    }
    /// The same, to be traced while it connects.
    std::size_t start_traced() {
        launch(true);
        return trace();
    }
    void launch(bool traced) {
        (void)!::pipe(commands.data());
        (void)!::pipe(replies.data());
        child = ::fork();
        if (child == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
            obey(traced);
            ::_exit(0);
        }
        ++generation;
    }
    void kill() {
        if (child > 0) {
            ::kill(child, SIGKILL);
            for (int status = 0; ::waitpid(child, &status, 0) == child && WIFSTOPPED(status);) {
            }
            child = 0;
            for (const int fd : {commands[0], commands[1], replies[0], replies[1]}) {
                ::close(fd);
            }
        }
    }
    void tell(char command) {
        (void)!::write(commands[1], &command, 1);
        if (command != 's') {
            ASSERT_EQ(hear(), command);
        }
    }
    char hear() {
        char reply = 0;
        return ::read(replies[0], &reply, 1) == 1 ? reply : '\0';
    }

    void obey(bool traced) {
        if (traced) {
            ::raise(SIGSTOP);
        }
        Backend backend(*host, config(), way, *log);
        if (traced) {
            ::raise(SIGSTOP);
        }
        char command = backend.queue ? 'r' : 'x';
        do {
            if (command != 's') {
                (void)!::write(replies[1], &command, 1);
            }
            if (::read(commands[0], &command, 1) != 1) {
                return;
            }
            switch (command) {
                case 't':
                    backend.worker->step(0);
                    break;
                case 's':
                    ::raise(SIGSTOP);
                    backend.worker->step(0);
                    ::raise(SIGSTOP);
                    break;
                case 'd':
                    backend.port->defer = !backend.port->defer;
                    break;
                case 'f':
                case 'l':
                    backend.port->finish(command == 'f' || backend.port->kept.empty() ? 0
                                                                                      : backend.port->kept.size() - 1);
                    break;
                case 'o':
                case 'O':
                    backend.port->to_receive.push_back(make_frame(offered->fetch_add(1), command == 'o' ? 80 : 1400));
                    break;
                default:
                    return;
            }
            // The guest's events are not ours to wait for.
            backend.worker->activate(*backend.queue);
        } while (true);
    }

    // What outlives a backend

    struct Memory {
        std::vector<std::byte> rings, journal;
        std::uint32_t sent = 0;
        bool operator==(const Memory&) const = default;
    };
    [[nodiscard]] std::span<std::byte> journal_octets() {
        if (journal_at.empty()) {
            const UniqueFd fd(::open(journal_file.c_str(), O_RDWR | O_CLOEXEC));
            const auto size = static_cast<std::size_t>(::lseek(fd.get(), 0, SEEK_END));
            void* const at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
            journal_at = {static_cast<std::byte*>(at), size};
        }
        return journal_at;
    }
    /// Whether it is still as in `memory`; cheap, since it is asked after every instruction.
    [[nodiscard]] bool same(const Memory& memory) {
        const auto tx = mock.memory.page(mock.tx_frame);
        const auto rx = mock.memory.page(mock.rx_frame);
        return log->count == memory.sent && std::memcmp(tx.data(), memory.rings.data(), tx.size()) == 0 &&
               std::memcmp(rx.data(), memory.rings.data() + tx.size(), rx.size()) == 0 &&
               std::memcmp(journal_octets().data(), memory.journal.data(), memory.journal.size()) == 0;
    }
    [[nodiscard]] Memory save() {
        Memory memory;
        for (const std::uint32_t frame : {mock.tx_frame, mock.rx_frame}) {
            const auto page = mock.memory.page(frame);
            memory.rings.insert(memory.rings.end(), page.begin(), page.end());
        }
        memory.journal.assign(journal_octets().begin(), journal_octets().end());
        memory.sent = log->count;
        return memory;
    }
    void restore(const Memory& memory) {
        std::memcpy(mock.memory.page(mock.tx_frame).data(), memory.rings.data(), xen::page_size);
        std::memcpy(mock.memory.page(mock.rx_frame).data(), memory.rings.data() + xen::page_size, xen::page_size);
        std::ranges::copy(memory.journal, journal_octets().begin());
    }

    /// Traces the backend through its next turn, or until it was seen in so many states.
    std::size_t trace_turn(std::size_t states_max = ~std::size_t{0}) {
        tell('s');
        return trace(states_max);
    }
    /// Returns how many states it was seen in; 0 if tracing is not allowed here.
    std::size_t trace(std::size_t states_max = ~std::size_t{0}) {
        int status = 0;
        if (::waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) {
            return 0;
        }
        std::size_t states = 0;
        Memory last;
        for (bool stopped = false; !stopped;) {
            if (last.rings.empty() || !same(last)) {
                last = save();
                std::vector<std::vector<std::byte>> buffers;
                for (const auto& buffer : rx_buffers) {
                    const auto page = mock.memory.page(buffer.frame);
                    buffers.emplace_back(page.begin(), page.end());
                }
                ++states;
                const bool good = judge_successor();
                restore(last);
                for (std::size_t i = 0; i < buffers.size(); ++i) {
                    std::ranges::copy(buffers[i], mock.memory.page(rx_buffers[i].frame).begin());
                }
                if (!good || states == states_max) {
                    return states;
                }
            }
            if (::ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr) != 0 || ::waitpid(child, &status, 0) != child ||
                !WIFSTOPPED(status)) {
                complain("the traced process ended");
                return states;
            }
            stopped = WSTOPSIG(status) == SIGSTOP;
        }
        ::ptrace(PTRACE_CONT, child, nullptr, nullptr);
        return states;
    }

    /// Has a successor take over from what is there now.
    bool judge_successor() {
        Guest after = guest;
        // What was answered before the successor came, it must not send again.
        if (!collect(after)) {
            return false;
        }
        const std::set<std::uint32_t> answered(after.done.begin(), after.done.end());
        const std::uint32_t sent_before = log->count;
        const std::uint32_t offered_before = *offered;
        {
            Backend backend(*host, config(), way, *log);
            if (!backend.queue) {
                return complain(backend.failure);
            }
            for (ring::Index left = after.rx.in_flight(); left != 0; --left) {
                backend.port->to_receive.push_back(make_frame(offered->fetch_add(1), 80));
            }
            for (int turn = 0; turn < 100 && (!backend.worker->asleep() || turn < 3); ++turn) {
                backend.worker->step(0);
            }
            if (!collect(after)) {
                return false;
            }
        }
        const std::uint32_t offered_last = *offered - 1;
        const bool offered_more = *offered != offered_before;
        std::map<std::uint32_t, std::uint32_t> times;
        std::uint32_t newest = 0;
        bool good = true;
        for (std::uint32_t i = 0; i < log->count; ++i) {
            const auto frame = log->frame(i);
            const std::uint32_t number = number_of(frame);
            good =
                good && ((number != 0 && number < guest.next_number) || complain("a packet was sent that nobody sent"));
            ++times[number];
            if (i >= sent_before) {
                if (std::ranges::equal(frame, make_frame(number, static_cast<std::uint32_t>(frame.size()))) == false) {
                    good = complain("a packet was sent with other octets than the guest's");
                }
                good = good && (!answered.contains(number) || complain("an answered packet was sent again"));
                good = good && (number > newest || complain("packets were sent in another order"));
                newest = number;
            }
        }
        for (const auto& [number, count] : times) {
            good = good && (count <= generation + 1 || complain("a packet was sent too often"));
        }
        for (const auto& [number, sent] : guest.in_flight) {
            good = good && (!sent.good || times.contains(number) || answered.contains(number) ||
                            complain("a packet that was not answered is lost"));
        }
        good = good && ((after.in_flight.empty() && after.nulls == 0) || complain("a TX slot has no answer"));
        good = good && (after.rx.in_flight() == 0 || complain("an RX slot has no answer"));
        good =
            good && (!offered_more || after.last_received == offered_last || complain("what came last did not come"));
        good =
            good && (std::ranges::all_of(mock.memory.page(canary), [](std::byte b) { return b == std::byte{0xcc}; }) ||
                     complain("data was written to a page that was not posted"));
        log->count = sent_before;
        *offered = offered_before;
        return good;
    }

    Way way;
    TemporaryDirectory directory;
    std::unique_ptr<xen::LocalHost> host;
    MockGuest mock;
    Guest guest;
    std::uint32_t canary = 0;
    std::vector<MockGuest::Page> pages, rx_buffers;
    std::vector<xen::GrantRef> ids;
    netback::JournalFolder folder;
    std::string journal_file;
    std::span<std::byte> journal_at;
    Shared<Log> log;
    Shared<std::atomic<std::uint32_t>> offered;  ///< numbers packets for the guest
    pid_t child = 0;
    unsigned generation = 0;
    std::array<int, 2> commands{}, replies{};
    std::string complaint;
};

}  // namespace uvif::test
