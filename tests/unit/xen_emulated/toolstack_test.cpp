// SPDX-License-Identifier: MIT
#include "xen/emulated/toolstack.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "support/process.hpp"
#include "unit/xen_emulated/host.hpp"

namespace uvif::xen {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::chrono::milliseconds soon{200};
constexpr std::chrono::milliseconds patient{60'000};

/// The store as it is for dom0, where the other side of a watch is played: the first read of the backend's
/// state after a write of the toolstack's finds what a backend would have answered.
class AnsweringStore final : public Store {
public:
    AnsweringStore(std::unique_ptr<Store> store, std::string state_path, bool answers)
        : store_(std::move(store)), state_path_(std::move(state_path)), answers_(answers) {}

    Result<std::string> read(std::string_view path, Transaction t) override {
        if (answers_ && path == state_path_ && t == Transaction::none) {
            const std::string state = store_->read(path, t).value_or("");
            if (state == "1" || state == "5") {
                seen_online = store_->read(state_path_.substr(0, state_path_.rfind('/')) + "/online").value_or("");
                auto written = store_->write(path, state == "1" ? "2" : "6", t);
                EXPECT_TRUE(written);
            }
        }
        return store_->read(path, t);
    }
    Result<std::vector<std::string>> list(std::string_view path, Transaction t) override {
        return store_->list(path, t);
    }
    Result<void> write(std::string_view path, std::string_view value, Transaction t) override {
        return store_->write(path, value, t);
    }
    Result<void> remove(std::string_view path, Transaction t) override { return store_->remove(path, t); }
    Result<void> set_permissions(std::string_view path, const std::vector<Permission>& permissions,
                                 Transaction t) override {
        return store_->set_permissions(path, permissions, t);
    }
    Result<Transaction> begin() override { return store_->begin(); }
    Result<bool> commit(Transaction t) override { return store_->commit(t); }
    void abort(Transaction t) noexcept override { store_->abort(t); }
    Result<void> watch(std::string_view path, std::string_view token) override { return store_->watch(path, token); }
    Result<void> unwatch(std::string_view path, std::string_view token) override {
        return store_->unwatch(path, token);
    }
    [[nodiscard]] int fd() const noexcept override { return store_->fd(); }
    std::optional<WatchEvent> next_event() override { return store_->next_event(); }

    std::string seen_online;

private:
    std::unique_ptr<Store> store_;
    std::string state_path_;
    bool answers_;
};

class ToolstackTest : public testing::Test {
protected:
    static constexpr const char* backend = "/local/domain/0/backend/vif/1/0";
    static constexpr const char* frontend = "/local/domain/1/device/vif/0";

    AnsweringStore& open(bool answers) {
        opened_ = std::make_unique<AnsweringStore>(must(host.host->open(dom0)->open_store()),
                                                   std::string(backend) + "/state", answers);
        return *opened_;
    }
    bool exists(const std::string& path) { return dom0_store->read(path, Transaction::none).has_value(); }
    std::string read(const std::string& path) {
        return dom0_store->read(path, Transaction::none).value_or("<missing>");
    }
    std::string script(const std::string& body) {
        const std::string path = directory_.path() + "/hotplug";
        std::ofstream(path) << "#!/bin/sh\n" << body << "\n";
        EXPECT_EQ(::chmod(path.c_str(), S_IRWXU), 0);
        return path;
    }

    Host host;
    std::unique_ptr<Store> dom0_store = must(host.host->open(dom0)->open_store());
    std::unique_ptr<Store> guest_store = must(host.host->open(host.guest)->open_store());

private:
    test::TemporaryDirectory directory_;
    std::unique_ptr<AnsweringStore> opened_;
};

TEST_F(ToolstackTest, TheGuestMayWriteItsOwnFolderAndOnlyThat) {
    Toolstack toolstack(*dom0_store);
    ASSERT_EQ(must(toolstack.write_vif(host.guest, must(VifSpec::parse("mac=00:16:3e:00:00:01,mtu=9000")))), 0U);
    EXPECT_EQ(read(std::string(backend) + "/mtu"), "9000");
    EXPECT_FALSE(exists(std::string(backend) + "/hotplug-status"));
    EXPECT_TRUE(guest_store->write("device/vif/0/state", "4", Transaction::none));
    EXPECT_EQ(guest_store->write("device/vif/0/mtu", "1", Transaction::none).error().code, EACCES);
    EXPECT_EQ(guest_store->write(std::string(backend) + "/state", "4", Transaction::none).error().code, EACCES);
    EXPECT_EQ(must(guest_store->read(std::string(backend) + "/mac", Transaction::none)), "00:16:3e:00:00:01");
    EXPECT_FALSE(guest_store->read("/libxl/1/device/vif/0/state", Transaction::none));
}

TEST_F(ToolstackTest, DeviceIdsAreTheLowestFree) {
    Toolstack toolstack(*dom0_store);
    const VifSpec any = must(VifSpec::parse(""));
    EXPECT_EQ(must(toolstack.write_vif(host.guest, any)), 0U);
    EXPECT_EQ(must(toolstack.write_vif(host.guest, must(VifSpec::parse("devid=2")))), 2U);
    EXPECT_EQ(must(toolstack.write_vif(host.guest, any)), 1U);
    EXPECT_EQ(must(toolstack.write_vif(host.guest, any)), 3U);
    EXPECT_EQ(toolstack.write_vif(host.guest, must(VifSpec::parse("devid=2"))).error().code, EEXIST);
    EXPECT_EQ(must(toolstack.list_vifs(host.guest)).size(), 4U);
    EXPECT_EQ(toolstack.write_vif(DomainId{9}, any).error().code, ENOENT);
}

TEST_F(ToolstackTest, ADriverDomainIsFoundByName) {
    const DomainId driver = must(host.host->create_domain("net", true));
    Toolstack toolstack(*dom0_store);
    must(toolstack.write_vif(host.guest, must(VifSpec::parse("backend=net"))));
    auto driver_store = must(host.host->open(driver)->open_store());
    EXPECT_TRUE(driver_store->write("backend/vif/1/0/state", "2", Transaction::none));
    EXPECT_EQ(must(driver_store->read("/local/domain/1/device/vif/0/state", Transaction::none)), "1");
    EXPECT_EQ(must(toolstack.list_vifs(host.guest))[0].backend, driver);
    for (const char* nobody : {"backend=nowhere", "backend=99"}) {
        EXPECT_EQ(toolstack.write_vif(host.guest, must(VifSpec::parse(nobody))).error().code, ENOENT);
    }
}

TEST_F(ToolstackTest, AttachWaitsForTheBackendAndDetachForItsClosing) {
    AnsweringStore& store = open(true);
    Toolstack toolstack(store, "", {patient, patient});
    EXPECT_EQ(must(toolstack.attach_vif(host.guest, must(VifSpec::parse("")))), 0U);
    EXPECT_EQ(read(std::string(backend) + "/state"), "2");
    EXPECT_EQ(store.seen_online, "1");
    ASSERT_TRUE(toolstack.detach_vif(host.guest, 0));
    EXPECT_EQ(store.seen_online, "0");
    EXPECT_FALSE(exists(backend));
    EXPECT_FALSE(exists(frontend));
    EXPECT_FALSE(exists("/libxl/1/device/vif/0"));
    EXPECT_EQ(toolstack.detach_vif(host.guest, 0).error().code, ENOENT);
}

TEST_F(ToolstackTest, ABackendThatDoesNotAnswerIsGivenUp) {
    Toolstack toolstack(open(false), "", {soon, soon});
    const auto attached = toolstack.attach_vif(host.guest, must(VifSpec::parse("")));
    ASSERT_FALSE(attached);
    EXPECT_EQ(attached.error().code, ETIMEDOUT);
    EXPECT_THAT(attached.error().message, HasSubstr("InitWait"));
    EXPECT_FALSE(exists(backend));
    must(toolstack.write_vif(host.guest, must(VifSpec::parse(""))));
    EXPECT_EQ(toolstack.detach_vif(host.guest, 0).error().code, ETIMEDOUT);
    EXPECT_FALSE(exists(backend));
    EXPECT_THAT(must(toolstack.list_vifs(host.guest)), IsEmpty());
}

TEST_F(ToolstackTest, ScriptsGetLibxlsEnvironment) {
    const std::string log = script("") + ".log";
    const std::string path =
        script("echo \"$1 $2 $script $XENBUS_TYPE $XENBUS_PATH $XENBUS_BASE_PATH $vif $XENSTORED_PATH\" >> " + log);
    Toolstack toolstack(open(true), "/the/store", {patient, patient});
    must(toolstack.attach_vif(host.guest, must(VifSpec::parse("script=" + path))));
    EXPECT_EQ(read(std::string(backend) + "/hotplug-status"), "");
    ASSERT_TRUE(toolstack.detach_vif(host.guest, 0));
    std::ifstream lines(log);
    std::string line;
    for (const char* action : {"online", "offline"}) {
        ASSERT_TRUE(std::getline(lines, line));
        EXPECT_EQ(line,
                  std::string(action) + " type_if=vif " + path + " vif backend/vif/1/0 backend vif1.0 /the/store");
    }
    std::filesystem::remove(log);
}

TEST_F(ToolstackTest, AScriptThatFailsOrHangsTakesTheVifAway) {
    Toolstack toolstack(open(true), "", {patient, std::chrono::milliseconds(500)});
    for (const auto& [body, why] : {std::pair{"exit 3", "status 3"}, std::pair{"sleep 1000", "was killed"}}) {
        const auto attached = toolstack.attach_vif(host.guest, must(VifSpec::parse("script=" + script(body))));
        ASSERT_FALSE(attached);
        EXPECT_THAT(attached.error().message, HasSubstr(why));
        EXPECT_FALSE(exists(backend));
    }
    EXPECT_THAT(toolstack.attach_vif(host.guest, must(VifSpec::parse("script=/nonexistent"))).error().message,
                HasSubstr("cannot run"));
}

TEST_F(ToolstackTest, DestroyTakesTheFrontendFirst) {
    Toolstack toolstack(open(true), "", {patient, patient});
    must(toolstack.attach_vif(host.guest, must(VifSpec::parse(""))));
    ASSERT_TRUE(toolstack.destroy_vif(host.guest, 0));
    ASSERT_TRUE(host.host->destroy_domain(host.guest));
    EXPECT_FALSE(exists("/local/domain/1"));
    EXPECT_FALSE(exists("/libxl/1"));
    EXPECT_TRUE(must(dom0_store->list("/vm", Transaction::none)).empty());
}

}  // namespace
}  // namespace uvif::xen
