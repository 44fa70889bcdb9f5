// SPDX-License-Identifier: MIT
#pragma once

#include <expected>
#include <string>
#include <utility>

namespace uvif {

/// What went wrong on a control path: an errno value for programs and one sentence for people,
/// which names what failed, why, and where possible the remedy.
/// Data paths never build one: they return verdicts and count (see netback/counters.hpp).
struct Error {
    int code = 0;         ///< errno value; never 0
    std::string message;  ///< one sentence, no trailing full stop, no newline
};

template <class T = void>
using Result = std::expected<T, Error>;

[[nodiscard]] inline std::unexpected<Error> fail(int code, std::string message) {
    return std::unexpected<Error>(Error{code, std::move(message)});
}

/// Passes the error of one result on as the error of another.
template <class T>
[[nodiscard]] std::unexpected<Error> propagate(Result<T>& failed) {
    return std::unexpected<Error>(std::move(failed.error()));
}

}  // namespace uvif
