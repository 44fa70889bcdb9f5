// SPDX-License-Identifier: MIT
// The commands as a user types them, against the program itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <optional>
#include <string>

#include "support/process.hpp"

namespace uvif::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

Outcome shell(const std::string& command) {
    return run({{"sh", "-c", command}});
}

class MachineCommandTest : public testing::Test {
protected:
    void SetUp() override {
        ASSERT_EQ(::setenv("XENSTORED_PATH", (directory + "/dom0.xenstore").c_str(), 1), 0);
        start();
    }

    void start() {
        std::array<int, 2> ready{};
        ASSERT_EQ(::pipe(ready.data()), 0);
        machine_.emplace(Launch{{UVIF_MACHINE, "start", directory, "--ready-fd", std::to_string(ready[1])}},
                         temporary_.path() + "/machine.log");
        ::close(ready[1]);
        char line[8] = {};
        ASSERT_GT(::read(ready[0], line, sizeof line), 0);
        ::close(ready[0]);
    }
    Outcome machine(const std::string& arguments) const {
        const auto space = arguments.find(' ');
        const std::string rest = space == std::string::npos ? "" : arguments.substr(space);
        return shell(std::string(UVIF_MACHINE) + " " + arguments.substr(0, space) + " " + directory + rest);
    }
    /// Plays the backend: answers `from` in its state by `to`.
    static std::future<bool> answer(const std::string& from, const std::string& to) {
        return std::async(std::launch::async, [=] {
            const std::string state = "/local/domain/0/backend/vif/1/0/state";
            return eventually([&] { return shell("xenstore-read " + state).output == from + "\n"; }) &&
                   shell("xenstore-write " + state + " " + to).status == 0;
        });
    }

    TemporaryDirectory temporary_;
    std::string directory = temporary_.path() + "/machine";
    std::optional<Process> machine_;
};

TEST_F(MachineCommandTest, ADomainsLifeLooksLikeXls) {
    EXPECT_EQ(machine("create --name guest").output, "1\n");
    EXPECT_EQ(machine("create").output, "2\n");
    EXPECT_THAT(machine("create --name guest").output, HasSubstr("domain 1 is named guest already"));

    auto init_wait = answer("1", "2");
    const Outcome attached = machine("attach 1 mac=00:16:3e:01:02:03,bridge=xenbr0,rate=1MB/s@20ms");
    EXPECT_EQ(attached.output, "0\n");
    EXPECT_EQ(attached.status, 0);
    EXPECT_TRUE(init_wait.get());

    const std::string tree = shell("xenstore-ls -fp").output;
    for (const char* line : {
             "/local/domain/0/backend/vif/1/0 = \"\"   (n0,r1)",
             "/local/domain/0/backend/vif/1/0/frontend = \"/local/domain/1/device/vif/0\"   (n0,r1)",
             "/local/domain/0/backend/vif/1/0/frontend-id = \"1\"   (n0,r1)",
             "/local/domain/0/backend/vif/1/0/online = \"1\"   (n0,r1)",
             "/local/domain/0/backend/vif/1/0/state = \"2\"   (n0,r1)",
             "/local/domain/0/backend/vif/1/0/mac = \"00:16:3e:01:02:03\"   (n0,r1)",
             "/local/domain/0/backend/vif/1/0/bridge = \"xenbr0\"   (n0,r1)",
             "/local/domain/0/backend/vif/1/0/rate = \"20000,20000\"   (n0,r1)",
             "/local/domain/0/backend/vif/1/0/handle = \"0\"   (n0,r1)",
             "/local/domain/0/backend/vif/1/0/type = \"vif\"   (n0,r1)",
             "/local/domain/1 = \"\"   (n0,r1)",
             "/local/domain/1/name = \"guest\"   (n0,r1)",
             "/local/domain/1/data = \"\"   (n1)",
             "/local/domain/1/device/vif/0 = \"\"   (n1,r0)",
             "/local/domain/1/device/vif/0/backend = \"/local/domain/0/backend/vif/1/0\"   (n1,r0)",
             "/local/domain/1/device/vif/0/backend-id = \"0\"   (n1,r0)",
             "/local/domain/1/device/vif/0/state = \"1\"   (n1,r0)",
             "/local/domain/1/device/vif/0/handle = \"0\"   (n1,r0)",
             "/local/domain/1/device/vif/0/mac = \"00:16:3e:01:02:03\"   (n1,r0)",
             "/local/domain/1/device/vif/0/trusted = \"1\"   (n1,r0)",
             "/local/domain/1/device/vif/0/mtu = \"1500\"   (n0,r1)",
             "/libxl/1/device/vif/0 = \"\"   (n0)",
             "/libxl/1/device/vif/0/state = \"1\"   (n0)",
         }) {
        EXPECT_THAT(tree, HasSubstr(std::string(line) + "\n"));
    }
    EXPECT_THAT(tree, Not(HasSubstr("hotplug-status")));
    EXPECT_THAT(machine("list").output,
                HasSubstr("vif 0 of domain 0: mac 00:16:3e:01:02:03, frontend state 1, backend state 2"));
    EXPECT_THAT(machine("list -J").output, AllOf(HasSubstr("\"backend_state\": 2"), HasSubstr("\"name\": \"guest\"")));

    auto closed = answer("5", "6");
    const Outcome detached = machine("detach 1 0");
    EXPECT_EQ(detached.status, 0) << detached.output;
    EXPECT_TRUE(closed.get());
    EXPECT_THAT(shell("xenstore-ls -f").output, Not(HasSubstr("vif/")));

    const std::string log = directory + "/watch.log";
    auto released = std::async(
        std::launch::async, [&log] { return shell("timeout 60 xenstore-watch -n 2 @releaseDomain >" + log).status; });
    // Every watch tells of its registration first.
    const auto seen = [&log](const char* events) { return shell("cat " + log).output == events; };
    EXPECT_TRUE(eventually([&] { return seen("@releaseDomain\n"); }));
    EXPECT_EQ(machine("destroy 1").status, 0);
    EXPECT_EQ(machine("destroy 2").status, 0);
    EXPECT_EQ(released.get(), 0);
    EXPECT_TRUE(seen("@releaseDomain\n@releaseDomain\n"));
    EXPECT_THAT(shell("xenstore-ls -f").output, Not(HasSubstr("/local/domain/1")));
    EXPECT_FALSE(std::filesystem::exists(directory + "/dom1"));

    EXPECT_EQ(machine("stop").status, 0);
    EXPECT_EQ(machine_->wait(), 0);
    EXPECT_FALSE(std::filesystem::exists(directory + "/admin"));
}

