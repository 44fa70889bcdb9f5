// SPDX-License-Identifier: MIT
#include "port/port_spec.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <string>

namespace uvif {
namespace {

TEST(PortSpec, ReadsEveryKind) {
    const auto tap = parse_port_spec("tap");
    ASSERT_TRUE(tap);
    EXPECT_EQ(tap->kind, PortSpec::Kind::tap);
    const auto sink = parse_port_spec("null:sink");
    ASSERT_TRUE(sink);
    EXPECT_EQ(sink->kind, PortSpec::Kind::null);
    EXPECT_EQ(sink->null.mode, NullMode::sink);
    const auto reflect = parse_port_spec("null:reflect");
    ASSERT_TRUE(reflect);
    EXPECT_EQ(reflect->null.mode, NullMode::reflect);
    for (const std::uint32_t size : {60U, 1514U, 65535U}) {
        const auto generate = parse_port_spec("null:generate," + std::to_string(size));
        ASSERT_TRUE(generate);
        EXPECT_EQ(generate->null.mode, NullMode::generate);
        EXPECT_EQ(generate->null.packet_length, size);
    }
}

TEST(PortSpec, RefusesEverythingElseInOneSentence) {
    const std::string hostile = "null:generate," + std::string(10000, '9') + "\n\x1b";
    for (const std::string_view text :
         {std::string_view(""), std::string_view("tap "), std::string_view("null"), std::string_view("null:"),
          std::string_view("null:generate"), std::string_view("null:generate,"), std::string_view("null:generate,59"),
          std::string_view("null:generate,65536"), std::string_view("null:generate,-64"),
          std::string_view("null:generate,64x"), std::string_view("null:generate, 64"),
          std::string_view("null:sink,64"), std::string_view("TAP"), std::string_view(hostile)}) {
        const auto spec = parse_port_spec(text);
        ASSERT_FALSE(spec) << text;
        EXPECT_EQ(spec.error().code, EINVAL);
        EXPECT_THAT(spec.error().message, testing::HasSubstr("choose"));
        EXPECT_LT(spec.error().message.size(), 400U);
        EXPECT_EQ(spec.error().message.find('\n'), std::string::npos);
    }
}

}  // namespace
}  // namespace uvif
