// SPDX-License-Identifier: MIT
//
// Device::connect() as applications call it: against a machine in its own process, and a backend that does no more
// than answer in xenstore.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/unique_fd.hpp"
#include "uvif/netfront.hpp"
#include "xen/emulated/toolstack.hpp"
#include "xen/hypervisor.hpp"
#include "xen/store_path.hpp"
#include "xen/xenbus.hpp"

extern char** environ;

namespace uvif::netfront {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using xen::DomainId;
using xen::XenbusState;

pid_t spawn(const std::vector<std::string>& command, int keep_fd) {
    std::vector<char*> arguments;
    for (const std::string& word : command) {
        arguments.push_back(const_cast<char*>(word.c_str()));
    }
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, keep_fd, keep_fd);  // clears close-on-exec
    pid_t pid = -1;
    EXPECT_EQ(posix_spawn(&pid, arguments[0], &actions, nullptr, arguments.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    return pid;
}

class NetfrontConnect : public ::testing::Test {
protected:
    void SetUp() override {
        std::string name = std::filesystem::temp_directory_path() / "uvif-connect-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        directory_ = name;
        std::array<int, 2> ready{};
        ASSERT_EQ(::pipe2(ready.data(), O_CLOEXEC), 0);
        const UniqueFd read_end(ready[0]);
        UniqueFd write_end(ready[1]);
        machine_ = spawn({UVIF_MACHINE, "start", directory_, "--ready-fd", fmt::format("{}", ready[1])}, ready[1]);
        write_end.reset();
        std::array<char, 16> line{};
        ASSERT_GT(::read(read_end.get(), line.data(), line.size()), 0) << "uvif-machine did not start";
        ASSERT_EQ(std::system(fmt::format("{} create {} --name guest > /dev/null", UVIF_MACHINE, directory_).c_str()),
                  0);
        auto dom0 = xen::open_hypervisor("emulated:" + directory_ + "/dom0");
        ASSERT_TRUE(dom0) << dom0.error().message;
        dom0_ = std::move(*dom0);
        store_ = std::move(*dom0_->open_store());
        config_.hypervisor = "emulated:" + directory_ + "/dom1";
        config_.connect_timeout_ms = 300;
    }
    void TearDown() override {
        stop_backend();
        store_.reset();
        ::kill(machine_, SIGTERM);
        ::waitpid(machine_, nullptr, 0);
        std::filesystem::remove_all(directory_);
    }

    void attach(unsigned devid) {
        xen::VifSpec spec;
        spec.mac = "00:16:3e:00:00:07";
        spec.devid = devid;
        ASSERT_TRUE(xen::Toolstack(*store_).write_vif(guest_, spec));
    }
    [[nodiscard]] std::string backend(unsigned devid) const { return xen::backend_path(DomainId{0}, guest_, devid); }
    [[nodiscard]] std::string frontend(unsigned devid) const { return xen::frontend_path(guest_, devid); }
    void set_backend(unsigned devid, std::string_view key, std::string_view value) {
        ASSERT_TRUE(store_->write(fmt::format("{}/{}", backend(devid), key), value));
    }

    /// Answers the frontend's states as a backend does, once `begun` returns, on a thread of its own.
    void start_backend(unsigned devid, const std::function<void(xen::Store&)>& begun = [](xen::Store&) {}) {
        config_.connect_timeout_ms = 60000;
        stop_ = false;
        backend_ = std::thread([this, devid, begun] {
            auto store = std::move(*dom0_->open_store());
            begun(*store);
            ASSERT_TRUE(store->write(backend(devid) + "/feature-rx-copy", "1"));
            const std::string state = frontend(devid) + "/state";
            ASSERT_TRUE(store->watch(state, "backend"));
            XenbusState last = XenbusState::unknown;
            while (!stop_) {
                while (store->next_event()) {
                }
                const XenbusState now = xen::parse_xenbus_state(store->read(state).value_or(""));
                if (now != last) {
                    for (const XenbusState answer : answers(now)) {
                        ASSERT_TRUE(xen::write_state(*store, backend(devid), answer));
                    }
                    last = now;
                }
                pollfd news{store->fd(), POLLIN, 0};
                ::poll(&news, 1, 50);
            }
        });
    }
    [[nodiscard]] std::vector<XenbusState> answers(XenbusState frontend) const {
        if (frontend == refused_) {
            return {XenbusState::closing, XenbusState::closed};
        }
        switch (frontend) {
            case XenbusState::initialising:
                return {XenbusState::closing, XenbusState::closed, XenbusState::init_wait};
            case XenbusState::connected:
            case XenbusState::closing:
            case XenbusState::closed:
                return {frontend};
            default:
                return {};
        }
    }
    /// As start_backend(), once the frontend has begun.
    void start_backend_later(unsigned devid) {
        EXPECT_TRUE(store_->write(frontend(devid) + "/state", "6"));
        start_backend(devid, [this, devid](xen::Store& store) {
            while (!stop_ && store.read(frontend(devid) + "/state").value_or("1") != "1") {
                std::this_thread::sleep_for(std::chrono::milliseconds(10));
            }
        });
    }
    /// Files that say that a device of this machine is in use.
    [[nodiscard]] std::size_t lock_files() const {
        std::string name = directory_;
        std::ranges::replace(name, '/', '-');
        std::size_t count = 0;
        for (const auto& file : std::filesystem::directory_iterator("/run/lock")) {
            count += file.path().string().contains("uvif-netfront." + name) ? 1 : 0;
        }
        return count;
    }
    void stop_backend() {
        stop_ = true;
        if (backend_.joinable()) {
            backend_.join();
        }
    }

    std::string directory_;
    XenbusState refused_ = XenbusState::unknown;  ///< where the backend ends it
    pid_t machine_ = -1;
    DomainId guest_{1};
    std::unique_ptr<xen::Hypervisor> dom0_;
    std::unique_ptr<xen::Store> store_;
    std::thread backend_;
    std::atomic<bool> stop_ = false;
    Config config_;
};

TEST_F(NetfrontConnect, names_what_is_there_when_the_device_is_not) {
    auto device = Device::connect(config_);
    ASSERT_FALSE(device);
    EXPECT_EQ(device.error().code, ENODEV);
    EXPECT_THAT(device.error().message, AllOf(HasSubstr("device/vif is empty"), HasSubstr("attach")));
    attach(0);
    attach(2);
    config_.device = 1;
    device = Device::connect(config_);
    ASSERT_FALSE(device);
    EXPECT_THAT(device.error().message, AllOf(HasSubstr("no vif 1"), HasSubstr("0, 2")));
}

TEST_F(NetfrontConnect, says_why_the_backend_did_not_come) {
    attach(0);
    auto device = Device::connect(config_);
    ASSERT_FALSE(device);
    EXPECT_EQ(device.error().code, ETIMEDOUT);
    EXPECT_THAT(device.error().message, AllOf(HasSubstr("nobody serves " + backend(0)), HasSubstr("Initialising")));

    set_backend(0, "feature-rx-copy", "1");
    set_backend(0, "hotplug-status", "");
    set_backend(0, "state", "2");
    device = Device::connect(config_);
    ASSERT_FALSE(device);
    EXPECT_THAT(device.error().message, AllOf(HasSubstr("InitWait"), HasSubstr("hotplug script")));

    set_backend(0, "state", "6");
    device = Device::connect(config_);
    ASSERT_FALSE(device);
    EXPECT_THAT(device.error().message, HasSubstr("Closed"));

    ASSERT_TRUE(store_->remove(backend(0)));
    device = Device::connect(config_);
    ASSERT_FALSE(device);
    EXPECT_THAT(device.error().message, HasSubstr("no state"));
}

TEST_F(NetfrontConnect, a_refusal_is_not_waited_out) {
    attach(0);
    const std::string reason = xen::error_path(DomainId{0}, backend(0));
    for (const XenbusState refused : {XenbusState::initialising, XenbusState::connected}) {
        refused_ = refused;
        start_backend_later(0);
        auto device = Device::connect(config_);
        ASSERT_FALSE(device);
        EXPECT_EQ(device.error().code, ECONNREFUSED) << device.error().message;
        EXPECT_THAT(device.error().message, AllOf(HasSubstr("vif 0"), HasSubstr(reason)));
        stop_backend();
        set_backend(0, "state", "1");
    }
    ASSERT_TRUE(store_->write(reason, "12 no memory\n"));
    ASSERT_TRUE(store_->set_permissions(reason, {{DomainId{0}, 'n'}, {guest_, 'r'}}));
    start_backend_later(0);
    EXPECT_THAT(Device::connect(config_).error().message, HasSubstr("the backend refused: 12 no memory\\x0a"));
}

TEST_F(NetfrontConnect, a_backend_that_was_closed_before_may_come_back) {
    attach(0);
    set_backend(0, "state", "6");
    start_backend(0, [](xen::Store&) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2500));  // beyond what a refusal takes to be believed
    });
    auto device = Device::connect(config_);
    ASSERT_TRUE(device) << device.error().message;
    EXPECT_EQ((*device)->state(), LinkState::up);
}

