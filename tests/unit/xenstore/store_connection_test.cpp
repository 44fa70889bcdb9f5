// SPDX-License-Identifier: MIT
#include "xen/emulated/store_connection.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

extern "C" {
#include <xen/io/xs_wire.h>
}

namespace uvif::xen {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::StartsWith;

struct Message {
    std::uint32_t type;
    std::uint32_t request;
    std::uint32_t transaction;
    std::string payload;

    bool operator==(const Message&) const = default;
};

void PrintTo(const Message& m, std::ostream* out) {
    *out << "type " << m.type << " request " << m.request << " payload " << testing::PrintToString(m.payload);
}

/// A string with its NULs: text("a", "b") is "a\0b\0".
template <class... Parts>
std::string text(const Parts&... parts) {
    std::string all;
    ((all += std::string(parts) + '\0'), ...);
    return all;
}

std::string raw(std::uint32_t type, const std::string& payload, std::uint32_t request = 7, std::uint32_t tx = 0) {
    const xsd_sockmsg header{type, request, tx, static_cast<std::uint32_t>(payload.size())};
    std::string bytes(reinterpret_cast<const char*>(&header), sizeof(header));
    return bytes + payload;
}

class Wire : public testing::Test {
protected:
    StoreCore core_;
    StoreConnection dom0_{core_, DomainId{0}};
    StoreConnection guest_{core_, DomainId{1}};

    static bool feed(StoreConnection& connection, const std::string& bytes) {
        return connection.feed(std::as_bytes(std::span(bytes)));
    }

    /// Takes all output there is.
    static std::vector<Message> take(StoreConnection& connection) {
        std::string bytes;
        for (auto out = connection.output(); !out.empty(); out = connection.output()) {
            bytes.append(reinterpret_cast<const char*>(out.data()), out.size());
            EXPECT_TRUE(connection.sent(out.size()));
        }
        std::vector<Message> messages;
        std::size_t at = 0;
        while (at < bytes.size()) {
            xsd_sockmsg header;
            std::memcpy(&header, bytes.data() + at, sizeof(header));
            messages.push_back(
                {header.type, header.req_id, header.tx_id, bytes.substr(at + sizeof(header), header.len)});
            at += sizeof(header) + header.len;
        }
        EXPECT_EQ(at, bytes.size());
        return messages;
    }

