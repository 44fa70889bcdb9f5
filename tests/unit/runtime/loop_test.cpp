// SPDX-License-Identifier: MIT
#include "runtime/loop.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "runtime/clock.hpp"
#include "runtime/unique_fd.hpp"

namespace uvif {
namespace {

using testing::ElementsAre;

class Recorder final : public ReadyHandler {
public:
    void on_ready(std::uint32_t events) noexcept override {
        seen.push_back(events);
        if (then) {
            then();
        }
    }

    std::vector<std::uint32_t> seen;
    std::function<void()> then;
};

struct Pair {
    UniqueFd ours;
    UniqueFd theirs;
};

Pair socket_pair(int type = SOCK_SEQPACKET) {
    int fds[2];
    EXPECT_EQ(::socketpair(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

UniqueFd event_fd(unsigned value = 0) {
    return UniqueFd(::eventfd(value, EFD_NONBLOCK | EFD_CLOEXEC));
}

/// A new event descriptor with a number that was just closed.
UniqueFd event_fd_at(int number) {
    UniqueFd event = event_fd();
    if (event.get() == number) {
        return event;
    }
    EXPECT_EQ(::dup3(event.get(), number, O_CLOEXEC), number);
    return UniqueFd(number);
}

class LoopTest : public testing::TestWithParam<LoopKind> {
protected:
    void SetUp() override {
        auto created = Loop::create(GetParam());
        if (!created) {
            GTEST_SKIP() << created.error().message;
        }
        loop_ = std::move(*created);
    }

    /// Waits until `done`, or fails after a time that no healthy machine needs.
    void wait_until(const std::function<bool()>& done) {
        const std::int64_t deadline = monotonic_ns() + 20 * ns_per_s;
        while (!done()) {
            ASSERT_LT(monotonic_ns(), deadline) << "what was waited for did not happen";
            loop_->wait(100 * ns_per_ms);
        }
    }

    /// The loop sleeps for the time it is told. An interruption may cut one short: the kernel takes down the ring
    /// of the test before this one meanwhile.
    void expect_sleep() {
        const std::int64_t end = monotonic_ns() + 30 * ns_per_ms;
        for (int interruptions = 0; monotonic_ns() < end; ++interruptions) {
            ASSERT_LE(interruptions, 5) << "does not sleep";
            loop_->wait(end - monotonic_ns());
        }
    }

    std::unique_ptr<Loop> loop_;
    Recorder recorder_;
};

TEST_P(LoopTest, TellsItsName) {
    EXPECT_EQ(loop_->name(), GetParam() == LoopKind::epoll ? "epoll" : "io_uring");
}

TEST_P(LoopTest, ReportsNothingWhenNothingIsReady) {
    const UniqueFd event = event_fd();
    ASSERT_TRUE(loop_->add(event.get(), EPOLLIN, recorder_));
    loop_->wait(0);
    loop_->wait(ns_per_ms);
    EXPECT_TRUE(recorder_.seen.empty());
}

TEST_P(LoopTest, ReportsAgainWhatIsStillReady) {
    const UniqueFd event = event_fd(1);
    ASSERT_TRUE(loop_->add(event.get(), EPOLLIN, recorder_));
    for (int i = 0; i < 3; ++i) {
        loop_->wait(0);
    }
    EXPECT_THAT(recorder_.seen, ElementsAre(EPOLLIN, EPOLLIN, EPOLLIN));
    eventfd_t value = 0;
    eventfd_read(event.get(), &value);
    loop_->wait(0);
    EXPECT_EQ(recorder_.seen.size(), 3U);
    eventfd_write(event.get(), 1);
    loop_->wait(-1);
    EXPECT_EQ(recorder_.seen.size(), 4U);
}

TEST_P(LoopTest, SleepsAsLongAsItIsTold) {
    const UniqueFd event = event_fd();
    ASSERT_TRUE(loop_->add(event.get(), EPOLLIN, recorder_));
    expect_sleep();
    EXPECT_TRUE(recorder_.seen.empty());
}

TEST_P(LoopTest, SleepsForTheWholeTimeThoughAPollIsGivenUp) {
    const UniqueFd event = event_fd(1);
    ASSERT_TRUE(loop_->add(event.get(), EPOLLOUT | EPOLLIN, recorder_));
    loop_->wait(0);
    loop_->wait(0);
    loop_->modify(event.get(), 0);
    recorder_.seen.clear();
    expect_sleep();
    EXPECT_TRUE(recorder_.seen.empty());
}

TEST_P(LoopTest, WakesForAnotherThread) {
    const UniqueFd event = event_fd();
    ASSERT_TRUE(loop_->add(event.get(), EPOLLIN, recorder_));
    loop_->wait(0);
    std::thread other([&event] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        eventfd_write(event.get(), 1);
    });
    wait_until([this] { return !recorder_.seen.empty(); });
    other.join();
}

TEST_P(LoopTest, CanBeUsedByAThreadThatDidNotMakeIt) {
    const UniqueFd event = event_fd(1);
    ASSERT_TRUE(loop_->add(event.get(), EPOLLIN, recorder_));
    std::thread owner([this, &event] {
        loop_->wait(-1);
        loop_->remove(event.get());
    });
    owner.join();
    EXPECT_EQ(recorder_.seen.size(), 1U);
}

TEST_P(LoopTest, ReportsWhatModifyAsksFor) {
    const Pair pair = socket_pair();
    ASSERT_TRUE(loop_->add(pair.ours.get(), EPOLLIN, recorder_));
    loop_->wait(0);
    EXPECT_TRUE(recorder_.seen.empty());
    loop_->modify(pair.ours.get(), EPOLLIN | EPOLLOUT);
    loop_->wait(0);
    EXPECT_THAT(recorder_.seen, ElementsAre(EPOLLOUT));
    loop_->modify(pair.ours.get(), EPOLLIN);
    loop_->wait(0);
    EXPECT_EQ(recorder_.seen.size(), 1U);
    ASSERT_EQ(::write(pair.theirs.get(), "x", 1), 1);
    loop_->wait(0);
    EXPECT_THAT(recorder_.seen, ElementsAre(EPOLLOUT, EPOLLIN));
}

TEST_P(LoopTest, ModifyTakesBackWhatIsOnItsWay) {
    const Pair pair = socket_pair();
    ASSERT_TRUE(loop_->add(pair.ours.get(), EPOLLIN, recorder_));
    loop_->wait(0);
    ASSERT_EQ(::write(pair.theirs.get(), "x", 1), 1);
    loop_->modify(pair.ours.get(), EPOLLOUT);
    loop_->wait(0);
    EXPECT_THAT(recorder_.seen, ElementsAre(EPOLLOUT));
    loop_->modify(pair.ours.get(), 0);
    loop_->wait(0);
    EXPECT_EQ(recorder_.seen.size(), 1U);
}

TEST_P(LoopTest, EventsOfZeroKeepSilentAboutEverything) {
    Pair pair = socket_pair(SOCK_STREAM);
    ASSERT_TRUE(loop_->add(pair.ours.get(), 0, recorder_));
    pair.theirs.reset();  // EPOLLHUP from now on
    loop_->wait(ns_per_ms);
    EXPECT_TRUE(recorder_.seen.empty());
    loop_->modify(pair.ours.get(), EPOLLIN);
    loop_->wait(-1);
    ASSERT_EQ(recorder_.seen.size(), 1U);
    EXPECT_NE(recorder_.seen[0] & EPOLLHUP, 0U);
    loop_->modify(pair.ours.get(), 0);
    loop_->wait(ns_per_ms);
    EXPECT_EQ(recorder_.seen.size(), 1U);
}

TEST_P(LoopTest, SaysNothingOfWhatWasRemoved) {
    const UniqueFd event = event_fd(1);
    ASSERT_TRUE(loop_->add(event.get(), EPOLLIN, recorder_));
    loop_->wait(0);
    loop_->wait(0);
    ASSERT_EQ(recorder_.seen.size(), 2U);
    loop_->remove(event.get());
    loop_->wait(0);
    loop_->wait(ns_per_ms);
    EXPECT_EQ(recorder_.seen.size(), 2U);
}

TEST_P(LoopTest, LetsGoOfTheFileWhenItIsRemoved) {
    Pair pair = socket_pair(SOCK_STREAM);
    ASSERT_TRUE(loop_->add(pair.ours.get(), EPOLLIN, recorder_));
    loop_->wait(0);
    loop_->remove(pair.ours.get());
    pair.ours.reset();
    char octet = 0;
    EXPECT_EQ(::read(pair.theirs.get(), &octet, 1), 0) << "the other end sees the end of the stream at once";
}

TEST_P(LoopTest, HandlersMayRemoveEachOther) {
    const UniqueFd one = event_fd(1);
    const UniqueFd two = event_fd(1);
    Recorder first;
    Recorder second;
    first.then = [&] { loop_->remove(two.get()); };
    second.then = [&] { loop_->remove(one.get()); };
    ASSERT_TRUE(loop_->add(one.get(), EPOLLIN, first));
    ASSERT_TRUE(loop_->add(two.get(), EPOLLIN, second));
    for (int i = 0; i < 3; ++i) {
        loop_->wait(0);
    }
    // Whichever came first silenced the other, and went on.
    EXPECT_EQ(std::min(first.seen.size(), second.seen.size()), 0U);
    EXPECT_EQ(std::max(first.seen.size(), second.seen.size()), 3U);
}

TEST_P(LoopTest, AHandlerMayRemoveItself) {
    const UniqueFd event = event_fd(1);
    recorder_.then = [&] { loop_->remove(event.get()); };
    ASSERT_TRUE(loop_->add(event.get(), EPOLLIN, recorder_));
    loop_->wait(0);
    loop_->wait(0);
    EXPECT_EQ(recorder_.seen.size(), 1U);
}

TEST_P(LoopTest, AHandlerMaySilenceAnother) {
    const UniqueFd one = event_fd(1);
    const UniqueFd two = event_fd(1);
    Recorder first;
    Recorder second;
    first.then = [&] { loop_->modify(two.get(), 0); };
    second.then = [&] { loop_->modify(one.get(), 0); };
    ASSERT_TRUE(loop_->add(one.get(), EPOLLIN, first));
    ASSERT_TRUE(loop_->add(two.get(), EPOLLIN, second));
    loop_->wait(0);
    EXPECT_EQ(first.seen.size() + second.seen.size(), 1U);
}

TEST_P(LoopTest, AHandlerMayNarrowAnother) {
    const Pair one = socket_pair();
    const Pair two = socket_pair();
    Recorder first;
    Recorder second;
    first.then = [&] { loop_->modify(two.ours.get(), EPOLLIN); };
    second.then = [&] { loop_->modify(one.ours.get(), EPOLLIN); };
    ASSERT_TRUE(loop_->add(one.ours.get(), EPOLLIN | EPOLLOUT, first));
    ASSERT_TRUE(loop_->add(two.ours.get(), EPOLLIN | EPOLLOUT, second));
    loop_->wait(0);
    EXPECT_EQ(first.seen.size() + second.seen.size(), 1U);
}

/// An event that was on its way when its descriptor was removed does not reach the next one of that number.
TEST_P(LoopTest, ANumberUsedAgainIsNotTakenForTheOldDescriptor) {
    UniqueFd event = event_fd();
    const int number = event.get();
    ASSERT_TRUE(loop_->add(number, EPOLLIN, recorder_));
    loop_->wait(0);
    eventfd_write(number, 1);
    loop_->remove(number);
    event.reset();
    event = event_fd_at(number);
    ASSERT_TRUE(loop_->add(number, EPOLLIN, recorder_));
    loop_->wait(0);
    loop_->wait(ns_per_ms);
    EXPECT_TRUE(recorder_.seen.empty()) << "the new descriptor was never ready";
}

TEST_P(LoopTest, NorWhenAHandlerReplacesIt) {
    const UniqueFd one = event_fd(1);
    UniqueFd two = event_fd(1);
    const int number = two.get();
    Recorder first;
    Recorder stale;
    Recorder fresh;
    first.then = [&] {
        loop_->remove(one.get());
        loop_->remove(number);
        two.reset();
        two = event_fd_at(number);
        ASSERT_TRUE(loop_->add(number, EPOLLIN, fresh));
    };
    ASSERT_TRUE(loop_->add(one.get(), EPOLLIN, first));
    ASSERT_TRUE(loop_->add(number, EPOLLIN, stale));
    loop_->wait(0);
    loop_->wait(ns_per_ms);
    EXPECT_EQ(first.seen.size(), 1U);
    EXPECT_TRUE(fresh.seen.empty()) << "the new descriptor was never ready";
}

TEST_P(LoopTest, AHandlerMayAddMany) {
    const UniqueFd event = event_fd(1);
    std::vector<UniqueFd> more;
    Recorder others;
    recorder_.then = [&] {
        loop_->remove(event.get());
        for (int i = 0; i < 500; ++i) {
            more.push_back(event_fd(1));
            ASSERT_TRUE(loop_->add(more.back().get(), EPOLLIN, others));
        }
    };
    ASSERT_TRUE(loop_->add(event.get(), EPOLLIN, recorder_));
    wait_until([&others] { return others.seen.size() >= 500; });
    for (const UniqueFd& fd : more) {
        loop_->remove(fd.get());
    }
    others.seen.clear();
    loop_->wait(0);
    EXPECT_TRUE(others.seen.empty());
}

TEST_P(LoopTest, WatchesThousands) {
    rlimit limit{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
    constexpr std::size_t count = 6000;  // more than a completion ring holds
    if (limit.rlim_cur < count + 100) {
        GTEST_SKIP() << "the limit of open files is " << limit.rlim_cur;
    }
    std::vector<UniqueFd> events;
    std::vector<Recorder> handlers(count);
    for (std::size_t i = 0; i < count; ++i) {
        events.push_back(event_fd(1));
        ASSERT_TRUE(loop_->add(events[i].get(), EPOLLIN, handlers[i]));
    }
    wait_until([&handlers] {
        return std::all_of(handlers.begin(), handlers.end(), [](const Recorder& r) { return !r.seen.empty(); });
    });
    for (const UniqueFd& event : events) {
        loop_->remove(event.get());
    }
    for (Recorder& handler : handlers) {
        handler.seen.clear();
    }
    loop_->wait(0);
    EXPECT_TRUE(std::all_of(handlers.begin(), handlers.end(), [](const Recorder& r) { return r.seen.empty(); }));
}

TEST_P(LoopTest, RefusesWhatItCannotWatch) {
    const UniqueFd event = event_fd();
    ASSERT_TRUE(loop_->add(event.get(), EPOLLIN, recorder_));
    const auto twice = loop_->add(event.get(), EPOLLIN, recorder_);
    ASSERT_FALSE(twice);
    EXPECT_EQ(twice.error().code, EEXIST);
    const auto closed = loop_->add(-1, EPOLLIN, recorder_);
    ASSERT_FALSE(closed);
    EXPECT_EQ(closed.error().code, EBADF);
    loop_->remove(12345);  // never added: nothing happens
    loop_->modify(-1, EPOLLIN);
}

// Batches of writes

struct Message {
    explicit Message(std::string octets) : text(std::move(octets)), piece{text.data(), text.size()} {}
    std::string text;
    iovec piece;
};

std::vector<Message> messages(std::size_t count, std::size_t length = 8) {
    std::vector<Message> result;
    result.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
        std::string text = std::to_string(i);
        text.resize(length, ' ');
        result.emplace_back(std::move(text));
    }
    return result;
}

std::vector<WriteOperation> operations_for(int fd, std::vector<Message>& list) {
    std::vector<WriteOperation> result;
    for (Message& message : list) {
        message.piece.iov_base = message.text.data();
        result.push_back({.fd = fd, .pieces = {&message.piece, 1}});
    }
    return result;
}

std::vector<int> read_numbers(int fd) {
    std::vector<int> result;
    std::array<char, 65536> buffer{};
    for (;;) {
        const ssize_t length = ::read(fd, buffer.data(), buffer.size() - 1);
        if (length <= 0) {
            return result;
        }
        result.push_back(std::atoi(std::string(buffer.data(), static_cast<std::size_t>(length)).c_str()));
    }
}

TEST_P(LoopTest, WritesABatchInOrder) {
    const Pair pair = socket_pair();
    for (const std::size_t count : {std::size_t{1}, std::size_t{2}, std::size_t{10}}) {
        auto list = messages(count);
        auto operations = operations_for(pair.ours.get(), list);
        const unsigned calls = loop_->write_batch(operations);
        EXPECT_EQ(calls, GetParam() == LoopKind::epoll ? count : 1U);
        std::vector<int> expected;
        for (std::size_t i = 0; i < count; ++i) {
            EXPECT_EQ(operations[i].result, 8);
            expected.push_back(static_cast<int>(i));
        }
        EXPECT_EQ(read_numbers(pair.theirs.get()), expected);
    }
}

TEST_P(LoopTest, WritesAFullBatch) {
    const UniqueFd null(::open("/dev/null", O_WRONLY | O_NONBLOCK | O_CLOEXEC));
    for (int round = 0; round < 20; ++round) {
        auto list = messages(Loop::write_batch_max);
        auto operations = operations_for(null.get(), list);
        loop_->write_batch(operations);
        for (const WriteOperation& operation : operations) {
            EXPECT_EQ(operation.result, 8);
        }
    }
}

TEST_P(LoopTest, ReportsEachWritesOwnError) {
    const Pair pair = socket_pair();
    auto list = messages(3);
    auto operations = operations_for(pair.ours.get(), list);
    operations[1].fd = 1 << 20;
    loop_->write_batch(operations);
    EXPECT_EQ(operations[0].result, 8);
    EXPECT_EQ(operations[1].result, -EBADF);
    EXPECT_EQ(operations[2].result, 8);
    auto alone = std::span(operations).subspan(1, 1);
    loop_->write_batch(alone);
    EXPECT_EQ(alone[0].result, -EBADF);
}

/// Fills the other side, so that some writes of a batch have no room; nothing may be lost or written late.
TEST_P(LoopTest, DoesNotWaitForRoom) {
    for (const int type : {SOCK_SEQPACKET, SOCK_STREAM}) {
        const Pair pair = socket_pair(type);
        constexpr std::size_t length = 8192;
        std::size_t accepted = 0;
        std::size_t refused = 0;
        std::vector<std::vector<Message>> sent;  // kept: a write left behind would find its data
        for (int round = 0; round < 20; ++round) {
            auto& list = sent.emplace_back(messages(Loop::write_batch_max, length));
            auto operations = operations_for(pair.ours.get(), list);
            loop_->write_batch(operations);
            for (const WriteOperation& operation : operations) {
                if (operation.result > 0) {
                    accepted += static_cast<std::size_t>(operation.result);
                } else {
                    ASSERT_EQ(operation.result, -EAGAIN);
                    ++refused;
                }
            }
        }
        EXPECT_GT(refused, 0U);
        std::size_t arrived = 0;
        std::array<char, length> buffer{};
        for (int look = 0; look < 3; ++look) {
            for (;;) {
                const ssize_t got = ::read(pair.theirs.get(), buffer.data(), buffer.size());
                if (got <= 0) {
                    break;
                }
                arrived += static_cast<std::size_t>(got);
            }
            loop_->wait(ns_per_ms);  // now there is room: whatever waits for it in the kernel goes on
        }
        EXPECT_EQ(arrived, accepted) << "a refused write came through after all, or an accepted one did not";
    }
}

TEST_P(LoopTest, KeepsEventsThatComeDuringABatch) {
    const Pair pair = socket_pair();
    const Pair full = socket_pair();
    ASSERT_TRUE(loop_->add(pair.theirs.get(), EPOLLIN, recorder_));
    loop_->wait(0);
    auto list = messages(4);
    auto operations = operations_for(pair.ours.get(), list);
    loop_->write_batch(operations);  // makes `theirs` readable
    auto large = messages(Loop::write_batch_max, 8192);
    auto blocked = operations_for(full.ours.get(), large);
    loop_->write_batch(blocked);
    EXPECT_EQ(blocked.back().result, -EAGAIN);
    EXPECT_TRUE(recorder_.seen.empty()) << "handlers are called by wait only";
    loop_->wait(0);
    EXPECT_THAT(recorder_.seen, ElementsAre(EPOLLIN));
}

TEST_P(LoopTest, HandlersMayWrite) {
    const Pair pair = socket_pair();
    const UniqueFd one = event_fd(1);
    const UniqueFd two = event_fd(1);
    Recorder writer;
    auto list = messages(8);
    writer.then = [&] {
        auto operations = operations_for(pair.ours.get(), list);
        loop_->write_batch(operations);
    };
    ASSERT_TRUE(loop_->add(one.get(), EPOLLIN, writer));
    ASSERT_TRUE(loop_->add(two.get(), EPOLLIN, writer));
    ASSERT_TRUE(loop_->add(pair.theirs.get(), EPOLLIN, recorder_));
    loop_->wait(0);
    EXPECT_EQ(writer.seen.size(), 2U);
    loop_->wait(0);
    EXPECT_FALSE(recorder_.seen.empty());
    EXPECT_EQ(read_numbers(pair.theirs.get()).size(), 8 * writer.seen.size());
}

INSTANTIATE_TEST_SUITE_P(Kinds, LoopTest, testing::Values(LoopKind::epoll, LoopKind::io_uring),
                         [](const auto& kind) { return kind.param == LoopKind::epoll ? "epoll" : "io_uring"; });

}  // namespace
}  // namespace uvif
