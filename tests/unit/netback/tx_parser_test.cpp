// SPDX-License-Identifier: MIT
//
// The verdict table: one row for each line of the rules that Linux netback applies to a guest's TX packets.
#include "netback/tx_parser.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

namespace uvif::netback {
namespace {

using ring::ExtraInfo;
using ring::TxFlags;
using ring::TxRequest;
using ring::TxSlot;
using Verdict = TxFrame::Verdict;

/// A packet of `data` slots of 100 octets with `extras` extra slots, honest unless a row changes it.
struct Script {
    std::vector<TxRequest> data;
    std::vector<ExtraInfo> extras;

    static Script honest(std::size_t data_slots, std::size_t extra_slots = 0) {
        Script s;
        s.data.resize(data_slots);
        for (std::size_t i = 0; i < data_slots; ++i) {
            s.data[i] = {.gref = 8, .offset = 0, .flags = {}, .id = static_cast<std::uint16_t>(i), .size = 100};
            s.data[i].flags.bits = i + 1 < data_slots ? TxFlags::more_data : std::uint16_t{0};
        }
        s.data[0].size = static_cast<std::uint16_t>(100 * data_slots);
        s.extras.resize(extra_slots, ExtraInfo::gso(GsoType::tcpv4, 1448));
        for (std::size_t i = 0; i + 1 < extra_slots; ++i) {
            s.extras[i].flags = ExtraInfo::more;
        }
        if (extra_slots != 0) {
            s.data[0].flags.bits |= TxFlags::extra_info;
        }
        return s;
    }
    [[nodiscard]] std::vector<TxSlot> slots() const {
        std::vector<TxSlot> result{TxSlot::from(data[0])};
        for (const ExtraInfo& extra : extras) {
            result.push_back(TxSlot::from(extra));
        }
        for (std::size_t i = 1; i < data.size(); ++i) {
            result.push_back(TxSlot::from(data[i]));
        }
        return result;
    }
};

struct Row {
    std::string name;
    Script script;
    Verdict verdict;
    TxDrop drop = TxDrop::count;
    Rogue rogue = Rogue::none;
    std::size_t hidden = 0;  // slots at the end that are not published
};

Row row(std::string name, Script script, const std::function<void(Script&)>& change, Verdict verdict,
        TxDrop drop = TxDrop::count, Rogue rogue = Rogue::none, std::size_t hidden = 0) {
    change(script);
    return {std::move(name), std::move(script), verdict, drop, rogue, hidden};
}

void PrintTo(const Row& r, std::ostream* out) {
    *out << r.name;
}

std::vector<Row> table() {
    const auto keep = [](Script&) {};
    const auto A = Verdict::accept;
    const auto D = Verdict::drop;
    const auto R = Verdict::rogue;
    const auto none = TxDrop::count;
    return {
        row("one_slot", Script::honest(1), keep, A),
        row("nineteen_slots", Script::honest(19), keep, A),
        row("twenty_slots", Script::honest(20), keep, D, TxDrop::too_many_slots),
        row("twentyone_slots", Script::honest(21), keep, D, TxDrop::too_many_slots),
        row("twentytwo_slots", Script::honest(22), keep, R, none, Rogue::absurd_slot_count),
        row(
            "extra_chain_past_producer", Script::honest(1, 1), [](Script& s) { s.extras[0].flags = ExtraInfo::more; },
            R, none, Rogue::extra_chain_open),
        row("extra_missing", Script::honest(1, 1), keep, R, none, Rogue::extra_chain_open, 1),
        row(
            "extra_type_0", Script::honest(2, 1), [](Script& s) { s.extras[0].type = 0; }, R, none,
            Rogue::extra_type_invalid),
        row(
            "extra_type_5", Script::honest(2, 1), [](Script& s) { s.extras[0].type = 5; }, R, none,
            Rogue::extra_type_invalid),
        row(
            "extra_type_255", Script::honest(2, 1), [](Script& s) { s.extras[0].type = 255; }, R, none,
            Rogue::extra_type_invalid),
        row(
            "duplicate_extra_last_wins", Script::honest(2, 2),
            [](Script& s) { s.extras[0] = {.type = 1, .flags = ExtraInfo::more, .data = {}}; }, A),
        row(
            "hash_extra_ignored", Script::honest(1, 1),
            [](Script& s) { s.extras[0] = {.type = 4, .flags = 0, .data = {}}; }, A),
        row("data_chain_past_producer", Script::honest(3), keep, R, none, Rogue::data_chain_open, 1),
        row(
            "data_chain_never_ends", Script::honest(3), [](Script& s) { s.data[2].flags.bits = TxFlags::more_data; }, R,
            none, Rogue::data_chain_open),
        row(
            "continuation_larger_than_rest", Script::honest(3), [](Script& s) { s.data[1].size = 301; }, D,
            TxDrop::size_mismatch),
        row(
            "continuations_together_larger", Script::honest(3), [](Script& s) { s.data[0].size = 199; }, D,
            TxDrop::size_mismatch),
        row(
            "wrapped_64k", Script::honest(17),
            [](Script& s) {
                for (auto& d : s.data) {
                    d.size = 4096;
                }
                s.data[0].size = static_cast<std::uint16_t>(17 * 4096);
            },
            D, TxDrop::size_mismatch),
        row(
            "continuation_crosses_page", Script::honest(3), [](Script& s) { s.data[1].offset = 3997; }, R, none,
            Rogue::crosses_page),
        row(
            "continuation_ends_at_page", Script::honest(3), [](Script& s) { s.data[1].offset = 3996; }, A),
        row(
            "continuation_offset_65535", Script::honest(3), [](Script& s) { s.data[1].offset = 65535; }, R, none,
            Rogue::crosses_page),
        row(
            "crossing_outweighs_mismatch", Script::honest(3),
            [](Script& s) {
                s.data[1].size = 4000;
                s.data[1].offset = 4000;
            },
            R, none, Rogue::crosses_page),
        row(
            "first_13", Script::honest(1), [](Script& s) { s.data[0].size = 13; }, D, TxDrop::too_short),
        row(
            "first_0", Script::honest(1), [](Script& s) { s.data[0].size = 0; }, D, TxDrop::too_short),
        row(
            "first_14", Script::honest(1), [](Script& s) { s.data[0].size = 14; }, A),
        row(
            "first_rest_13", Script::honest(2), [](Script& s) { s.data[0].size = 113; }, D, TxDrop::too_short),
        row(
            "first_crosses_page", Script::honest(1), [](Script& s) { s.data[0].offset = 3997; }, R, none,
            Rogue::crosses_page),
        row(
            "first_size_counts_not_total", Script::honest(2), [](Script& s) { s.data[0].offset = 3996; }, A),
        row(
            "too_short_outweighs_first_crossing", Script::honest(1),
            [](Script& s) {
                s.data[0].size = 10;
                s.data[0].offset = 4090;
            },
            D, TxDrop::too_short),
        row(
            "gso_size_0", Script::honest(1, 1), [](Script& s) { s.extras[0] = ExtraInfo::gso(GsoType::tcpv4, 0); }, R,
            none, Rogue::gso_invalid),
        row(
            "gso_type_0", Script::honest(1, 1), [](Script& s) { s.extras[0] = ExtraInfo::gso(GsoType::none, 1448); }, R,
            none, Rogue::gso_invalid),
        row(
            "gso_type_3", Script::honest(1, 1), [](Script& s) { s.extras[0].data[2] = 3; }, R, none,
            Rogue::gso_invalid),
        row(
            "gso_tcpv6", Script::honest(2, 1), [](Script& s) { s.extras[0] = ExtraInfo::gso(GsoType::tcpv6, 1428); },
            A),
        row(
            "drop_outweighs_bad_gso", Script::honest(20, 1),
            [](Script& s) { s.extras[0] = ExtraInfo::gso(GsoType::tcpv4, 0); }, D, TxDrop::too_many_slots),
        row(
            "multicast_add", Script::honest(1, 1), [](Script& s) { s.extras[0].type = 2; }, Verdict::join),
        row(
            "multicast_del", Script::honest(1, 1), [](Script& s) { s.extras[0].type = 3; }, Verdict::leave),
        row(
            "multicast_of_any_size_anywhere", Script::honest(1, 1),
            [](Script& s) {
                s.extras[0].type = 2;
                s.data[0].size = s.data[0].offset = 0xffff;
            },
            Verdict::join),
        row(
            "multicast_outweighs_bad_gso", Script::honest(1, 2),
            [](Script& s) {
                s.extras[0] = {.type = 1, .flags = ExtraInfo::more, .data = {}};
                s.extras[1].type = 3;
            },
            Verdict::leave),
        row(
            "multicast_add_outweighs_del", Script::honest(1, 2),
            [](Script& s) {
                s.extras[0].type = 3;
                s.extras[1].type = 2;
            },
            Verdict::join),
        row(
            "multicast_chain_past_producer", Script::honest(1, 1),
            [](Script& s) { s.extras[0] = {.type = 2, .flags = ExtraInfo::more, .data = {}}; }, R, none,
            Rogue::extra_chain_open),
        row(
            "zero_size_continuation", Script::honest(3),
            [](Script& s) {
                s.data[1].size = 0;
                s.data[1].offset = 4096;
            },
            A),
    };
}

class TxVerdict : public testing::TestWithParam<Row> {};

TEST_P(TxVerdict, IsAsLinuxGivesIt) {
    const Row& r = GetParam();
    std::vector<TxSlot> slots = r.script.slots();
    const std::size_t whole = slots.size();
    slots.resize(whole - r.hidden);
    const TxFrame frame = parse_tx_frame(slots);
    EXPECT_EQ(frame.verdict, r.verdict);
    EXPECT_EQ(frame.drop, r.drop);
    EXPECT_EQ(frame.rogue, r.rogue);
    if (r.verdict != Verdict::rogue) {
        EXPECT_EQ(frame.slots(), whole) << "every slot is owed an answer";
    }
    // What stands behind the packet must not matter.
    slots.resize(256, TxSlot{{~0U, ~0U, ~0U}});
    if (r.rogue != Rogue::data_chain_open && r.rogue != Rogue::extra_chain_open) {
        const TxFrame again = parse_tx_frame(slots);
        EXPECT_EQ(again.verdict, frame.verdict);
        EXPECT_EQ(again.slots(), frame.slots());
    }
}

INSTANTIATE_TEST_SUITE_P(Table, TxVerdict, testing::ValuesIn(table()), [](const auto& p) { return p.param.name; });

/// As Linux netback: such a request has no data, so what follows is the next packet, and the last extra of a type
/// counts.
TEST(TxParser, TellsTheGroupAndLeavesTheSlotsBehind) {
    Script s = Script::honest(2, 3);
    s.extras[0] = ExtraInfo::multicast(ring::ExtraType::mcast_add, {1, 0, 0x5e, 0, 0, 1});
    s.extras[1] = ExtraInfo::multicast(ring::ExtraType::mcast_add, {1, 0, 0x5e, 0, 0, 2});
    s.extras[2] = ExtraInfo::multicast(ring::ExtraType::hash, {});
    s.extras[0].flags = s.extras[1].flags = ExtraInfo::more;
    const TxFrame frame = parse_tx_frame(s.slots());
    EXPECT_EQ(frame.verdict, Verdict::join);
    EXPECT_EQ(frame.group, (std::array<std::uint8_t, 6>{1, 0, 0x5e, 0, 0, 2}));
    EXPECT_EQ(frame.slots(), 4U);
}

TEST(TxParser, DescribesThePacket) {
    Script s = Script::honest(3, 2);
    s.data[0].flags.bits |= TxFlags::checksum_blank;
    s.extras[0].type = 4;
    const TxFrame frame = parse_tx_frame(s.slots());
    ASSERT_EQ(frame.verdict, Verdict::accept);
    EXPECT_EQ(frame.data_slots, 3U);
    EXPECT_EQ(frame.extra_slots, 2U);
    EXPECT_EQ(frame.length, 300U);
    EXPECT_EQ(frame.first_size, 100U);
    EXPECT_EQ(frame.data_at(0), 0U);
    EXPECT_EQ(frame.data_at(1), 3U);
    EXPECT_EQ(frame.offload,
              (Offload{.checksum_blank = true, .data_validated = false, .gso_type = GsoType::tcpv4, .gso_size = 1448}));
}

}  // namespace
}  // namespace uvif::netback