TEST_F(NetfrontConnect, connects_closes_and_connects_again) {
    attach(3);
    start_backend(3);
    for (int round = 0; round < 3; ++round) {
        auto device = Device::connect(config_);
        ASSERT_TRUE(device) << device.error().message;
        EXPECT_EQ((*device)->state(), LinkState::up);
        EXPECT_EQ((*device)->id(), 3U);
        EXPECT_EQ((*device)->mac(), (std::array<std::uint8_t, 6>{0, 0x16, 0x3e, 0, 0, 7}));
        device->reset();
        EXPECT_EQ(store_->read(frontend(3) + "/state").value_or(""), "6");
        EXPECT_EQ(store_->read(backend(3) + "/state").value_or(""), "6") << "the close was waited for";
    }
}

TEST_F(NetfrontConnect, a_device_has_one_user) {
    attach(0);
    start_backend(0);
    auto device = Device::connect(config_);
    ASSERT_TRUE(device) << device.error().message;
    auto second = Device::connect(config_);
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code, EBUSY);
    EXPECT_THAT(second.error().message, AllOf(HasSubstr("vif 0"), HasSubstr("another program")));
    EXPECT_EQ(store_->read(frontend(0) + "/state").value_or(""), "4") << "the refused one changed nothing";
    attach(1);
    config_.connect_timeout_ms = 100;
    second = Device::connect(config_);
    ASSERT_FALSE(second);
    EXPECT_THAT(second.error().message, HasSubstr("vif 1")) << "without a wish, the free one is tried";
    EXPECT_EQ(lock_files(), 1U);
    device->reset();
    EXPECT_EQ(lock_files(), 0U) << "nothing is left behind";
}

