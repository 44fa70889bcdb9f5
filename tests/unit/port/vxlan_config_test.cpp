// SPDX-License-Identifier: MIT
#include "port/vxlan_config.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <string>

#include "port/port_spec.hpp"
#include "runtime/limits.hpp"

namespace uvif {
namespace {

using testing::HasSubstr;

TEST(VxlanConfig, ReadsWhatIsNeeded) {
    const auto config = parse_vxlan_config("vni=42,local=192.0.2.1,remote=192.0.2.2");
    ASSERT_TRUE(config) << config.error().message;
    EXPECT_EQ(config->vni, 42U);
    EXPECT_EQ(config->port, 4789);
    EXPECT_EQ(to_string(config->local), "192.0.2.1");
    ASSERT_EQ(config->remotes.size(), 1U);
    EXPECT_EQ(to_string(config->remotes[0]), "192.0.2.2");
    EXPECT_TRUE(config->fdb.empty());
}

TEST(VxlanConfig, ReadsEverything) {
    const auto config = parse_vxlan_config(
        "port=8472,remote=2001:db8::2,fdb=00:16:3e:00:00:02@2001:db8::4,vni=16777215,local=2001:db8::1,"
        "remote=2001:db8::3,fdb=00:16:3E:00:aa:03@2001:db8::3");
    ASSERT_TRUE(config) << config.error().message;
    EXPECT_EQ(config->vni, 0xffffffU);
    EXPECT_EQ(config->port, 8472);
    EXPECT_EQ(to_string(config->local), "2001:db8::1");
    ASSERT_EQ(config->remotes.size(), 2U);
    EXPECT_EQ(to_string(config->remotes[1]), "2001:db8::3");
    ASSERT_EQ(config->fdb.size(), 2U);
    EXPECT_EQ(config->fdb[1].mac, (Mac{0x00, 0x16, 0x3e, 0x00, 0xaa, 0x03}));
    EXPECT_EQ(to_string(config->fdb[0].at), "2001:db8::4");
    EXPECT_TRUE(parse_vxlan_config("vni=1,local=192.0.2.1,fdb=00:16:3e:00:00:02@192.0.2.2")) << "no remote= is needed";
}

TEST(VxlanConfig, IsAPort) {
    const auto spec = parse_port_spec("vxlan:vni=42,local=192.0.2.1,remote=192.0.2.2");
    ASSERT_TRUE(spec) << spec.error().message;
    EXPECT_EQ(spec->kind, PortSpec::Kind::vxlan);
    EXPECT_EQ(spec->vxlan.vni, 42U);
    EXPECT_FALSE(parse_port_spec("vxlan"));
    EXPECT_FALSE(parse_port_spec("vxlan:"));
}

struct Refusal {
    std::string text;
    std::string says;
};

TEST(VxlanConfig, RefusesInOneSentenceThatSaysWhatToDo) {
    const std::string good = "vni=42,local=192.0.2.1,remote=192.0.2.2";
    std::string many = good;
    std::string many_fdb = good;
    for (unsigned i = 0; i < limits::vxlan_remotes; ++i) {
        many += ",remote=198.51.100." + std::to_string(i + 1);
    }
    for (unsigned i = 0; i <= limits::vxlan_static_entries; ++i) {
        char entry[64];
        std::snprintf(entry, sizeof entry, ",fdb=00:16:3e:00:%02x:%02x@192.0.2.2", i >> 8, i & 0xff);
        many_fdb += entry;
    }
    const Refusal refusals[] = {
        {"", "choose vxlan:vni=42"},
        {"vni=42", "local= is missing"},
        {"local=192.0.2.1,remote=192.0.2.2", "vni= is missing"},
        {"vni=42,local=192.0.2.1", "without a remote= or fdb="},
        {good + ",", "choose vxlan:vni=42"},
        {good + ",ttl=3", "\"ttl=3\""},
        {good + ",remote", "choose an IPv4 or IPv6 address"},
        {"vni=0,local=192.0.2.1,remote=192.0.2.2", "from 1 to 16777215"},
        {"vni=16777216,local=192.0.2.1,remote=192.0.2.2", "from 1 to 16777215"},
        {"vni=-1,local=192.0.2.1,remote=192.0.2.2", "from 1 to 16777215"},
        {"vni=4x,local=192.0.2.1,remote=192.0.2.2", "from 1 to 16777215"},
        {good + ",port=0", "from 1 to 65535"},
        {good + ",port=65536", "from 1 to 65535"},
        {good + ",remote=host.example", "no name"},
        {good + ",remote=192.0.2.256", "no name"},
        {good + ",remote=192.0.2.2", "twice"},
        {good + ",remote=239.1.1.1", "multicast group"},
        {good + ",remote=0.0.0.0", "single host"},
        {good + ",remote=255.255.255.255", "single host"},
        {"vni=1,local=fe80::1,remote=2001:db8::2", "single host"},
        {"vni=1,local=2001:db8::1,remote=ff05::1", "multicast group"},
        {"vni=1,local=::,remote=2001:db8::1", "single host"},
        {good + ",remote=192.0.2.1", "both ends"},
        {good + ",remote=2001:db8::1", "other version of IP"},
        {good + ",fdb=00:16:3e:00:00:02@2001:db8::1", "other version of IP"},
        {good + ",fdb=00:16:3e:00:00:02", "choose fdb=MAC@ADDRESS"},
        {good + ",fdb=00:16:3e:00:00@192.0.2.2", "choose fdb=MAC@ADDRESS"},
        {good + ",fdb=00:16:3e:00:00:0g@192.0.2.2", "choose fdb=MAC@ADDRESS"},
        {good + ",fdb=00-16-3e-00-00-02@192.0.2.2", "choose fdb=MAC@ADDRESS"},
        {good + ",fdb=ff:ff:ff:ff:ff:ff@192.0.2.2", "one machine"},
        {good + ",fdb=00:00:00:00:00:00@192.0.2.2", "one machine"},
        {good + ",fdb=00:16:3e:00:00:02@192.0.2.2,fdb=00:16:3e:00:00:02@192.0.2.3", "has an fdb= already"},
        {many, "choose fewer"},
        {many_fdb, "choose fewer"},
        {good + "," + std::string(10000, 'x') + "\n\x1b", "choose"},
        {good + ",remote=192.0.2.3" + std::string(1, '\0') + "x", "no name"},
    };
    for (const Refusal& refusal : refusals) {
        const auto config = parse_vxlan_config(refusal.text);
        ASSERT_FALSE(config) << refusal.text;
        EXPECT_EQ(config.error().code, EINVAL);
        EXPECT_THAT(config.error().message, HasSubstr(refusal.says)) << refusal.text;
        EXPECT_THAT(config.error().message, HasSubstr("choose")) << refusal.text;
        EXPECT_LT(config.error().message.size(), 400U);
        EXPECT_EQ(config.error().message.find('\n'), std::string::npos);
    }
}

}  // namespace
}  // namespace uvif
