// SPDX-License-Identifier: MIT
#include "runtime/log.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <iterator>
#include <utility>

namespace uvif {

namespace {

struct LevelName {
    std::string_view journal;  ///< syslog priority
    std::string_view terminal;
};

constexpr std::array<LevelName, 4> level_names{{
    {"<3>", "error: "},
    {"<4>", "warning: "},
    {"<6>", ""},
    {"<7>", "debug: "},
}};

std::atomic<LogLevel> threshold{LogLevel::info};

bool journal_listens() noexcept {
    static const bool listens = std::getenv("JOURNAL_STREAM") != nullptr;
    return listens;
}

constexpr bool is_control(char c) noexcept {
    const auto octet = static_cast<unsigned char>(c);
    return octet < 0x20 || octet == 0x7f;
}

}  // namespace

void set_log_level(LogLevel level) noexcept {
    threshold.store(level, std::memory_order_relaxed);
}

bool log_enabled(LogLevel level) noexcept {
    return level <= threshold.load(std::memory_order_relaxed);
}

bool LogBudget::take(std::int64_t now_ns, std::uint64_t& suppressed) noexcept {
    const std::lock_guard lock(mutex_);
    if (tokens_ == burst_) {
        refilled_ns_ = now_ns;
    } else if (const std::int64_t earned = (now_ns - refilled_ns_) / interval_ns_; earned > 0) {
        tokens_ += static_cast<unsigned>(std::min<std::int64_t>(earned, burst_ - tokens_));
        refilled_ns_ += earned * interval_ns_;
    }
    if (tokens_ == 0) {
        ++suppressed_;
        return false;
    }
    --tokens_;
    suppressed = std::exchange(suppressed_, 0);
    return true;
}

std::string log_line(LogLevel level, bool journal, std::string_view message) {
    const LevelName& name = level_names[static_cast<std::size_t>(level)];
    std::string line(journal ? name.journal : name.terminal);
    line += message.substr(0, limits::log_line);
    std::replace_if(line.begin(), line.end(), is_control, ' ');
    line.push_back('\n');
    return line;
}

namespace detail {

void write_log(LogLevel level, fmt::string_view format, fmt::format_args arguments, LogBudget* budget) noexcept {
    std::uint64_t suppressed = 0;
    if (budget != nullptr && !budget->take(monotonic_ns(), suppressed)) {
        return;
    }
    try {
        std::string message = fmt::vformat(format, arguments);
        if (suppressed > 0) {
            message.resize(std::min(message.size(), limits::log_line - 64));
            fmt::format_to(std::back_inserter(message), " ({} similar messages suppressed)", suppressed);
        }
        const std::string line = log_line(level, journal_listens(), message);
        // A log that cannot be written has nobody left to be told.
        [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
    } catch (...) {
        // Out of memory, or a formatter that throws: the line is lost, the program goes on.
    }
}

}  // namespace detail

}  // namespace uvif