TEST_F(MachineCommandTest, MistakesAreOneSentence) {
    const std::pair<const char*, const char*> cases[] = {
        {"start", "runs in"},
        {"attach 1", "there is no domain 1"},
        {"attach 0 colour=blue", "the keys are mac"},
        {"detach 0 0", "domain 0 has no vif 0"},
        {"destroy 0", "domain 0 cannot be destroyed"},
        {"destroy 9", "there is no domain 9"},
        {"destroy x", "x"},
        {"create --nam", "--nam"},
        {"create --name ''", "1 to 64 printable"},
        {"create --name 'a\nb'", "1 to 64 printable"},
        {"create --name a/b", "1 to 64 printable"},
        {"attach 0 backend=99", "there is no domain 99"},
    };
    for (const auto& [arguments, why] : cases) {
        const Outcome outcome = machine(arguments);
        EXPECT_NE(outcome.status, 0) << arguments;
        EXPECT_THAT(outcome.output, HasSubstr(why)) << arguments;
    }
    EXPECT_THAT(shell(std::string(UVIF_MACHINE) + " start ''").output, HasSubstr("the path of a directory is needed"));
    for (const std::string command : {"", "dance", "create /nonexistent", "start /nonexistent/deep", "start /proc/x"}) {
        const Outcome outcome = shell(std::string(UVIF_MACHINE) + " " + command);
        EXPECT_NE(outcome.status, 0) << command;
        EXPECT_FALSE(outcome.output.empty());
    }
}

TEST_F(MachineCommandTest, AMachineThatWasKilledCanBeStartedAgain) {
    machine("create");
    machine_->send(SIGKILL);
    machine_->wait();
    EXPECT_THAT(machine("list").output, HasSubstr("no emulated machine answers"));
    start();
    EXPECT_FALSE(std::filesystem::exists(directory + "/dom1"));
    EXPECT_EQ(machine("create").output, "1\n");
    machine_->send(SIGTERM);
    EXPECT_EQ(machine_->wait(), 0);
}

}  // namespace
}  // namespace uvif::test
