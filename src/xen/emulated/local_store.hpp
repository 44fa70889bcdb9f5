// SPDX-License-Identifier: MIT
#pragma once

#include <memory>

#include "uvif/error.hpp"
#include "xen/emulated/store_core.hpp"
#include "xen/store.hpp"

namespace uvif::xen {

/// A Store straight over a StoreCore of the same process: what seeded single-threaded tests use.
/// Thread rule: that of the core, which outlives it.
class LocalStore final : public Store {
public:
    static Result<std::unique_ptr<Store>> open(StoreCore& core, DomainId domain);
    ~LocalStore() override;

    Result<std::string> read(std::string_view path, Transaction t) override;
    Result<std::vector<std::string>> list(std::string_view path, Transaction t) override;
    Result<void> write(std::string_view path, std::string_view value, Transaction t) override;
    Result<void> remove(std::string_view path, Transaction t) override;
    Result<void> set_permissions(std::string_view path, const std::vector<Permission>& permissions,
                                 Transaction t) override;
    Result<Transaction> begin() override;
    Result<bool> commit(Transaction t) override;
    void abort(Transaction t) noexcept override;
    Result<void> watch(std::string_view path, std::string_view token) override;
    Result<void> unwatch(std::string_view path, std::string_view token) override;
    [[nodiscard]] int fd() const noexcept override { return event_; }
    std::optional<WatchEvent> next_event() override;

private:
    LocalStore(StoreCore& core, DomainId domain, int event);

    StoreSession session_;
    int event_;  ///< an eventfd, readable while events wait
};

}  // namespace uvif::xen