TEST_F(NetfrontConnect, takes_up_what_a_killed_program_left) {
    attach(0);
    config_.connect_timeout_ms = 60000;
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        // No machine handle survives fork: the child opens its own.
        auto device = Device::connect(config_);
        ::raise(device ? SIGKILL : SIGTERM);
    }
    start_backend(0);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_EQ(WTERMSIG(status), SIGKILL);
    EXPECT_EQ(store_->read(frontend(0) + "/state").value_or(""), "4");
    auto device = Device::connect(config_);
    ASSERT_TRUE(device) << device.error().message;
    EXPECT_EQ((*device)->state(), LinkState::up);
}

TEST_F(NetfrontConnect, a_machine_that_dies_closes_the_device) {
    attach(0);
    start_backend(0);
    auto device = Device::connect(config_);
    ASSERT_TRUE(device) << device.error().message;
    stop_backend();
    ::kill(machine_, SIGKILL);
    ::waitpid(machine_, nullptr, 0);
    LinkState state = (*device)->process();
    for (int i = 0; i < 100 && state != LinkState::closed; ++i) {
        pollfd news{(*device)->fd(), POLLIN, 0};
        ::poll(&news, 1, 100);
        state = (*device)->process();
    }
    EXPECT_EQ(state, LinkState::closed);
    EXPECT_NE((*device)->failure(), "");
    std::array<Packet, 2> packets;
    EXPECT_EQ((*device)->queue(0).receive(packets), 0U);
}

}  // namespace
}  // namespace uvif::netfront
