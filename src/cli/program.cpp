// SPDX-License-Identifier: MIT
#include "cli/program.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>

#include "runtime/log.hpp"

namespace uvif::cli {
namespace {

/// A standard stream that the caller closed would be the next descriptor to be opened, perhaps a socket: what is
/// printed would go there. Writing to this stdout fails, as it should.
void fill_closed_streams() noexcept {
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
        if (::fcntl(fd, F_GETFD) < 0) {
            [[maybe_unused]] const int lowest = ::open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY);
        }
    }
}

/// In one line, whatever strangers contributed to it.
void complain(const std::string& program, const std::string& message) {
    std::fputs(log_line(LogLevel::info, false, fmt::format("{}: {}", program, message)).c_str(), stderr);
}

/// Why something that was printed did not leave us, or nothing.
std::string output_failure() {
    if (std::fflush(stdout) != 0) {
        return std::strerror(errno);
    }
    return std::ferror(stdout) != 0 ? "an earlier part was refused" : "";
}

}  // namespace

int run(CLI::App& app, int argc, char** argv, const std::function<Result<void>()>& body) {
    fill_closed_streams();
    const std::string name = app.get_name();
    if (app.get_version_ptr() == nullptr) {
        app.set_version_flag("--version", name + " " + UVIF_VERSION);
    }
    app.failure_message([](const CLI::App* failed, const CLI::Error& error) {
        const std::string& program = failed->get_name();
        return log_line(LogLevel::info, false,
                        fmt::format("{}: {}; see {} --help", program, printable(error.what(), 256), program));
    });
    int status = 0;
    try {
        app.parse(argc, argv);
        if (const auto done = body(); !done) {
            complain(name, done.error().message);
            status = 1;
        }
    } catch (const CLI::ParseError& error) {
        status = app.exit(error) == 0 ? 0 : 2;  // --help and --version are 0; CLI11 numbers its errors
    } catch (const std::exception& error) {     // no memory, no more threads, or stdout, of which more below
        if (std::ferror(stdout) == 0) {
            complain(name, error.what());
        }
        status = 1;
    }
    if (const std::string failure = output_failure(); !failure.empty()) {
        complain(name, fmt::format("cannot write to the standard output: {}; give it a file or a pipe that takes all",
                                   failure));
        return 1;
    }
    return status;
}

}  // namespace uvif::cli
