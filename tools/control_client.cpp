// SPDX-License-Identifier: MIT
#include "control_client.hpp"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "runtime/printable.hpp"

namespace uvif::tools {
namespace {

constexpr timeval patience{.tv_sec = 10, .tv_usec = 0};
/// An answer is some kilobytes a queue, and a daemon has at most a few thousand vifs.
constexpr std::size_t answer_max = 16 << 20;

/// What went wrong with a connection, in words that help.
std::string reason(int error) {
    switch (error) {
        case ENOENT:
        case ECONNREFUSED:
            return "nobody listens there; is uvif-netback running, and is this the --control path it was given?";
        case EACCES:
            return "permission denied; run as the user that uvif-netback runs as";
        case EAGAIN:
            return "no answer within 10 s";
        default:
            return std::strerror(error);
    }
}

std::unexpected<Error> connection_error(const std::string& path, int error) {
    return fail(error == EAGAIN ? ETIMEDOUT : error,
                fmt::format("control socket {}: {}", printable(path, limits::log_line / 4), reason(error)));
}

}  // namespace

Result<ControlClient> ControlClient::connect(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof(address.sun_path)) {
        return fail(ENAMETOOLONG, fmt::format("the control socket {} is longer than the {} octets that a Unix socket "
                                              "allows: give a shorter --control",
                                              printable(path), sizeof(address.sun_path) - 1));
    }
    struct stat there{};
    if (::stat(path.c_str(), &there) == 0 && !S_ISSOCK(there.st_mode)) {
        return fail(ENOTSOCK, fmt::format("{} is no socket: give the --control path that uvif-netback was given",
                                          printable(path)));
    }
    std::memcpy(address.sun_path, path.data(), path.size());
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd || ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) != 0 ||
        ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) != 0 ||
        ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
        return connection_error(path, errno);
    }
    ucred peer{};
    socklen_t length = sizeof peer;
    if (::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
        return connection_error(path, errno);
    }
    return ControlClient(path, std::move(fd), peer.pid);
}

Result<nlohmann::json> ControlClient::request(const nlohmann::json& request) {
    const std::string line = request.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + '\n';
    for (std::size_t sent = 0; sent < line.size();) {
        const ssize_t now = ::send(fd_.get(), line.data() + sent, line.size() - sent, MSG_NOSIGNAL);
        if (now < 0 && errno != EINTR) {
            return connection_error(path_, errno);
        }
        sent += static_cast<std::size_t>(std::max<ssize_t>(now, 0));
    }
    auto text = read_line();
    if (!text) {
        return propagate(text);
    }
    try {
        auto answer = nlohmann::json::parse(*text);
        if (answer.at("ok").get<bool>()) {
            return std::move(answer.at("result"));
        }
        return fail(EINVAL, answer.at("error").get<std::string>());
    } catch (const nlohmann::json::exception& error) {
        return fail(EPROTO, fmt::format("control socket {}: the answer makes no sense ({})", path_, error.what()));
    }
}

Result<std::string> ControlClient::read_line() {
    std::string text;
    std::array<char, 65536> chunk;
    while (text.size() < answer_max) {
        const ssize_t got = ::recv(fd_.get(), chunk.data(), chunk.size(), 0);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return connection_error(path_, got == 0 ? ECONNRESET : errno);
        }
        text.append(chunk.data(), static_cast<std::size_t>(got));
        if (text.back() == '\n') {
            text.pop_back();
            return text;
        }
    }
    return fail(EPROTO, fmt::format("control socket {}: an answer without end", path_));
}

}  // namespace uvif::tools
