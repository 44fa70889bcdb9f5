// SPDX-License-Identifier: MIT
#pragma once

#include <cerrno>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "uvif/error.hpp"
#include "xen/types.hpp"

namespace uvif::xen {

/// 0 is "outside any transaction", as on the wire (io/xs_wire.h).
enum class Transaction : std::uint32_t { none = 0 };

/// A watch says where to look again, never what is there: read, do not trust.
struct WatchEvent {
    std::string path;
    std::string token;
};

/// Permission letters of xenstore: n none, r read, w write, b both. The first entry names the
/// owner, and its letter is what domains not listed may do.
struct Permission {
    DomainId domain;
    char letter;
};

/// A connection to xenstore. Paths are absolute, or relative to /local/domain/<self>.
/// Values are bytes of anybody's making: see store_path.hpp for strict readers.
/// Calls block for a round trip: control threads only. Thread rule: one thread at a time.
/// Errors carry the store's errno (ENOENT, EACCES, EAGAIN, EQUOTA as ENOSPC, ...).
class Store {
public:
    Store() = default;
    Store(const Store&) = delete;
    Store& operator=(const Store&) = delete;
    virtual ~Store() = default;

    virtual Result<std::string> read(std::string_view path, Transaction t = Transaction::none) = 0;
    virtual Result<std::vector<std::string>> list(std::string_view path, Transaction t = Transaction::none) = 0;
    virtual Result<void> write(std::string_view path, std::string_view value, Transaction t = Transaction::none) = 0;
    virtual Result<void> remove(std::string_view path, Transaction t = Transaction::none) = 0;
    virtual Result<void> set_permissions(std::string_view path, const std::vector<Permission>& permissions,
                                         Transaction t = Transaction::none) = 0;

    virtual Result<Transaction> begin() = 0;
    /// False when the transaction met a conflict (EAGAIN) and nothing of it happened: do it again.
    virtual Result<bool> commit(Transaction t) = 0;
    virtual void abort(Transaction t) noexcept = 0;

    /// Every watch fires once at registration.
    virtual Result<void> watch(std::string_view path, std::string_view token) = 0;
    virtual Result<void> unwatch(std::string_view path, std::string_view token) = 0;
    /// Readable while `next_event` has something.
    [[nodiscard]] virtual int fd() const noexcept = 0;
    virtual std::optional<WatchEvent> next_event() = 0;
};

/// Runs `body(Transaction) -> Result<void>` in a transaction, again on EAGAIN, up to `attempts` times.
template <class Body>
Result<void> transact(Store& store, Body&& body, unsigned attempts = 100) {
    while (attempts-- != 0) {
        auto t = store.begin();
        if (!t) {
            return propagate(t);
        }
        Result<void> done = body(*t);
        if (!done) {
            store.abort(*t);
            return done;
        }
        auto committed = store.commit(*t);
        if (!committed) {
            return propagate(committed);
        }
        if (*committed) {
            return {};
        }
    }
    return fail(EAGAIN, "xenstore transaction kept conflicting with other writers");
}

}  // namespace uvif::xen
