// SPDX-License-Identifier: MIT
//
// uvif-perf and uvif-ctl as people run them: whole programs, whole lives. Nothing here depends on a rate.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <future>
#include <nlohmann/json.hpp>
#include <string>

#include "uvif_perf_process.hpp"

namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

struct Ended {
    int status;
    std::string output;  ///< stdout and stderr
};

Ended run(const std::string& command) {
    Ended ended{-1, ""};
    FILE* pipe = ::popen((command + " 2>&1").c_str(), "re");
    std::array<char, 4096> chunk;
    while (pipe != nullptr && ::fgets(chunk.data(), chunk.size(), pipe) != nullptr) {
        ended.output += chunk.data();
    }
    const int status = pipe == nullptr ? -1 : ::pclose(pipe);
    ended.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return ended;
}

json measure(const std::string& options) {
    const Ended ended = run(UVIF_PERF " --self -J -t 0.3 " + options);
    EXPECT_EQ(ended.status, 0) << ended.output;
    EXPECT_EQ(std::ranges::count(ended.output, '\n'), 1) << ended.output;
    return json::parse(ended.output, nullptr, false);
}

/// What is true of every run.
void check(const json& report, const std::string& mode, unsigned size) {
    ASSERT_TRUE(report.is_object());
    EXPECT_EQ(report.at("start").at("test_start").at("mode"), mode);
    const json& sum = report.at("end").at("sum");
    EXPECT_GT(sum.at("packets"), 0);
    EXPECT_EQ(sum.at("bytes").get<std::uint64_t>(), sum.at("packets").get<std::uint64_t>() * size);
    EXPECT_GT(sum.at("pps").get<double>(), 0);
    EXPECT_GT(sum.at("hypercalls_per_packet").get<double>(), 0);
    EXPECT_EQ(sum.at("dropped_packets"), 0);
    EXPECT_GT(report.at("end").at("cpu_utilization_percent").at("guest").get<double>(), 0);
    EXPECT_GT(report.at("end").at("cpu_utilization_percent").at("backend").get<double>(), 0);
}

std::size_t directories_left() {
    std::size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::temp_directory_path())) {
        count += entry.path().filename().string().starts_with("uvif-perf-") ? 1 : 0;
    }
    return count;
}

/// A directory for temporary files that only this test uses.
class PerfCommand : public testing::Test {
protected:
    void SetUp() override {
        std::string made = testing::TempDir() + "uvif-cmd-XXXXXX";
        ASSERT_NE(::mkdtemp(made.data()), nullptr);
        directory_ = made;
        ::setenv("TMPDIR", made.c_str(), 1);
    }
    void TearDown() override {
        EXPECT_EQ(directories_left(), 0U);
        ::unsetenv("TMPDIR");
        std::filesystem::remove_all(directory_);
    }
    std::filesystem::path directory_;
};

TEST_F(PerfCommand, MeasuresTx) {
    check(measure("--tx"), "tx", 64);
}

TEST_F(PerfCommand, MeasuresRx) {
    check(measure("--rx --size 1496"), "rx", 1496);
}

/// One fits in a page, but not from any place in it.
TEST_F(PerfCommand, MeasuresPacketsThatFillAPage) {
    const json page = measure("--tx --size 4096");
    check(page, "tx", 4096);
    EXPECT_GT(page.at("end").at("sum").at("packets").get<std::uint64_t>(), 100U);
}

TEST_F(PerfCommand, MeasuresEchoes) {
    check(measure("--echo --size 200"), "echo", 200);
}

TEST_F(PerfCommand, MeasuresTheLargestPacketsBothWays) {
    check(measure("--tx --size 65535"), "tx", 65535);
    check(measure("--rx --size 65535"), "rx", 65535);
    check(measure("--echo --size 65535"), "echo", 65535);
}

