// SPDX-License-Identifier: MIT
#include "control_client.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>

namespace uvif::tools {
namespace {

using testing::HasSubstr;

/// Takes one connection, reads a line, and sends what it was told to.
class Daemon {
public:
    explicit Daemon(std::string answer) : path_(testing::TempDir() + "uvif-control-" + std::to_string(::getpid())) {
        ::unlink(path_.c_str());
        listener_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::strncpy(address.sun_path, path_.c_str(), sizeof(address.sun_path) - 1);
        EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
        EXPECT_EQ(::listen(listener_.get(), 1), 0);
        thread_ = std::jthread([this, text = std::move(answer)] {
            const UniqueFd client(::accept(listener_.get(), nullptr, nullptr));
            char byte = 0;
            while (::recv(client.get(), &byte, 1, 0) == 1 && byte != '\n') {
                request_ += byte;
            }
            // In two pieces, as a long answer comes.
            const std::size_t half = text.size() / 2;
            ::send(client.get(), text.data(), half, MSG_NOSIGNAL);
            ::send(client.get(), text.data() + half, text.size() - half, MSG_NOSIGNAL);
        });
    }
    ~Daemon() { ::unlink(path_.c_str()); }
    [[nodiscard]] const std::string& path() const { return path_; }
    std::string request() {
        thread_.join();
        return request_;
    }

private:
    std::string path_;
    UniqueFd listener_;
    std::string request_;
    std::jthread thread_;
};

TEST(ControlClient, ReturnsTheResult) {
    Daemon daemon(R"({"ok":true,"result":{"a":[1,2]}})"
                  "\n");
    auto client = ControlClient::connect(daemon.path());
    ASSERT_TRUE(client) << client.error().message;
    EXPECT_EQ(client->peer(), ::getpid());
    const auto result = client->request({{"command", "list"}});
    ASSERT_TRUE(result) << result.error().message;
    EXPECT_EQ(result->at("a").size(), 2U);
    EXPECT_EQ(daemon.request(), R"({"command":"list"})");
}

TEST(ControlClient, PassesOnWhatTheDaemonObjectsTo) {
    Daemon daemon(R"({"ok":false,"error":"there is no vif 'x'"})"
                  "\n");
    const auto result = ControlClient::connect(daemon.path())->request({{"command", "show"}});
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, EINVAL);
    EXPECT_EQ(result.error().message, "there is no vif 'x'");
}

TEST(ControlClient, SurvivesNonsense) {
    for (const char* answer :
         {"\n", "not json\n", "[]\n", "{\"ok\":1}\n", "{\"ok\":true}\n", "{\"ok\":false}\n", "null\n"}) {
        Daemon daemon(answer);
        const auto result = ControlClient::connect(daemon.path())->request({{"command", "list"}});
        ASSERT_FALSE(result) << answer;
        EXPECT_EQ(result.error().code, EPROTO) << answer;
    }
}

TEST(ControlClient, SurvivesADaemonThatGoesAway) {
    Daemon daemon("{\"ok\":");
    const auto result = ControlClient::connect(daemon.path())->request({{"command", "list"}});
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, ECONNRESET);
}

TEST(ControlClient, SaysThatNobodyListens) {
    const auto client = ControlClient::connect("/nowhere/at/all");
    ASSERT_FALSE(client);
    EXPECT_EQ(client.error().code, ENOENT);
    EXPECT_THAT(client.error().message, HasSubstr("nobody listens"));
}

TEST(ControlClient, RefusesAPathThatNoSocketCanHave) {
    const auto client = ControlClient::connect(std::string(200, 'x'));
    ASSERT_FALSE(client);
    EXPECT_EQ(client.error().code, ENAMETOOLONG);
}

}  // namespace
}  // namespace uvif::tools
