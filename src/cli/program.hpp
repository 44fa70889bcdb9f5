// SPDX-License-Identifier: MIT
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "uvif/error.hpp"

/// What the command lines of all our programs have in common.
namespace uvif::cli {

/// Reads the options and runs `body`; returns the exit status. Whatever goes wrong is one line on stderr behind the
/// program's name and a status other than 0: options, what `body` returns or throws, and output that could not be
/// written. Adds --version, unless `app` has one.
int run(CLI::App& app, int argc, char** argv, const std::function<Result<void>()>& body);

}  // namespace uvif::cli