TEST_F(PerfCommand, MeasuresMappedPages) {
    const json report = measure("--tx --size 9000 --strategy map");
    check(report, "tx", 9000);
    EXPECT_EQ(report.at("start").at("test_start").at("strategy"), "map");
    EXPECT_LT(report.at("end").at("sum").at("copied_bytes_per_byte").get<double>(), 0.1);
}

/// With static grants, of each packet only its headers are read.
TEST_F(PerfCommand, MeasuresHeadersInAnAreaOfTheirOwn) {
    for (const unsigned size : {64U, 1496U, 65535U}) {
        const json report = measure("--tx --header-area --strategy static --size " + std::to_string(size));
        check(report, "tx", size);
        EXPECT_EQ(report.at("start").at("test_start").at("header_area"), true);
        const json& sum = report.at("end").at("sum");
        EXPECT_NEAR(sum.at("copied_bytes_per_byte").get<double>() * size, size == 64 ? 64 : 66, 0.01);
    }
    check(measure("--tx --header-area --strategy map --size 9000"), "tx", 9000);
    check(measure("--tx --header-area --size 1496"), "tx", 1496);
}

TEST_F(PerfCommand, MeasuresPersistentGrants) {
    const json report = measure("--tx --size 9000 --strategy persistent -O 0.3");
    check(report, "tx", 9000);
    EXPECT_EQ(report.at("start").at("test_start").at("strategy"), "persistent");
    EXPECT_LT(report.at("end").at("sum").at("copied_bytes_per_byte").get<double>(), 0.1);
}

TEST_F(PerfCommand, MeasuresSeveralQueuesOfOneChannelOnEpoll) {
    const json report = measure("--echo --queues 3 --no-split --loop epoll");
    check(report, "echo", 64);
    EXPECT_EQ(report.at("start").at("test_start").at("queues"), 3);
}

TEST_F(PerfCommand, MeasuresAChargedMachineThatNeverSpins) {
    check(measure("--echo --charged --spin-us 0"), "echo", 64);
}

TEST_F(PerfCommand, TellsRoundTrips) {
    const json report = measure("--echo --latency -O 0.1");
    const json& latency = report.at("end").at("latency_us");
    EXPECT_GT(latency.at("p50").get<double>(), 0);
    EXPECT_LE(latency.at("p50").get<double>(), latency.at("p99").get<double>());
    EXPECT_LE(latency.at("p99").get<double>(), latency.at("max").get<double>());
}

TEST_F(PerfCommand, LeavesTheOmittedSecondsOut) {
    const json report = measure("--tx -O 0.3 -i 0.1");
    std::uint64_t counted = 0;
    bool omitted = false;
    for (const json& interval : report.at("intervals")) {
        if (interval.at("omitted").get<bool>()) {
            omitted = true;
        } else {
            counted += interval.at("packets").get<std::uint64_t>();
        }
    }
    EXPECT_TRUE(omitted);
    EXPECT_EQ(counted, report.at("end").at("sum").at("packets"));
}

TEST_F(PerfCommand, PrintsForPeople) {
    const Ended ended = run(UVIF_PERF " --self --rx -t 0.3");
    EXPECT_EQ(ended.status, 0);
    EXPECT_THAT(ended.output, HasSubstr("Mpps"));
    EXPECT_THAT(ended.output, HasSubstr("backend:"));
}

TEST_F(PerfCommand, SumsUpWhenInterrupted) {
    const Ended ended = run("timeout --preserve-status -s INT 2 " UVIF_PERF " --self --tx -t 1000 -i 0.2");
    EXPECT_EQ(ended.status, 0);
    EXPECT_THAT(ended.output, HasSubstr("backend:"));
    EXPECT_THAT(ended.output, Not(HasSubstr("uvif-perf: ")));
}

