// SPDX-License-Identifier: MIT
// The commands as a user types them, against the program itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <future>
#include <regex>
#include <string>
#include <thread>

namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

struct Outcome {
    int status = -1;
    std::string output;  ///< both streams
};

Outcome shell(const std::string& command) {
    Outcome outcome;
    FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
    std::array<char, 4096> buffer;
    std::size_t got = 0;
    while ((got = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0) {
        outcome.output.append(buffer.data(), got);
    }
    const int status = ::pclose(pipe);
    outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
    return outcome;
}

class MachineCommandTest : public testing::Test {
protected:
    void SetUp() override {
        std::string pattern = (std::filesystem::temp_directory_path() / "uvif-XXXXXX").string();
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        directory = pattern + "/machine";
        ASSERT_EQ(::setenv("XENSTORED_PATH", (directory + "/dom0.xenstore").c_str(), 1), 0);
        start();
    }
    void TearDown() override {
        if (machine_ > 0) {
            ::kill(machine_, SIGKILL);
            ::waitpid(machine_, nullptr, 0);
        }
        std::filesystem::remove_all(std::filesystem::path(directory).parent_path());
    }

    void start() {
        std::array<int, 2> ready{};
        ASSERT_EQ(::pipe(ready.data()), 0);
        machine_ = ::fork();
        if (machine_ == 0) {
            ::close(ready[0]);
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // a test that crashes leaves nobody behind
            const std::string fd = std::to_string(ready[1]);
            ::execl(UVIF_MACHINE, "uvif-machine", "start", directory.c_str(), "--ready-fd", fd.c_str(), nullptr);
            ::_exit(127);
        }
        ::close(ready[1]);
        char line[8] = {};
        ASSERT_GT(::read(ready[0], line, sizeof line), 0);
        ::close(ready[0]);
    }
    int wait_for_end() {
        int status = 0;
        ::waitpid(std::exchange(machine_, 0), &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
    }
    Outcome machine(const std::string& arguments) const {
        const auto space = arguments.find(' ');
        const std::string rest = space == std::string::npos ? "" : arguments.substr(space);
        return shell(std::string(UVIF_MACHINE) + " " + arguments.substr(0, space) + " " + directory + rest);
    }
    static bool eventually(const std::function<bool()>& condition) {
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
        while (!condition()) {
            if (std::chrono::steady_clock::now() > deadline) {
                return false;
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
        }
        return true;
    }
    /// Plays the backend: answers `from` in its state by `to`.
    static std::future<bool> answer(const std::string& from, const std::string& to) {
        return std::async(std::launch::async, [=] {
            const std::string state = "/local/domain/0/backend/vif/1/0/state";
            return eventually([&] { return shell("xenstore-read " + state).output == from + "\n"; }) &&
                   shell("xenstore-write " + state + " " + to).status == 0;
        });
    }

    std::string directory;
    pid_t machine_ = 0;
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
    EXPECT_EQ(wait_for_end(), 0);
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
    };
    for (const auto& [arguments, why] : cases) {
        const Outcome outcome = machine(arguments);
        EXPECT_NE(outcome.status, 0) << arguments;
        EXPECT_THAT(outcome.output, HasSubstr(why)) << arguments;
    }
    for (const std::string command : {"", "dance", "create /nonexistent", "start /nonexistent/deep", "start /proc/x"}) {
        const Outcome outcome = shell(std::string(UVIF_MACHINE) + " " + command);
        EXPECT_NE(outcome.status, 0) << command;
        EXPECT_FALSE(outcome.output.empty());
    }
}

TEST_F(MachineCommandTest, AMachineThatWasKilledCanBeStartedAgain) {
    machine("create");
    ::kill(machine_, SIGKILL);
    wait_for_end();
    EXPECT_THAT(machine("list").output, HasSubstr("no emulated machine answers"));
    start();
    EXPECT_FALSE(std::filesystem::exists(directory + "/dom1"));
    EXPECT_EQ(machine("create").output, "1\n");
    ::kill(machine_, SIGTERM);
    EXPECT_EQ(wait_for_end(), 0);
}

}  // namespace
