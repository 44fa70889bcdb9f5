// SPDX-License-Identifier: MIT
#include "xen/xenbus.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <string>

#include "xen/emulated/local_store.hpp"

namespace uvif::xen {
namespace {

using enum XenbusState;

TEST(Xenbus, ReadsStatesStrictly) {
    EXPECT_EQ(parse_xenbus_state("1"), initialising);
    EXPECT_EQ(parse_xenbus_state("8"), reconfigured);
    for (const char* garbage : {"", "9", "-1", " 4", "4 ", "four", "4294967300"}) {
        EXPECT_EQ(parse_xenbus_state(garbage), unknown) << garbage;
    }
    EXPECT_EQ(to_string(init_wait), "InitWait");
    EXPECT_EQ(to_string(reconfigured), "Reconfigured");
    EXPECT_EQ(to_string(static_cast<XenbusState>(200)), "Unknown");
}

TEST(Xenbus, ReadsHotplugStatus) {
    EXPECT_EQ(parse_hotplug(""), Hotplug::pending);
    EXPECT_EQ(parse_hotplug("connected"), Hotplug::connected);
    EXPECT_EQ(parse_hotplug("error"), Hotplug::error);
    EXPECT_EQ(parse_hotplug("anything"), Hotplug::pending);
}

class XenbusNodes : public testing::Test {
protected:
    StoreCore core_;
    std::unique_ptr<Store> store_ = LocalStore::open(core_, DomainId{0}).value();
};

TEST_F(XenbusNodes, AreChangedWhereTheyStandAsExpected) {
    ASSERT_TRUE(store_->write("/b/state", "4"));
    EXPECT_TRUE(change_state(*store_, "/b", connected, closing).value());
    EXPECT_EQ(store_->read("/b/state").value(), "5");
    EXPECT_FALSE(change_state(*store_, "/b", connected, init_wait).value());
    EXPECT_EQ(store_->read("/b/state").value(), "5");
    EXPECT_TRUE(write_state(*store_, "/b", closed));
    EXPECT_EQ(store_->read("/b/state").value(), "6");
}

TEST_F(XenbusNodes, AreNotMadeAgainOnceRemoved) {
    const auto changed = change_state(*store_, "/b", connected, closing);
    ASSERT_FALSE(changed);
    EXPECT_EQ(changed.error().code, ENOENT);
    const auto written = write_state(*store_, "/b", closed);
    ASSERT_FALSE(written);
    EXPECT_EQ(written.error().code, ENOENT);
    EXPECT_FALSE(store_->list("/b"));
}

/// A store in which the toolstack acts in the middle of our first transaction.
class Interrupted final : public Store {
public:
    Interrupted(Store& store, StoreCore& core, bool removes) : store_(store), core_(core), removes_(removes) {}

    Result<std::string> read(std::string_view path, Transaction t) override {
        auto value = store_.read(path, t);
        if (!done_) {
            done_ = true;
            StoreSession toolstack(core_, DomainId{0});
            EXPECT_TRUE(removes_ ? toolstack.remove("/b", Transaction::none)
                                 : toolstack.write("/b/state", "5", Transaction::none));
        }
        return value;
    }
    Result<std::vector<std::string>> list(std::string_view path, Transaction t) override {
        return store_.list(path, t);
    }
    Result<void> write(std::string_view path, std::string_view value, Transaction t) override {
        return store_.write(path, value, t);
    }
    Result<void> remove(std::string_view path, Transaction t) override { return store_.remove(path, t); }
    Result<void> set_permissions(std::string_view path, const std::vector<Permission>& p, Transaction t) override {
        return store_.set_permissions(path, p, t);
    }
    Result<Transaction> begin() override { return store_.begin(); }
    Result<bool> commit(Transaction t) override { return store_.commit(t); }
    void abort(Transaction t) noexcept override { store_.abort(t); }
    Result<void> watch(std::string_view path, std::string_view token) override { return store_.watch(path, token); }
    Result<void> unwatch(std::string_view path, std::string_view token) override { return store_.unwatch(path, token); }
    [[nodiscard]] int fd() const noexcept override { return store_.fd(); }
    std::optional<WatchEvent> next_event() override { return store_.next_event(); }

private:
    Store& store_;
    StoreCore& core_;
    bool removes_;
    bool done_ = false;
};

TEST_F(XenbusNodes, RacesWithTheToolstackAreLostInGoodOrder) {
    ASSERT_TRUE(store_->write("/b/state", "2"));
    Interrupted detached(*store_, core_, false);
    EXPECT_FALSE(change_state(detached, "/b", init_wait, connected).value());
    EXPECT_EQ(store_->read("/b/state").value(), "5");

    Interrupted removed(*store_, core_, true);
    const auto lost = write_state(removed, "/b", closed);
    ASSERT_FALSE(lost);
    EXPECT_EQ(lost.error().code, ENOENT);
    EXPECT_FALSE(store_->list("/b"));
}

}  // namespace
}  // namespace uvif::xen