TEST_F(PerfCommand, RefusesWhatMakesNoSense) {
    for (const auto* options :
         {"", "--tx --rx", "--tx --latency", "--rx --header-area", "--tx --size 59", "--tx --size 65536", "--tx -t 0",
          "--tx --queues 0", "--tx --strategy map", "--self --tx --control x", "--nonsense",
          "--self --tx --strategy teleport", "--tx --hypervisor emulated:/nowhere/dom1"}) {
        const Ended ended = run(std::string(UVIF_PERF " ") + options);
        EXPECT_GT(ended.status, 0) << options;
        EXPECT_FALSE(ended.output.empty()) << options;
    }
}

TEST_F(PerfCommand, LeavesToTheBackendWhatIsTheBackends) {
    EXPECT_THAT(run(UVIF_PERF " --tx --strategy map").output, HasSubstr("needs --self"));
}

/// A machine with a sink for a backend, and one guest.
class RunningMachine : public PerfCommand {
protected:
    void SetUp() override {
        PerfCommand::SetUp();
        const std::string folder = (directory_ / "m").string();
        auto machine = uvif::perf::ChildProcess::start({UVIF_MACHINE, "start", folder}, {});
        ASSERT_TRUE(machine);
        machine_ = std::move(*machine);
        ASSERT_TRUE(eventually(UVIF_MACHINE " list " + folder));
        ASSERT_EQ(run(UVIF_MACHINE " create " + folder).output, "1\n");
        dom0_ = "emulated:" + folder + "/dom0";
        start_backend();
        ctl_ = UVIF_CTL " --hypervisor emulated:" + folder + "/dom0 ";
        guest_ = " --hypervisor emulated:" + folder + "/dom1 ";
        ASSERT_TRUE(eventually(ctl_ + "version"));
        EXPECT_THAT(run(ctl_ + "list").output, HasSubstr("no vifs"));
        ASSERT_EQ(run(UVIF_MACHINE " attach " + folder + " 1").status, 0);
    }
    void TearDown() override {
        backend_.stop();
        machine_.stop();
        PerfCommand::TearDown();
    }
    void start_backend() {
        auto backend =
            uvif::perf::ChildProcess::start({UVIF_NETBACK, "--hypervisor", dom0_, "--port", "null:sink"}, {});
        ASSERT_TRUE(backend);
        backend_ = std::move(*backend);
    }
    static bool eventually(const std::string& command) {
        for (int i = 0; i < 600; ++i) {
            if (run(command).status == 0) {
                return true;
            }
            ::poll(nullptr, 0, 50);
        }
        return false;
    }

    uvif::perf::ChildProcess machine_;
    uvif::perf::ChildProcess backend_;
    std::string dom0_;
    std::string ctl_;
    std::string guest_;
};

TEST_F(RunningMachine, AnIdleVifCostsNoCpu) {
    const Ended ended = run(UVIF_PERF + guest_ + "--rx -t 3 -i 0 -J");
    EXPECT_EQ(ended.status, 1);
    EXPECT_THAT(ended.output, HasSubstr("no packet arrived"));
    const json report = json::parse(ended.output.substr(ended.output.find('{')), nullptr, false);
    ASSERT_TRUE(report.is_object()) << ended.output;
    // Spinning would be 100. The rest is what the loaded machine of a test makes of waking up for a signal or two.
    EXPECT_LT(report.at("end").at("cpu_utilization_percent").at("guest").get<double>(), 20);
    EXPECT_LT(report.at("end").at("cpu_utilization_percent").at("backend").get<double>(), 20);
}

