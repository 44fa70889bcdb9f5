// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>

#include "runtime/clock.hpp"
#include "runtime/limits.hpp"
#include "runtime/printable.hpp"

/// The log: lines on stderr, one write() each, so that lines of different threads do not mix. With systemd's
/// JOURNAL_STREAM in the environment each begins with its syslog priority, as sd-daemon(3) describes.
/// Thread rule: any thread. Never from a data path.
namespace uvif {

enum class LogLevel : std::uint8_t { error, warning, info, debug };

/// Lines beyond `level` are not written. The default is `info`.
void set_log_level(LogLevel level) noexcept;
[[nodiscard]] bool log_enabled(LogLevel level) noexcept;

/// Bounds what one source can make us write: a token bucket. Put one beside whatever a guest or a peer can
/// trigger; the next line that passes tells how many did not.
class LogBudget {
public:
    explicit LogBudget(unsigned burst = limits::log_burst, std::int64_t interval_ns = limits::log_interval_ns) noexcept
        : burst_(burst), interval_ns_(interval_ns), tokens_(burst) {}

    /// Takes a token. On success `suppressed` is how many lines were refused since the last success.
    [[nodiscard]] bool take(std::int64_t now_ns, std::uint64_t& suppressed) noexcept;

private:
    std::mutex mutex_;
    const unsigned burst_;
    const std::int64_t interval_ns_;
    unsigned tokens_;
    std::int64_t refilled_ns_ = 0;
    std::uint64_t suppressed_ = 0;
};

/// The line as it is written, with its newline; control characters become spaces. Separate for tests.
[[nodiscard]] std::string log_line(LogLevel level, bool journal, std::string_view message);

namespace detail {
void write_log(LogLevel level, fmt::string_view format, fmt::format_args arguments, LogBudget* budget) noexcept;
}

template <class... Arguments>
void log(LogLevel level, fmt::format_string<Arguments...> format, Arguments&&... arguments) noexcept {
    if (log_enabled(level)) {
        detail::write_log(level, format, fmt::make_format_args(arguments...), nullptr);
    }
}

/// For anything that a guest, a peer or the store can trigger.
template <class... Arguments>
void log(LogBudget& budget, LogLevel level, fmt::format_string<Arguments...> format,
         Arguments&&... arguments) noexcept {
    if (log_enabled(level)) {
        detail::write_log(level, format, fmt::make_format_args(arguments...), &budget);
    }
}

}  // namespace uvif
