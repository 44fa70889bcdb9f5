// SPDX-License-Identifier: MIT
#include "xen/store_path.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "runtime/printable.hpp"
#include "xen/emulated/local_store.hpp"

namespace uvif::xen {
namespace {

using testing::HasSubstr;
using testing::SizeIs;

TEST(StorePath, DecimalIsDigitsAndNothingElse) {
    EXPECT_EQ(parse_decimal("0"), 0U);
    EXPECT_EQ(parse_decimal("520"), 520U);
    EXPECT_EQ(parse_decimal("0000000007"), 7U);
    EXPECT_EQ(parse_decimal("4294967295"), 4294967295U);
    EXPECT_EQ(parse_decimal("8", 8), 8U);
    EXPECT_FALSE(parse_decimal("9", 8));
    const std::string with_nul("2\0", 2);
    for (const std::string& garbage :
         {std::string(), std::string("-1"), std::string("+1"), std::string("4294967296"), std::string("99999999999"),
          std::string("00000000001"), std::string(" 2"), std::string("2 "), std::string("2\n"), std::string("0x10"),
          std::string("1.0"), std::string("one"), std::string("2x"), with_nul, std::string("\xff"),
          std::string(2048, '7'), std::string(2048, '\x80')}) {
        EXPECT_FALSE(parse_decimal(garbage)) << printable(garbage);
    }
}

TEST(StorePath, FlagIsTrueForAnyNumberButZero) {
    EXPECT_EQ(parse_flag("0"), false);
    EXPECT_EQ(parse_flag("1"), true);
    EXPECT_EQ(parse_flag("2"), true);
    for (const char* garbage : {"", "true", "yes", "-1", " 1", "4294967296"}) {
        EXPECT_FALSE(parse_flag(garbage)) << garbage;
    }
}

TEST(StorePath, MacIsExactlySixPairs) {
    EXPECT_EQ(parse_mac("00:16:3e:0a:Bc:fF"), (MacAddress{0x00, 0x16, 0x3e, 0x0a, 0xbc, 0xff}));
    for (const char* garbage : {"", "00:16:3e:00:00", "00:16:3e:00:00:0", "00:16:3e:00:00:0a:0b", "0:16:3e:00:00:0aa",
                                "00-16-3e-00-00-0a", "00:16:3e:00:00:0g", " 0:16:3e:00:00:0a", "+0:16:3e:00:00:0a",
                                "-1:16:3e:00:00:0a", "0x:16:3e:00:00:0a", "00163e00000a"}) {
        EXPECT_FALSE(parse_mac(garbage)) << garbage;
    }
    EXPECT_FALSE(parse_mac(std::string(2048, ':')));
}

TEST(StorePath, BuildsThePathsThatToolstacksUse) {
    EXPECT_EQ(frontend_path(DomainId{7}, 2), "/local/domain/7/device/vif/2");
    EXPECT_EQ(backend_path(DomainId{0}, DomainId{7}, 2), "/local/domain/0/backend/vif/7/2");
    EXPECT_EQ(error_path(DomainId{0}, "/local/domain/0/backend/vif/7/2"),
              "/local/domain/0/error/backend/vif/7/2/error");
}

class StoreReaders : public testing::Test {
protected:
    StoreCore core_;
    std::unique_ptr<Store> store_ = LocalStore::open(core_, DomainId{0}).value();
};

TEST_F(StoreReaders, TellMissingFromMalformed) {
    EXPECT_EQ(read_decimal(*store_, "/a/missing", 10).value(), std::nullopt);
    EXPECT_EQ(read_text(*store_, "/a/missing").value(), std::nullopt);
    EXPECT_EQ(read_flag(*store_, "/a/missing").value(), std::nullopt);
    EXPECT_EQ(read_mac(*store_, "/a/missing").value(), std::nullopt);

    ASSERT_TRUE(store_->write("/a/ref", "520"));
    EXPECT_EQ(read_decimal(*store_, "/a/ref", 1000).value(), 520U);
    EXPECT_EQ(read_text(*store_, "/a/ref").value(), "520");
    EXPECT_EQ(read_flag(*store_, "/a/ref").value(), true);

    for (const std::string& garbage : {std::string(), std::string("-1"), std::string("4294967296"), std::string(" 2"),
                                       std::string("text"), std::string(2048, '\x01')}) {
        ASSERT_TRUE(store_->write("/a/ref", garbage));
        const auto number = read_decimal(*store_, "/a/ref", 1000);
        ASSERT_FALSE(number);
        EXPECT_EQ(number.error().code, EINVAL);
        EXPECT_THAT(number.error().message, HasSubstr("/a/ref is \"" + printable(garbage) + "\""));
        EXPECT_THAT(number.error().message, HasSubstr("at most 1000"));
        EXPECT_LT(number.error().message.size(), 400U);
        EXPECT_FALSE(read_flag(*store_, "/a/ref"));
        EXPECT_FALSE(read_mac(*store_, "/a/ref"));
    }
}

TEST_F(StoreReaders, PassOnWhatTheStoreRefuses) {
    ASSERT_TRUE(store_->write("/secret", "1"));
    const auto guest = LocalStore::open(core_, DomainId{3}).value();
    const auto flag = read_flag(*guest, "/secret");
    ASSERT_FALSE(flag);
    EXPECT_EQ(flag.error().code, EACCES);
}

}  // namespace
}  // namespace uvif::xen
