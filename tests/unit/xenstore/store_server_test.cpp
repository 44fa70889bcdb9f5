// SPDX-License-Identifier: MIT
#include "xen/emulated/store_server.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <future>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "xen/xenstore_client.hpp"

namespace uvif::xen {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

constexpr int patience_ms = 120'000;  // the machine may be slow; nothing here waits for time to pass

/// A store served by a thread of its own, to which everything that touches the core is handed.
class ServedStore {
public:
    ServedStore() {
        server_ = StoreServer::create(core_).value();
        thread_ = std::thread([this] { run(); });
    }
    ~ServedStore() {
        stop_ = true;
        ::eventfd_write(wake_, 1);
        thread_.join();
        server_.reset();
        ::close(wake_);
        std::filesystem::remove_all(directory_);
    }
    ServedStore(const ServedStore&) = delete;
    ServedStore& operator=(const ServedStore&) = delete;

    std::string open(DomainId domain) {
        const std::string path = directory_ / ("dom" + std::to_string(std::to_underlying(domain)));
        EXPECT_TRUE(on_thread<bool>([&] { return server_->open_domain(domain, path).has_value(); }));
        return path;
    }
    void close(DomainId domain) {
        on_thread<bool>([&] {
            server_->close_domain(domain);
            return true;
        });
    }
    template <class T>
    T on_thread(std::function<T()> work) {
        std::packaged_task<T()> task(std::move(work));
        auto result = task.get_future();
        {
            const std::lock_guard lock(mutex_);
            work_.emplace_back([&task] { task(); });
        }
        ::eventfd_write(wake_, 1);
        return result.get();
    }
    StoreCore& core() { return core_; }
    StoreServer& server() { return *server_; }
    const std::filesystem::path& directory() const { return directory_; }

private:
    void run() {
        while (!stop_) {
            pollfd entries[] = {{wake_, POLLIN, 0}, {server_->fd(), POLLIN, 0}};
            ::poll(entries, 2, -1);
            eventfd_t count = 0;
            ::eventfd_read(wake_, &count);
            std::vector<std::function<void()>> work;
            {
                const std::lock_guard lock(mutex_);
                work.swap(work_);
            }
            for (const auto& each : work) {
                each();
            }
            if ((entries[1].revents & POLLIN) != 0) {
                server_->dispatch();
            }
        }
    }

    static std::filesystem::path make_directory() {
        std::string name = std::filesystem::temp_directory_path() / "uvif-store-XXXXXX";
        return ::mkdtemp(name.data());
    }

    std::filesystem::path directory_ = make_directory();
    StoreCore core_;
    std::unique_ptr<StoreServer> server_;
    int wake_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    std::atomic<bool> stop_ = false;
    std::mutex mutex_;
    std::vector<std::function<void()>> work_;
    std::thread thread_;
};

/// Waits for an event of the store; an empty one when none comes.
WatchEvent wait_event(Store& store) {
    while (true) {
        if (auto event = store.next_event()) {
            return *event;
        }
        pollfd entry{store.fd(), POLLIN, 0};
        if (::poll(&entry, 1, patience_ms) != 1) {
            return {"no event came", ""};
        }
    }
}

class Server : public testing::Test {
protected:
    ServedStore served_;
    std::string dom0_path_ = served_.open(DomainId{0});
    std::string guest_path_ = served_.open(DomainId{1});
    std::unique_ptr<Store> dom0_ = open_libxenstore(dom0_path_).value();
    std::unique_ptr<Store> guest_ = open_libxenstore(guest_path_).value();
};

TEST_F(Server, ServesLibxenstore) {
    ASSERT_TRUE(dom0_->write("/local/domain/1/device", ""));
    ASSERT_TRUE(dom0_->set_permissions("/local/domain/1/device", {{DomainId{1}, 'n'}, {DomainId{0}, 'r'}}));
    ASSERT_TRUE(guest_->write("device/vif/0/state", std::string("1\0x", 3)));
    EXPECT_EQ(dom0_->read("/local/domain/1/device/vif/0/state").value(), std::string("1\0x", 3));
    ASSERT_TRUE(guest_->write("device/vif/0/empty", ""));
    EXPECT_EQ(guest_->read("device/vif/0/empty").value(), "");
    EXPECT_THAT(guest_->list("device/vif/0").value(), ElementsAre("empty", "state"));
    EXPECT_TRUE(guest_->list("device/vif/0/empty").value().empty());
    const auto refused = guest_->write("/local/domain/0/x", "1");
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, EACCES);
    EXPECT_EQ(refused.error().message, "cannot write /local/domain/0/x in xenstore: Permission denied");
    const auto missing = guest_->read("device/none");
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().code, ENOENT);
    const auto with_nul = guest_->read(std::string_view("device\0/vif", 11));
    ASSERT_FALSE(with_nul);
    EXPECT_EQ(with_nul.error().code, EINVAL);
    const auto too_big = dom0_->write("/big", std::string(4096, 'x'));
    ASSERT_FALSE(too_big);
    EXPECT_EQ(too_big.error().code, E2BIG);
    ASSERT_TRUE(guest_->remove("device/vif"));
    EXPECT_FALSE(guest_->read("device/vif/0/state"));
}

