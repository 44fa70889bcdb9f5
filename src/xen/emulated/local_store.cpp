// SPDX-License-Identifier: MIT
#include "xen/emulated/local_store.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

#include "xen/store_error.hpp"

namespace uvif::xen {

namespace {

/// What the core answered, in the Store interface's terms.
template <class T>
Result<T> tell(StoreAnswer<T>&& answer, std::string_view what, std::string_view path) {
    if (!answer) {
        return store_failure(answer.error(), what, path);
    }
    if constexpr (std::is_void_v<T>) {
        return {};
    } else {
        return std::move(*answer);
    }
}

}  // namespace

Result<std::unique_ptr<Store>> LocalStore::open(StoreCore& core, DomainId domain) {
    const int event = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (event < 0) {
        return fail(errno, "cannot make an eventfd for a store: raise the limit on open files");
    }
    return std::unique_ptr<Store>(new LocalStore(core, domain, event));
}

LocalStore::LocalStore(StoreCore& core, DomainId domain, int event)
    : session_(core, domain, [event] { ::eventfd_write(event, 1); }), event_(event) {}

LocalStore::~LocalStore() {
    ::close(event_);
}

Result<std::string> LocalStore::read(std::string_view path, Transaction t) {
    return tell(session_.read(path, t), "read", path);
}

Result<std::vector<std::string>> LocalStore::list(std::string_view path, Transaction t) {
    auto listing = session_.list(path, t);
    if (!listing) {
        return store_failure(listing.error(), "list", path);
    }
    return std::move(listing->names);
}

Result<void> LocalStore::write(std::string_view path, std::string_view value, Transaction t) {
    return tell(session_.write(path, value, t), "write", path);
}

Result<void> LocalStore::remove(std::string_view path, Transaction t) {
    return tell(session_.remove(path, t), "remove", path);
}

Result<void> LocalStore::set_permissions(std::string_view path, const std::vector<Permission>& permissions,
                                         Transaction t) {
    return tell(session_.set_permissions(path, permissions, t), "set the permissions of", path);
}

Result<Transaction> LocalStore::begin() {
    return tell(session_.begin(), "begin", "a transaction");
}

Result<bool> LocalStore::commit(Transaction t) {
    const auto ended = session_.end(t, true);
    if (!ended && ended.error() != EAGAIN) {
        return store_failure(ended.error(), "commit", "a transaction");
    }
    return ended.has_value();
}

void LocalStore::abort(Transaction t) noexcept {
    static_cast<void>(session_.end(t, false));
}

Result<void> LocalStore::watch(std::string_view path, std::string_view token) {
    return tell(session_.watch(path, token), "watch", path);
}

Result<void> LocalStore::unwatch(std::string_view path, std::string_view token) {
    return tell(session_.unwatch(path, token), "unwatch", path);
}

std::optional<WatchEvent> LocalStore::next_event() {
    auto event = session_.next_event();
    if (!session_.has_event()) {
        eventfd_t count = 0;
        ::eventfd_read(event_, &count);
    }
    return event;
}

}  // namespace uvif::xen
