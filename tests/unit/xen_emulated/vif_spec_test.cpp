// SPDX-License-Identifier: MIT
#include "xen/emulated/vif_spec.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

namespace uvif::xen {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;

TEST(VifSpecTest, EveryKeyIsTaken) {
    const auto spec = VifSpec::parse(
        "mac=00:16:3E:aa:bb:0c,bridge=br0,script=vif-route,ip=10.0.0.1,rate=10Mb/s,mtu=9000,vifname=eth9,backend=net,"
        "devid=3,type=ioemu");
    ASSERT_TRUE(spec) << spec.error().message;
    EXPECT_EQ(spec->mac, "00:16:3E:aa:bb:0c");
    EXPECT_EQ(spec->bridge, "br0");
    EXPECT_EQ(spec->script, "/etc/xen/scripts/vif-route");
    EXPECT_EQ(spec->ip, "10.0.0.1");
    EXPECT_EQ(spec->mtu, 9000U);
    EXPECT_EQ(spec->vifname, "eth9");
    EXPECT_EQ(spec->backend, "net");
    EXPECT_EQ(spec->devid, 3U);
    EXPECT_EQ(spec->type, "vif_ioemu");
    ASSERT_TRUE(spec->rate);
    EXPECT_EQ(spec->rate->bytes, 62'500U);
    EXPECT_EQ(spec->rate->interval_us, 50'000U);
}

TEST(VifSpecTest, NothingGivenMeansTheDefaults) {
    const auto spec = VifSpec::parse("");
    ASSERT_TRUE(spec);
    EXPECT_THAT(spec->mac, MatchesRegex("00:16:3e:[0-7][0-9a-f]:[0-9a-f][0-9a-f]:[0-9a-f][0-9a-f]"));
    EXPECT_TRUE(spec->script.empty());
    EXPECT_EQ(spec->backend, "0");
    EXPECT_FALSE(spec->rate);
}

TEST(VifSpecTest, RatesAreAsXlReadsThem) {
    // From xl-network-configuration(5), and xl's default interval of 50 ms.
    const std::tuple<const char*, std::uint64_t, std::uint32_t> cases[] = {
        {"rate=10Mb/s", 62'500, 50'000},     {"rate=250KB/s", 12'500, 50'000},
        {"rate=1MB/s@20ms", 20'000, 20'000}, {"rate=1GB/s@1s", 1'000'000'000, 1'000'000},
        {"rate=8000b/s@1000us", 1, 1'000},
    };
    for (const auto& [text, bytes, interval] : cases) {
        const auto spec = VifSpec::parse(text);
        ASSERT_TRUE(spec) << text;
        EXPECT_EQ(spec->rate->bytes, bytes) << text;
        EXPECT_EQ(spec->rate->interval_us, interval) << text;
    }
}

TEST(VifSpecTest, MistakesAreNamed) {
    for (const char* text : {"mac=00:16:3e",
                             "mac=00:16:3e:00:00:0g",
                             "devid=-1",
                             "devid=65536",
                             "devid=1x",
                             "mtu=67",
                             "mtu=65518",
                             "mtu=",
                             "rate=fast",
                             "rate=10M",
                             "rate=0b/s",
                             "rate=1MB/s@",
                             "rate=1MB/s@5",
                             "rate=1MB/s@0ms",
                             "rate=1MB/sx",
                             "type=veth",
                             "bridge=",
                             "script=",
                             "colour=blue",
                             "bridge",
                             "ip=x",
                             "ip=10.0.0.1/33",
                             "ip=",
                             "mac=01:00:5e:00:00:01",
                             "mac=00:00:00:00:00:00",
                             "mac=ff:ff:ff:ff:ff:ff",
                             "=x",
                             "rate=99999999999999999999b/s"}) {
        const auto spec = VifSpec::parse(text);
        ASSERT_FALSE(spec) << text;
        EXPECT_EQ(spec.error().code, EINVAL);
        EXPECT_THAT(spec.error().message, HasSubstr(text));
    }
}

TEST(VifSpecTest, AKeyIsGivenOnce) {
    EXPECT_THAT(VifSpec::parse("mtu=1500,bridge=a,mtu=9000").error().message, HasSubstr("'mtu=9000' is the second"));
}

TEST(VifSpecTest, AddressesOfBothKindsMayBeSeveral) {
    EXPECT_EQ(VifSpec::parse("ip=10.0.0.1/24 fd00::1").value().ip, "10.0.0.1/24 fd00::1");
}

}  // namespace
}  // namespace uvif::xen