TEST_F(RunningMachine, ShowsVifsAndCounters) {
    const Ended listed = run(ctl_ + "list");
    EXPECT_THAT(listed.output, HasSubstr("vif1.0"));
    EXPECT_THAT(listed.output, HasSubstr("InitWait"));
    const json vifs = json::parse(run(ctl_ + "list -J").output, nullptr, false);
    ASSERT_TRUE(vifs.is_array());
    EXPECT_EQ(vifs.at(0).at("name"), "vif1.0");
    EXPECT_THAT(run(ctl_ + "show vif1.0").output, HasSubstr("name: vif1.0"));

    auto guest = uvif::perf::ChildProcess::start(
        {"/bin/sh", "-c", "exec " UVIF_PERF + guest_ + "--tx -t 1000 -i 0 >/dev/null 2>&1"}, {});
    ASSERT_TRUE(guest);
    ASSERT_TRUE(eventually(ctl_ + "stats vif1.0 | grep -q '^tx_packets: '"));
    const std::string some = run(ctl_ + "stats vif1.0").output;
    EXPECT_THAT(some, Not(HasSubstr("rx_packets")));  // counters of 0 are not worth a line
    EXPECT_THAT(run(ctl_ + "stats -a vif1.0").output, HasSubstr("rx_packets: 0\n"));
    EXPECT_THAT(run(ctl_ + "stats -a vif1.0").output, HasSubstr("tx_drop_too_many_slots: 0 (packet of"));
    EXPECT_THAT(run(ctl_ + "show vif1.0").output, HasSubstr("TX-PACKETS"));
    guest->stop();
}

TEST_F(RunningMachine, SaysWhatCannotBeShown) {
    const Ended unknown = run(ctl_ + "show vif9.9");
    EXPECT_EQ(unknown.status, 1);
    EXPECT_THAT(unknown.output, HasSubstr("there is no vif 'vif9.9'"));
    const Ended nobody = run(UVIF_CTL " --control /nowhere/at/all list");
    EXPECT_EQ(nobody.status, 1);
    EXPECT_THAT(nobody.output, HasSubstr("nobody listens"));
    EXPECT_GT(run(UVIF_CTL).status, 0);
    EXPECT_GT(run(UVIF_CTL " show").status, 0);
}

TEST_F(RunningMachine, ABackendThatIsRestartedLeavesTheReportWhole) {
    auto guest = std::async(std::launch::async, [this] { return run(UVIF_PERF + guest_ + "--tx -t 6 -i 0.5 -J"); });
    ASSERT_TRUE(eventually(ctl_ + "stats vif1.0 | grep -q '^tx_packets: '"));
    backend_.stop();
    start_backend();
    const Ended ended = guest.get();
    EXPECT_EQ(ended.status, 0) << ended.output;
    const json report = json::parse(ended.output, nullptr, false);
    ASSERT_TRUE(report.is_object()) << ended.output;
    EXPECT_THAT(report.at("start").at("notes").dump(), HasSubstr("the backend was restarted"));
    EXPECT_GT(report.at("end").at("sum").at("packets"), 0);
    EXPECT_FALSE(report.at("end").at("sum").contains("dropped_packets")) << "nobody has counted them all";
    EXPECT_TRUE(report.at("intervals").back().contains("dropped_packets")) << "the new one is not asked";
}

TEST_F(RunningMachine, ASignalEndsTheWaitForABackend) {
    backend_.stop();
    const Ended ended = run("timeout --preserve-status -s INT 1 " UVIF_PERF + guest_ + "--tx");
    EXPECT_EQ(ended.status, 1);
    EXPECT_THAT(ended.output, HasSubstr("uvif-perf: interrupted while waiting for the backend"));
}

TEST_F(RunningMachine, ABackendThatDiesEndsTheRunWithASentence) {
    // Killed, so that it cannot say goodbye.
    const pid_t backend = backend_.pid();
    std::string command = UVIF_PERF + guest_ + "--tx -t 1000 -i 0.2 & p=$!; ";
    command += "until " + ctl_ + "stats vif1.0 | grep -q '^tx_packets: '; do sleep 0.1; done; ";
    command += "kill -KILL " + std::to_string(backend) + "; wait $p";
    const Ended ended = run("(" + command + ")");
    EXPECT_EQ(ended.status, 1);
    EXPECT_THAT(ended.output, HasSubstr("uvif-perf: lost sight of the backend"));
}

}  // namespace
