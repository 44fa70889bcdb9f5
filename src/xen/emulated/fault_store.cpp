// SPDX-License-Identifier: MIT
#include "xen/emulated/fault_store.hpp"

#include <utility>

#include "xen/store_error.hpp"

namespace uvif::xen {

namespace {

class FaultStore final : public Store {
public:
    FaultStore(std::unique_ptr<Store> store, std::shared_ptr<FaultPlan> plan)
        : store_(std::move(store)), plan_(std::move(plan)) {}

    Result<std::string> read(std::string_view path, Transaction t) override {
        const int fault = plan_->check(Operation::store_read);
        return fault != 0 ? store_failure(fault, "read", path) : store_->read(path, t);
    }
    Result<std::vector<std::string>> list(std::string_view path, Transaction t) override {
        const int fault = plan_->check(Operation::store_list);
        return fault != 0 ? store_failure(fault, "list", path) : store_->list(path, t);
    }
    Result<void> write(std::string_view path, std::string_view value, Transaction t) override {
        const int fault = plan_->check(Operation::store_write);
        return fault != 0 ? store_failure(fault, "write", path) : store_->write(path, value, t);
    }
    Result<void> remove(std::string_view path, Transaction t) override {
        const int fault = plan_->check(Operation::store_remove);
        return fault != 0 ? store_failure(fault, "remove", path) : store_->remove(path, t);
    }
    Result<void> set_permissions(std::string_view path, const std::vector<Permission>& permissions,
                                 Transaction t) override {
        const int fault = plan_->check(Operation::store_set_permissions);
        return fault != 0 ? store_failure(fault, "set the permissions of", path)
                          : store_->set_permissions(path, permissions, t);
    }
    Result<Transaction> begin() override {
        const int fault = plan_->check(Operation::store_begin);
        return fault != 0 ? store_failure(fault, "begin", "a transaction") : store_->begin();
    }
    Result<bool> commit(Transaction t) override {
        const int fault = plan_->check(Operation::store_commit);
        if (fault == 0) {
            return store_->commit(t);
        }
        store_->abort(t);
        return fault == EAGAIN ? Result<bool>(false) : store_failure(fault, "commit", "a transaction");
    }
    void abort(Transaction t) noexcept override { store_->abort(t); }
    Result<void> watch(std::string_view path, std::string_view token) override {
        const int fault = plan_->check(Operation::store_watch);
        return fault != 0 ? store_failure(fault, "watch", path) : store_->watch(path, token);
    }
    Result<void> unwatch(std::string_view path, std::string_view token) override {
        const int fault = plan_->check(Operation::store_unwatch);
        return fault != 0 ? store_failure(fault, "unwatch", path) : store_->unwatch(path, token);
    }
    [[nodiscard]] int fd() const noexcept override { return store_->fd(); }
    std::optional<WatchEvent> next_event() override { return store_->next_event(); }

private:
    std::unique_ptr<Store> store_;
    std::shared_ptr<FaultPlan> plan_;
};

}  // namespace

std::unique_ptr<Store> with_faults(std::unique_ptr<Store> store, std::shared_ptr<FaultPlan> plan) {
    return std::make_unique<FaultStore>(std::move(store), std::move(plan));
}

}  // namespace uvif::xen
