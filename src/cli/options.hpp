// SPDX-License-Identifier: MIT
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "runtime/loop.hpp"
#include "uvif/error.hpp"

namespace uvif::cli {

/// An option that takes one of some words. CLI11's own transformer prints enumerations as the characters of their
/// numbers.
template <class T>
CLI::Option* add_choice(CLI::App& app, const std::string& name, T& value, const std::map<std::string, T>& choices,
                        const std::string& description) {
    return app
        .add_option_function<std::string>(
            name, [&value, choices](const std::string& text) { value = choices.at(text); }, description)
        ->check(CLI::IsMember(choices));
}

/// --loop
CLI::Option* add_loop(CLI::App& app, LoopKind& kind);

/// A check for options, which says of 1.5 that it is no whole number, where CLI::Range says it is out of range.
CLI::Validator whole_number(std::uint32_t least, std::uint32_t most);

/// --ready-fd: a descriptor at which whoever starts the program waits. Refused unless it is open now: later it may be
/// one of our own.
CLI::Option* add_ready_fd(CLI::App& app, int& fd, const std::string& description);

/// Writes `line` there and closes it; nothing when none was given (-1).
Result<void> tell_ready(int fd, std::string_view line);

}  // namespace uvif::cli