TEST_F(Server, ListsMoreThanFitsAMessage) {
    for (int i = 0; i < 1000; ++i) {
        ASSERT_TRUE(dom0_->write("/many/child-" + std::to_string(i), ""));
    }
    const auto names = dom0_->list("/many");
    ASSERT_TRUE(names) << names.error().message;
    EXPECT_EQ(names->size(), 1000U);
}

TEST_F(Server, RunsTransactionsAgainUntilTheyFit) {
    ASSERT_TRUE(dom0_->write("/count", "0"));
    const auto other = open_libxenstore(dom0_path_).value();
    const auto add = [](Store& store) {
        for (int i = 0; i < 50; ++i) {
            const auto done = transact(
                store,
                [&](Transaction t) -> Result<void> {
                    auto now = store.read("/count", t);
                    if (!now) {
                        return propagate(now);
                    }
                    return store.write("/count", std::to_string(std::stoi(*now) + 1), t);
                },
                100'000);
            ASSERT_TRUE(done) << done.error().message;
        }
    };
    std::thread second([&] { add(*other); });
    add(*dom0_);
    second.join();
    EXPECT_EQ(dom0_->read("/count").value(), "100");
}

TEST_F(Server, DeliversWatches) {
    ASSERT_TRUE(dom0_->watch("/a", "token"));
    EXPECT_EQ(wait_event(*dom0_).path, "/a");
    const auto other = open_libxenstore(dom0_path_).value();
    ASSERT_TRUE(other->write("/a/b", "1"));
    const WatchEvent event = wait_event(*dom0_);
    EXPECT_EQ(event.path, "/a/b");
    EXPECT_EQ(event.token, "token");
    // A change by the machine itself, past all sockets.
    served_.on_thread<bool>([&] {
        StoreSession session(served_.core(), DomainId{0});
        return session.write("/a/c", "1", Transaction::none).has_value();
    });
    EXPECT_EQ(wait_event(*dom0_).path, "/a/c");
    ASSERT_TRUE(dom0_->unwatch("/a", "token"));
    const auto unknown = dom0_->unwatch("/a", "token");
    ASSERT_FALSE(unknown);
    EXPECT_EQ(unknown.error().code, ENOENT);
}

TEST_F(Server, AClosedDomainsClientsGetErrorsAndLive) {
    ASSERT_TRUE(guest_->watch("device", "t"));  // starts the library's reader thread
    const auto without_thread = open_libxenstore(guest_path_).value();
    served_.close(DomainId{1});
    EXPECT_FALSE(std::filesystem::exists(guest_path_));
    for (Store* store : {guest_.get(), without_thread.get()}) {
        for (int i = 0; i < 3; ++i) {
            const auto lost = store->write("device/x", "1");
            ASSERT_FALSE(lost);
            EXPECT_EQ(lost.error().code, ENOTCONN) << lost.error().message;
        }
        EXPECT_FALSE(store->begin());
    }
    const auto gone = open_libxenstore(guest_path_);
    ASSERT_FALSE(gone);
    EXPECT_EQ(gone.error().code, ENOENT);
    EXPECT_THAT(gone.error().message, HasSubstr(guest_path_));
    EXPECT_TRUE(dom0_->write("/still", "here"));
    served_.open(DomainId{1});
    EXPECT_TRUE(open_libxenstore(guest_path_));
}

TEST_F(Server, OpeningSaysWhatIsWrong) {
    const std::string file = served_.directory() / "file";
    std::fclose(std::fopen(file.c_str(), "w"));
    EXPECT_THAT(open_libxenstore(file).error().message, HasSubstr("not a socket"));
    EXPECT_FALSE(open_libxenstore((served_.directory() / std::string(200, 'x')).string()));
    ::setenv("XENSTORED_PATH", "/was/set", 1);
    EXPECT_TRUE(open_libxenstore(dom0_path_));
    EXPECT_STREQ(::getenv("XENSTORED_PATH"), "/was/set");
    ::unsetenv("XENSTORED_PATH");
    EXPECT_TRUE(open_libxenstore(dom0_path_));
    EXPECT_EQ(::getenv("XENSTORED_PATH"), nullptr);

    const auto twice =
        served_.on_thread<Result<void>>([&] { return served_.server().open_domain(DomainId{5}, dom0_path_); });
    ASSERT_FALSE(twice);
    EXPECT_EQ(twice.error().code, EADDRINUSE);
    EXPECT_THAT(twice.error().message, HasSubstr(dom0_path_));
    EXPECT_TRUE(dom0_->write("/still", "served"));
    EXPECT_FALSE(served_.on_thread<Result<void>>(
        [&] { return served_.server().open_domain(DomainId{5}, std::string(200, 'x')); }));
}

int connect_raw(const std::string& path) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::ranges::copy(path, address.sun_path);
    EXPECT_EQ(::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    constexpr timeval patience{patience_ms / 1000, 0};
    EXPECT_EQ(::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
    return fd;
}

TEST_F(Server, ADeathBetweenQuestionAndAnswerIsALostConnection) {
    const std::string path = served_.directory() / "dying";
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::ranges::copy(path, address.sun_path);
    const int listener = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ASSERT_EQ(::bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    ASSERT_EQ(::listen(listener, 1), 0);
    std::thread dying([&] {
        const int client = ::accept(listener, nullptr, nullptr);
        StoreCore core;
        StoreConnection connection(core, DomainId{0});
        std::array<std::byte, 4096> buffer;
        // Serves the watch, which makes the library start its reader thread, and dies of the read.
        while (connection.output().empty()) {
            const ssize_t count = ::recv(client, buffer.data(), buffer.size(), 0);
            ASSERT_TRUE(connection.feed(std::span(buffer).first(static_cast<std::size_t>(count))));
        }
        const auto output = connection.output();
        EXPECT_EQ(::send(client, output.data(), output.size(), MSG_NOSIGNAL), static_cast<ssize_t>(output.size()));
        EXPECT_GT(::recv(client, buffer.data(), buffer.size(), 0), 0);
        ::close(client);
        ::close(listener);
    });
    const auto store = open_libxenstore(path).value();
    EXPECT_TRUE(store->watch("/a", "t"));
    const auto lost = store->read("/a");
    dying.join();
    ASSERT_FALSE(lost);
    EXPECT_EQ(lost.error().code, ENOTCONN) << lost.error().message;
}

TEST_F(Server, HangsUpOnGarbageAndServesTheOthers) {
    const int fd = connect_raw(guest_path_);
    const std::vector<char> garbage(8192, '\xff');
    ASSERT_GT(::send(fd, garbage.data(), garbage.size(), MSG_NOSIGNAL), 0);
    char byte = 0;
    EXPECT_LE(::recv(fd, &byte, 1, 0), 0);
    ::close(fd);
    EXPECT_TRUE(dom0_->write("/still", "served"));
}

TEST_F(Server, AClientThatNeverReadsHoldsNobodyUp) {
    ASSERT_TRUE(dom0_->write("/a", std::string(4000, 'x')));
    const int fd = connect_raw(dom0_path_);
    struct {
        std::uint32_t type = 2, request = 0, transaction = 0, length = 3;  // XS_READ
        char path[3] = {'/', 'a', '\0'};
    } read_a;
    constexpr std::size_t length = 19;
    // As much as the socket takes: the server stops reading when its replies are not fetched.
    ASSERT_EQ(::fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    std::size_t sent = 0;
    for (int refused = 0; refused < 100;) {
        if (::send(fd, &read_a, length, MSG_NOSIGNAL) == static_cast<ssize_t>(length)) {
            ++sent;
        } else {
            ASSERT_EQ(errno, EAGAIN);
            ASSERT_TRUE(dom0_->write("/others", "are served"));
            ++refused;
        }
        ASSERT_LT(sent, 10'000'000U);
    }
    ::close(fd);
    EXPECT_TRUE(dom0_->write("/others", "are served"));
}

TEST_F(Server, ConnectionsOfADomainAreLimited) {
    std::vector<int> fds;
    for (std::size_t i = 0; i < StoreServer::connections_per_domain_max; ++i) {
        fds.push_back(connect_raw(guest_path_));
    }
    char byte = 0;
    EXPECT_EQ(::recv(fds.back(), &byte, 1, 0), 0);  // one is libxenstore's
    EXPECT_TRUE(guest_->begin());
    EXPECT_TRUE(dom0_->write("/still", "served"));
    ::close(fds.front());
    // The place is free again as soon as the server has seen it.
    std::unique_ptr<Store> again;
    while (!again || !again->begin()) {
        again = open_libxenstore(guest_path_).value();
    }
    for (std::size_t i = 1; i < fds.size(); ++i) {
        ::close(fds[i]);
    }
}

/// The stock tools, as a person would use them.
class Tools : public Server {
protected:
    void SetUp() override {
        if (std::system("command -v xenstore-ls xenstore-watch xenstore-chmod >/dev/null 2>&1") != 0) {
            GTEST_SKIP() << "xenstore-utils is not installed";
        }
    }

    /// Standard output and error together; a status other than 0 follows as "[n]".
    std::string run(const std::string& command, const std::string& path = {}) {
        const std::string line =
            "XENSTORED_PATH=" + (path.empty() ? dom0_path_ : path) + " timeout 120 " + command + " 2>&1";
        std::FILE* pipe = ::popen(line.c_str(), "r");
        std::string output;
        for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) {
            output += static_cast<char>(c);
        }
        const int status = ::pclose(pipe);
        return status == 0 ? output : output + "[" + std::to_string(WEXITSTATUS(status)) + "]";
    }
};

TEST_F(Tools, ReadWriteListAndRemove) {
    EXPECT_EQ(run("xenstore-write /a/b one /a/c two"), "");
    EXPECT_EQ(run("xenstore-read /a/b /a/c"), "one\ntwo\n");
    EXPECT_EQ(run("xenstore-list /a"), "b\nc\n");
    EXPECT_EQ(run("xenstore-exists /a/b"), "");
    EXPECT_EQ(run("xenstore-exists /a/missing"), "[1]");
    EXPECT_THAT(run("xenstore-read /a/missing"), HasSubstr("couldn't read path /a/missing"));
    EXPECT_EQ(run("xenstore-write -s /a/b three"), "");
    EXPECT_EQ(run("xenstore-read -s /a/b"), "three\n");
    EXPECT_EQ(run("xenstore-chmod /a/b n1 r0 b2"), "");
    EXPECT_EQ(run("xenstore-chmod -r /a r1"), "");
    EXPECT_EQ(run("xenstore-chmod /a/c n1 b2"), "");
    EXPECT_EQ(run("xenstore-ls -fp"), "/a = \"\"   (r1)\n/a/b = \"three\"   (r1)\n/a/c = \"two\"   (n1,b2)\n");
    EXPECT_EQ(run("xenstore-read /a/b", guest_path_), "three\n");
    EXPECT_THAT(run("xenstore-write /x y", guest_path_), HasSubstr("[1]"));
    EXPECT_EQ(run("xenstore-rm /a"), "");
    EXPECT_EQ(run("xenstore-ls -fp"), "");
}

TEST_F(Tools, Watch) {
    auto output = std::async(std::launch::async, [&] { return run("xenstore-watch -n 3 /w"); });
    // The watch is registered when its session says so; then two more events follow the first.
    const auto watches = [&] {
        return served_.on_thread<bool>([&] {
            StoreSession session(served_.core(), DomainId{0});
            return session.write("/w/x", "1", Transaction::none).has_value();
        });
    };
    while (output.wait_for(std::chrono::milliseconds(20)) != std::future_status::ready) {
        ASSERT_TRUE(watches());
    }
    EXPECT_EQ(output.get(), "/w\n/w/x\n/w/x\n");
}

}  // namespace
}  // namespace uvif::xen
