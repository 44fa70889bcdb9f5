// SPDX-License-Identifier: MIT
#include "cli/options.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>

#include "xen/store_path.hpp"

namespace uvif::cli {

CLI::Option* add_loop(CLI::App& app, LoopKind& kind) {
    const std::map<std::string, LoopKind> loops{
        {"auto", LoopKind::automatic}, {"io_uring", LoopKind::io_uring}, {"epoll", LoopKind::epoll}};
    return add_choice(app, "--loop", kind, loops, "event loop")->default_str("auto");
}

CLI::Validator whole_number(std::uint32_t least, std::uint32_t most) {
    const auto objection = [=](const std::string& text) {
        const auto number = xen::parse_decimal(text, most);
        return number && *number >= least ? ""
                                          : fmt::format("'{}' is no whole number from {} to {}", text, least, most);
    };
    return {objection, fmt::format("{} to {}", least, most)};
}

CLI::Option* add_ready_fd(CLI::App& app, int& fd, const std::string& description) {
    const auto objection = [](const std::string& text) {
        const auto number = xen::parse_decimal(text, INT_MAX);
        const int mode = number ? ::fcntl(static_cast<int>(*number), F_GETFL) : -1;
        return mode >= 0 && (mode & O_ACCMODE) != O_RDONLY
                   ? ""
                   : fmt::format("'{}' is no descriptor that is open for writing", text);
    };
    return app.add_option("--ready-fd", fd, description)->check(CLI::Validator(objection, ""));
}

Result<void> tell_ready(int fd, std::string_view line) {
    if (fd < 0) {
        return {};
    }
    if (::write(fd, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
        return fail(errno, fmt::format("cannot write to the --ready-fd {}: {}", fd, std::strerror(errno)));
    }
    ::close(fd);
    return {};
}

}  // namespace uvif::cli
