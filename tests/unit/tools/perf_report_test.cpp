// SPDX-License-Identifier: MIT
#include "uvif_perf_report.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "netback/statistics.hpp"
#include "uvif_perf_machine.hpp"

namespace uvif::perf {
namespace {

Sample sample_at(std::int64_t seconds) {
    Sample sample;
    sample.time_ns = seconds * 1'000'000'000;
    return sample;
}

/// Two seconds of TX: the guest queued 110 packets, 106 are answered, 1 of them with an error; the backend saw 100.
std::pair<Sample, Sample> two_seconds() {
    Sample from = sample_at(1);
    from.guest = {.tx_packets = 1000,
                  .tx_bytes = 64'000,
                  .tx_errors = 5,
                  .answered_packets = 990,
                  .rx_packets = 10,
                  .rx_bytes = 1000,
                  .notifications = 7,
                  .lost = 0};
    from.guest_cpu_ns = 0;
    Sample to = sample_at(3);
    to.guest = {.tx_packets = 1110,
                .tx_bytes = 71'040,
                .tx_errors = 6,
                .answered_packets = 1096,
                .rx_packets = 60,
                .rx_bytes = 6000,
                .notifications = 12,
                .lost = 3};
    to.guest_cpu_ns = 1'000'000'000;
    return {from, to};
}

void add_backend(Sample& from, Sample& to) {
    from.backend.emplace();
    to.backend.emplace();
    to.backend->tx_packets = 100;
    to.backend->tx_bytes = 6400;
    to.backend->rx_packets = 51;
    to.backend->notifications = 5;
    to.backend->copy_calls = 10;
    to.backend->map_calls = 3;
    to.backend->unmap_calls = 2;
    to.backend->copied_bytes = 3200;
    to.backend->drops = 4;
    from.backend_cpu_ns = 500'000'000;
    to.backend_cpu_ns = 1'000'000'000;
}

TEST(Figures, CountTxWhereItArrives) {
    auto [from, to] = two_seconds();
    add_backend(from, to);
    const Figures figures = Figures::between(Mode::tx, sample_at(0), from, to);
    EXPECT_EQ(figures.packets, 100U);
    EXPECT_EQ(figures.bytes, 6400U);
    EXPECT_EQ(figures.guest_packets, 110U);
    EXPECT_DOUBLE_EQ(figures.start_s, 1);
    EXPECT_DOUBLE_EQ(figures.end_s, 3);
    EXPECT_DOUBLE_EQ(figures.pps(), 50);
    EXPECT_DOUBLE_EQ(figures.bits_per_second(), 6400 * 8 / 2.0);
    EXPECT_DOUBLE_EQ(figures.guest_cpu_percent, 50);
    EXPECT_DOUBLE_EQ(figures.per_packet(figures.frontend_notifications), 0.05);
    ASSERT_TRUE(figures.backend);
    EXPECT_EQ(figures.backend->packets, 100U);
    EXPECT_EQ(figures.backend->notifications, 5U);
    EXPECT_EQ(figures.backend->hypercalls, 20U);
    EXPECT_EQ(figures.backend->copied_bytes, 3200U);
    EXPECT_EQ(figures.backend->drops, 4U);
    ASSERT_TRUE(figures.backend->cpu_percent);
    EXPECT_DOUBLE_EQ(*figures.backend->cpu_percent, 25);
}

TEST(Figures, CountTxByGoodAnswersWhereTheBackendIsOutOfReach) {
    const auto [from, to] = two_seconds();
    const Figures figures = Figures::between(Mode::tx, sample_at(0), from, to);
    EXPECT_EQ(figures.packets, 105U);
    EXPECT_EQ(figures.bytes, 105U * 64);
    EXPECT_FALSE(figures.backend);
}

TEST(Figures, CountRxAtTheGuest) {
    auto [from, to] = two_seconds();
    add_backend(from, to);
    const Figures figures = Figures::between(Mode::rx, sample_at(0), from, to);
    EXPECT_EQ(figures.packets, 50U);
    EXPECT_EQ(figures.bytes, 5000U);
    EXPECT_EQ(figures.guest_packets, 50U);
    EXPECT_EQ(figures.backend->packets, 51U);
}

TEST(Figures, CountEchoesThatCameBack) {
    auto [from, to] = two_seconds();
    const Figures figures = Figures::between(Mode::echo, sample_at(0), from, to);
    EXPECT_EQ(figures.packets, 50U);
    EXPECT_EQ(figures.guest_packets, 110U);
    EXPECT_EQ(figures.lost, 3U);
}

TEST(Figures, DivideByNothingWithoutHarm) {
    const Figures figures = Figures::between(Mode::tx, sample_at(0), sample_at(0), sample_at(0));
    EXPECT_EQ(figures.pps(), 0);
    EXPECT_EQ(figures.bits_per_second(), 0);
    EXPECT_EQ(figures.per_packet(5), 0);
}

TEST(BackendCounters, ReadsWhatTheDaemonPrints) {
    netback::QueueStatistics statistics;
    statistics.tx.packets = 1;
    statistics.tx.bytes = 2;
    statistics.tx.copied_bytes = 3;
    statistics.rx.copied_bytes = 4;
    statistics.tx.copy_calls = 5;
    statistics.rx.copy_calls = 6;
    statistics.tx.notify_calls = 7;
    statistics.rx.notify_calls = 8;
    statistics.tx.drops[0] = 9;
    statistics.rx.drops[1] = 10;
    statistics.port.submit_dropped = 11;
    statistics.tx.map_calls = 12;
    statistics.tx.unmap_calls = 13;
    const BackendCounters counters = BackendCounters::from(to_json(statistics));
    EXPECT_EQ(counters.tx_packets, 1U);
    EXPECT_EQ(counters.tx_bytes, 2U);
    EXPECT_EQ(counters.copied_bytes, 7U);
    EXPECT_EQ(counters.copy_calls, 11U);
    EXPECT_EQ(counters.notifications, 15U);
    EXPECT_EQ(counters.drops, 30U);
    EXPECT_EQ(counters.map_calls, 12U);
    EXPECT_EQ(counters.unmap_calls, 13U);
}

TEST(Placement, GivesEachSideACore) {
    const Placement placement = Placement::choose({2, 5}, 1);
    EXPECT_EQ(placement.backend, std::vector{2});
    EXPECT_EQ(placement.guest, std::vector{5});
    EXPECT_EQ(placement.note, "");
}

TEST(Placement, GivesEachQueueItsOwnWhereThereAreEnough) {
    const Placement placement = Placement::choose({0, 1, 2, 3, 4}, 2);
    EXPECT_EQ(placement.backend, (std::vector{0, 1}));
    EXPECT_EQ(placement.guest, (std::vector{2, 3}));
}

TEST(Placement, SaysWhenQueuesShareCores) {
    const Placement placement = Placement::choose({0, 1}, 4);
    EXPECT_EQ(placement.backend, std::vector{0});
    EXPECT_EQ(placement.guest, std::vector{1});
    EXPECT_NE(placement.note.find("4 queues share 1 core"), std::string::npos);
}

TEST(Placement, PinsNothingOnOneCore) {
    const Placement placement = Placement::choose({0}, 1);
    EXPECT_TRUE(placement.backend.empty());
    EXPECT_TRUE(placement.guest.empty());
    EXPECT_NE(placement.note, "");
}

}  // namespace
}  // namespace uvif::perf