    std::string ask(StoreConnection& connection, std::uint32_t type, const std::string& payload, std::uint32_t tx = 0) {
        EXPECT_TRUE(feed(connection, raw(type, payload, 7, tx)));
        const auto answers = take(connection);
        for (const Message& answer : answers) {
            if (answer.type != XS_WATCH_EVENT) {
                EXPECT_EQ(answer.request, 7U);
                EXPECT_EQ(answer.transaction, tx);
                EXPECT_TRUE(answer.type == type || answer.type == XS_ERROR) << answer.type;
                return answer.type == XS_ERROR ? "error " + answer.payload.substr(0, answer.payload.size() - 1)
                                               : answer.payload;
            }
        }
        return "no answer";
    }
};

TEST_F(Wire, SpeaksTheProtocol) {
    const std::string ok = text("OK");
    EXPECT_EQ(ask(dom0_, XS_WRITE, text("/a/b") + "value"), ok);
    EXPECT_EQ(ask(dom0_, XS_READ, text("/a/b")), "value");
    EXPECT_EQ(ask(dom0_, XS_READ, text("/a/c")), "error ENOENT");
    EXPECT_EQ(ask(dom0_, XS_MKDIR, text("/a/c")), ok);
    EXPECT_EQ(ask(dom0_, XS_DIRECTORY, text("/a")), text("b", "c"));
    EXPECT_EQ(ask(dom0_, XS_DIRECTORY, text("/a/c")), "");
    EXPECT_EQ(ask(dom0_, XS_SET_PERMS, text("/a/b", "r3", "b1", "n07", "w65535")), ok);
    EXPECT_EQ(ask(dom0_, XS_GET_PERMS, text("/a/b")), text("r3", "b1", "n7", "w65535"));
    EXPECT_EQ(ask(guest_, XS_READ, text("/a/b")), "value");
    EXPECT_EQ(ask(guest_, XS_READ, text("/a/c")), "error EACCES");
    EXPECT_EQ(ask(dom0_, XS_RM, text("/a")), ok);
    EXPECT_EQ(ask(dom0_, XS_GET_DOMAIN_PATH, text("12")), text("/local/domain/12"));
    EXPECT_EQ(ask(dom0_, XS_IS_DOMAIN_INTRODUCED, text("0")), text("T"));
    EXPECT_EQ(ask(dom0_, XS_IS_DOMAIN_INTRODUCED, text("12")), text("F"));
    EXPECT_EQ(ask(dom0_, XS_RESET_WATCHES, text("")), ok);
}

TEST_F(Wire, RunsTransactions) {
    EXPECT_EQ(ask(dom0_, XS_TRANSACTION_START, text("")), text("1"));
    EXPECT_EQ(ask(dom0_, XS_TRANSACTION_START, text(""), 1), "error EBUSY");
    EXPECT_EQ(ask(dom0_, XS_WRITE, text("/a") + "1", 1), text("OK"));
    EXPECT_EQ(ask(dom0_, XS_READ, text("/a")), "error ENOENT");
    EXPECT_EQ(ask(dom0_, XS_READ, text("/a"), 1), "1");
    EXPECT_EQ(ask(dom0_, XS_READ, text("/a"), 9), "error ENOENT");
    EXPECT_EQ(ask(dom0_, XS_TRANSACTION_END, text("X"), 1), "error EINVAL");
    EXPECT_EQ(ask(dom0_, XS_WRITE, text("/a") + "0"), text("OK"));
    EXPECT_EQ(ask(dom0_, XS_TRANSACTION_END, text("T"), 1), "error EAGAIN");
    EXPECT_EQ(ask(dom0_, XS_TRANSACTION_END, text("T"), 1), "error ENOENT");
    EXPECT_EQ(ask(dom0_, XS_TRANSACTION_END, text("T")), "error ENOENT");
}

TEST_F(Wire, AnswersAWatchBeforeItsEvents) {
    ASSERT_TRUE(feed(dom0_, raw(XS_WATCH, text("/a", "token"), 3)));
    EXPECT_THAT(take(dom0_),
                ElementsAre(Message{XS_WATCH, 3, 0, text("OK")}, Message{XS_WATCH_EVENT, 0, 0, text("/a", "token")}));
    EXPECT_EQ(ask(dom0_, XS_WATCH, text("/a", "token")), "error EEXIST");
    ask(guest_, XS_WRITE, text("/a") + "refused");
    EXPECT_THAT(take(dom0_), IsEmpty());
    StoreConnection other(core_, DomainId{0});
    ask(other, XS_WRITE, text("/a/b") + "1");
    EXPECT_THAT(take(dom0_), ElementsAre(Message{XS_WATCH_EVENT, 0, 0, text("/a/b", "token")}));
    EXPECT_EQ(ask(dom0_, XS_UNWATCH, text("/a", "token")), text("OK"));
    EXPECT_EQ(ask(dom0_, XS_UNWATCH, text("/a", "token")), "error ENOENT");
}

TEST_F(Wire, ListsLongDirectoriesInParts) {
    std::vector<std::string> names;
    for (int i = 0; i < 2000; ++i) {
        names.push_back("child-with-a-name-" + std::to_string(i));
        ASSERT_EQ(ask(dom0_, XS_WRITE, text("/a/" + names.back())), text("OK"));
    }
    EXPECT_EQ(ask(dom0_, XS_DIRECTORY, text("/a")), "error E2BIG");
    std::string all;
    unsigned parts = 0;
    while (all.size() < 2 || all.substr(all.size() - 2) != std::string(2, '\0')) {
        const std::string part = ask(dom0_, XS_DIRECTORY_PART, text("/a", std::to_string(all.size())));
        ASSERT_LE(part.size(), std::size_t{XENSTORE_PAYLOAD_MAX});
        ASSERT_EQ(part.find("error"), std::string::npos);
        all += part.substr(part.find('\0') + 1);
        ASSERT_LT(++parts, 100U);
    }
    for (const std::string& name : names) {
        EXPECT_NE(("\0" + all).find(text(name)), std::string::npos) << name;
    }
    EXPECT_EQ(ask(dom0_, XS_DIRECTORY_PART, text("/a", "1000000")), "error EINVAL");
    EXPECT_EQ(ask(dom0_, XS_DIRECTORY_PART, text("/a", "-1")), "error EINVAL");
    const std::string empty = ask(dom0_, XS_DIRECTORY_PART, text("/a/child-with-a-name-0", "0"));
    EXPECT_EQ(empty.substr(empty.find('\0')), std::string(2, '\0'));
}

TEST_F(Wire, RefusesWhatItDoesNotOffer) {
    EXPECT_EQ(ask(dom0_, XS_INTRODUCE, text("1", "2", "3")), "error ENOSYS");
    EXPECT_EQ(ask(dom0_, XS_RELEASE, text("1")), "error ENOSYS");
    EXPECT_EQ(ask(dom0_, XS_SET_TARGET, text("1", "2")), "error ENOSYS");
    EXPECT_EQ(ask(dom0_, XS_ERROR, text("EINVAL")), "error ENOSYS");
    EXPECT_EQ(ask(dom0_, 4711, text("x")), "error ENOSYS");
    EXPECT_EQ(ask(dom0_, XS_INVALID, ""), "error ENOSYS");
    EXPECT_THAT(ask(dom0_, XS_CONTROL, text("help")), StartsWith("commands"));
    EXPECT_EQ(ask(dom0_, XS_CONTROL, text("memreport")), "error EINVAL");
    EXPECT_EQ(ask(guest_, XS_CONTROL, text("help")), "error EACCES");
}

TEST_F(Wire, MalformedPayloadsAreErrors) {
    struct Row {
        std::uint32_t type;
        std::string payload;
    };
    for (const auto& [type, payload] : std::vector<Row>{
             {XS_READ, ""},
             {XS_READ, "/a"},
             {XS_READ, text("/a", "b")},
             {XS_READ, text("/a") + "b"},
             {XS_READ, text("")},
             {XS_WRITE, ""},
             {XS_WRITE, "/a"},
             {XS_MKDIR, text("/a", "/b")},
             {XS_RM, text("/")},
             {XS_DIRECTORY_PART, text("/")},
             {XS_DIRECTORY_PART, text("/", "0") + "x"},
             {XS_SET_PERMS, text("/")},
             {XS_SET_PERMS, text("/", "")},
             {XS_SET_PERMS, text("/", "x0")},
             {XS_SET_PERMS, text("/", "r")},
             {XS_SET_PERMS, text("/", "r-1")},
             {XS_SET_PERMS, text("/", "r65536")},
             {XS_SET_PERMS, text("/") + "r0"},
             {XS_WATCH, text("/a")},
             {XS_WATCH, text("/a", "t", "u")},
             {XS_UNWATCH, text("/a")},
             {XS_TRANSACTION_END, ""},
             {XS_TRANSACTION_END, "T"},
             {XS_GET_DOMAIN_PATH, text("-1")},
             {XS_GET_DOMAIN_PATH, "1"},
             {XS_IS_DOMAIN_INTRODUCED, text("99999")},
         }) {
        EXPECT_EQ(ask(dom0_, type, payload), "error EINVAL") << type << " " << testing::PrintToString(payload);
    }
    EXPECT_THAT(take(dom0_), IsEmpty());
}

TEST_F(Wire, APayloadAboveTheLimitEndsTheConversation) {
    EXPECT_EQ(ask(dom0_, XS_WRITE, text("/a") + std::string(XENSTORE_PAYLOAD_MAX - 3, 'x')), text("OK"));
    xsd_sockmsg header{XS_READ, 1, 0, XENSTORE_PAYLOAD_MAX + 1};
    EXPECT_FALSE(feed(dom0_, std::string(reinterpret_cast<const char*>(&header), sizeof(header))));
    EXPECT_FALSE(dom0_.wants_input());
    EXPECT_FALSE(feed(dom0_, raw(XS_READ, text("/a"))));
    EXPECT_THAT(dom0_.output(), IsEmpty());
}

TEST_F(Wire, RequestsMayComeInAnyPieces) {
    const std::string bytes = raw(XS_WRITE, text("/a") + "12", 1) + raw(XS_READ, text("/a"), 2) +
                              raw(XS_RM, text("/a"), 3) + raw(XS_READ, text("/a"), 4);
    const std::vector<Message> expected = {{XS_WRITE, 1, 0, text("OK")},
                                           {XS_READ, 2, 0, "12"},
                                           {XS_RM, 3, 0, text("OK")},
                                           {XS_ERROR, 4, 0, text("ENOENT")}};
    for (std::size_t piece = 1; piece <= bytes.size(); ++piece) {
        for (std::size_t at = 0; at < bytes.size(); at += piece) {
            ASSERT_TRUE(feed(dom0_, bytes.substr(at, piece)));
        }
        EXPECT_EQ(take(dom0_), expected) << "in pieces of " << piece;
    }
}

TEST_F(Wire, AClientThatDoesNotReadIsNotServed) {
    ASSERT_EQ(ask(dom0_, XS_WRITE, text("/a") + std::string(4000, 'x')), text("OK"));
    ASSERT_EQ(ask(dom0_, XS_WATCH, text("/a", "t")), text("OK"));
    unsigned asked = 0;
    while (dom0_.wants_input()) {
        ASSERT_TRUE(feed(dom0_, raw(XS_READ, text("/a"), asked)));
        ASSERT_LT(++asked, 1000U);
    }
    const std::size_t waiting = dom0_.output().size();
    EXPECT_LT(waiting, StoreConnection::backlog_max + XENSTORE_PAYLOAD_MAX + sizeof(xsd_sockmsg));
    // Requests that come all the same wait, and so do events.
    ASSERT_TRUE(feed(dom0_, raw(XS_READ, text("/missing"), asked)));
    StoreConnection other(core_, DomainId{0});
    for (int i = 0; i < 100; ++i) {
        ask(other, XS_WRITE, text("/a/" + std::to_string(i)));
    }
    EXPECT_EQ(dom0_.output().size(), waiting);
    const auto answers = take(dom0_);
    ASSERT_EQ(answers.size(), asked + 1 + 100);
    EXPECT_EQ(std::ranges::count(answers, std::uint32_t{XS_READ}, &Message::type), asked);
    EXPECT_EQ(std::ranges::count(answers, Message{XS_ERROR, asked, 0, text("ENOENT")}), 1);
    EXPECT_TRUE(dom0_.wants_input());
}

TEST_F(Wire, TellsWhenThereIsSomethingToSend) {
    int told = 0;
    StoreConnection watcher(core_, DomainId{0}, [&] { ++told; });
    ask(watcher, XS_WATCH, text("/a", "t"));
    EXPECT_EQ(told, 1);
    ask(dom0_, XS_WRITE, text("/a") + "1");
    ask(dom0_, XS_WRITE, text("/a/b") + "1");
    EXPECT_EQ(told, 2);
    EXPECT_EQ(take(watcher).size(), 2U);
    ask(dom0_, XS_WRITE, text("/a") + "1");
    EXPECT_EQ(told, 3);
}

}  // namespace
}  // namespace uvif::xen
