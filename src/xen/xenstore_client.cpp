// SPDX-License-Identifier: MIT
#include "xen/xenstore_client.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
extern "C" {
#include <xenstore.h>
}

#include <cerrno>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "xen/store_error.hpp"

/// Theory of operation
///
/// libxenstore in RAII, with two of its habits kept from doing harm. It takes the socket's path from the environment
/// only, so opening sets XENSTORED_PATH for a moment, one opening at a time. And it swaps the handler of SIGPIPE
/// around every write, which two threads with a connection each can leave at "die": so SIGPIPE is blocked in
/// the calling thread meanwhile. Its reader thread (started by the first watch) blocks all signals by itself.
namespace uvif::xen {

namespace {

constexpr const char* path_variable = "XENSTORED_PATH";

struct Free {
    void operator()(void* memory) const noexcept { std::free(memory); }
};
template <class T>
using Malloced = std::unique_ptr<T, Free>;

/// Keeps a write to a store that has died from killing the process.
class SigpipeBlocked {
public:
    SigpipeBlocked() noexcept {
        sigset_t pending;
        ::sigpending(&pending);
        was_pending_ = ::sigismember(&pending, SIGPIPE) == 1;
        ::sigemptyset(&only_sigpipe_);
        ::sigaddset(&only_sigpipe_, SIGPIPE);
        ::pthread_sigmask(SIG_BLOCK, &only_sigpipe_, &before_);
    }
    SigpipeBlocked(const SigpipeBlocked&) = delete;
    SigpipeBlocked& operator=(const SigpipeBlocked&) = delete;
    ~SigpipeBlocked() {
        const int error = errno;  // what the guarded call failed with
        constexpr timespec at_once{};
        if (!was_pending_) {
            ::sigtimedwait(&only_sigpipe_, nullptr, &at_once);
        }
        ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
        errno = error;
    }

private:
    sigset_t only_sigpipe_;
    sigset_t before_;
    bool was_pending_;
};

/// Sets XENSTORED_PATH while it lives, unless `path` is empty. Holders of the lock only.
class PathInEnvironment {
public:
    explicit PathInEnvironment(const std::string& path) : set_(!path.empty()) {
        if (set_) {
            if (const char* before = std::getenv(path_variable)) {
                before_ = before;
            }
            ::setenv(path_variable, path.c_str(), 1);
        }
    }
    PathInEnvironment(const PathInEnvironment&) = delete;
    PathInEnvironment& operator=(const PathInEnvironment&) = delete;
    ~PathInEnvironment() {
        if (set_ && before_) {
            ::setenv(path_variable, before_->c_str(), 1);
        } else if (set_) {
            ::unsetenv(path_variable);
        }
    }

private:
    bool set_;
    std::optional<std::string> before_;
};

unsigned int permission_bits(char letter) noexcept {
    switch (letter) {
        case 'r':
            return XS_PERM_READ;
        case 'w':
            return XS_PERM_WRITE;
        case 'b':
            return XS_PERM_READ | XS_PERM_WRITE;
        default:
            return XS_PERM_NONE;
    }
}

class LibxenstoreStore final : public Store {
public:
    explicit LibxenstoreStore(xs_handle* handle) : handle_(handle), fd_(::xs_fileno(handle)) {}
    ~LibxenstoreStore() override {
        const SigpipeBlocked guard;
        ::xs_close(handle_);
    }

    Result<std::string> read(std::string_view path, Transaction t) override {
        unsigned int length = 0;
        const Malloced<void> value(call(path, [&](const char* p) { return ::xs_read(handle_, id(t), p, &length); }));
        if (!value) {
            return failed("read", path);
        }
        return std::string(static_cast<const char*>(value.get()), length);
    }

    Result<std::vector<std::string>> list(std::string_view path, Transaction t) override {
        unsigned int count = 0;
        const Malloced<char*> names(
            call(path, [&](const char* p) { return ::xs_directory(handle_, id(t), p, &count); }));
        if (!names) {
            return failed("list", path);
        }
        const std::span<char*> each(names.get(), count);
        return std::vector<std::string>(each.begin(), each.end());
    }

    Result<void> write(std::string_view path, std::string_view value, Transaction t) override {
        const bool done = call(path, [&](const char* p) {
            return ::xs_write(handle_, id(t), p, value.data(), static_cast<unsigned int>(value.size()));
        });
        return done ? Result<void>{} : failed("write", path);
    }

    Result<void> remove(std::string_view path, Transaction t) override {
        const bool done = call(path, [&](const char* p) { return ::xs_rm(handle_, id(t), p); });
        return done ? Result<void>{} : failed("remove", path);
    }

    Result<void> set_permissions(std::string_view path, const std::vector<Permission>& permissions,
                                 Transaction t) override {
        std::vector<xs_permissions> entries;
        for (const Permission& entry : permissions) {
            entries.push_back({std::to_underlying(entry.domain), permission_bits(entry.letter)});
        }
        const bool done = call(path, [&](const char* p) {
            return ::xs_set_permissions(handle_, id(t), p, entries.data(), static_cast<unsigned int>(entries.size()));
        });
        return done ? Result<void>{} : failed("set the permissions of", path);
    }

    Result<Transaction> begin() override {
        const SigpipeBlocked guard;
        const xs_transaction_t t = ::xs_transaction_start(handle_);
        if (t == XBT_NULL) {
            return failed("begin", "a transaction");
        }
        return Transaction{t};
    }

    Result<bool> commit(Transaction t) override {
        const SigpipeBlocked guard;
        if (::xs_transaction_end(handle_, id(t), false)) {
            return true;
        }
        if (errno == EAGAIN) {
            return false;
        }
        return failed("commit", "a transaction");
    }

    void abort(Transaction t) noexcept override {
        const SigpipeBlocked guard;
        ::xs_transaction_end(handle_, id(t), true);
    }

    Result<void> watch(std::string_view path, std::string_view token) override {
        const std::string name(token);
        const bool done = call(path, [&](const char* p) { return ::xs_watch(handle_, p, name.c_str()); });
        return done ? Result<void>{} : failed("watch", path);
    }

    Result<void> unwatch(std::string_view path, std::string_view token) override {
        const std::string name(token);
        const bool done = call(path, [&](const char* p) { return ::xs_unwatch(handle_, p, name.c_str()); });
        return done ? Result<void>{} : failed("unwatch", path);
    }

    [[nodiscard]] int fd() const noexcept override { return fd_; }

    std::optional<WatchEvent> next_event() override {
        const Malloced<char*> event(::xs_check_watch(handle_));
        if (!event) {
            return std::nullopt;
        }
        return WatchEvent{event.get()[XS_WATCH_PATH], event.get()[XS_WATCH_TOKEN]};
    }

private:
    static xs_transaction_t id(Transaction t) noexcept { return std::to_underlying(t); }

    /// Calls `function` with the path as a C string. A path with a NUL in it would become another path.
    template <class Function>
    static auto call(std::string_view path, Function&& function) -> decltype(function("")) {
        if (path.find('\0') != std::string_view::npos) {
            errno = EINVAL;
            return {};
        }
        const std::string name(path);
        const SigpipeBlocked guard;
        errno = 0;
        return function(name.c_str());
    }

    /// Words errno. libxenstore says EINVAL too when the connection broke while it waited for an answer, so one more
    /// question tells.
    std::unexpected<Error> failed(std::string_view what, std::string_view path) const {
        const int error = errno;
        bool lost = error == EBADF || error == EPIPE || error == ECONNRESET;
        if (error == EINVAL) {
            const SigpipeBlocked guard;
            lost = Malloced<char>(::xs_get_domain_path(handle_, 0)) == nullptr;
        }
        if (lost) {
            return fail(ENOTCONN,
                        fmt::format("cannot {} {} in xenstore: the connection to the store is lost: xenstored (or "
                                    "uvif-machine) ended, or has no file descriptor left for it (ulimit -n)",
                                    what, path));
        }
        return store_failure(error != 0 ? error : EIO, what, path);
    }

    xs_handle* handle_;
    int fd_;
};

}  // namespace

Result<std::unique_ptr<Store>> open_libxenstore(std::string_view socket_path) {
    const std::string path(socket_path);
    // libxenstore would take a plain file for the kernel's device, and talk to it for ever.
    struct stat status{};
    if (!path.empty() && ::stat(path.c_str(), &status) == 0 && !S_ISSOCK(status.st_mode)) {
        return fail(ENOTSOCK, fmt::format("cannot open xenstore at {}: it is not a socket", path));
    }
    static std::mutex environment;
    const std::lock_guard lock(environment);
    const PathInEnvironment in_environment(path);
    xs_handle* const handle = ::xs_open(0);
    if (handle == nullptr) {
        // ENXIO is what opening a socket like a file says, the library's second attempt.
        const int error = errno == ENXIO ? ECONNREFUSED : errno;
        const char* const remedy = path.empty() ? "is this a Xen domain, and does this user have access to it?"
                                                : "is the machine that serves it running?";
        return fail(error, fmt::format("cannot open xenstore{}{}: {}: {}", path.empty() ? "" : " at ", path,
                                       std::generic_category().message(error), remedy));
    }
    if (::xs_fileno(handle) < 0) {
        const int error = errno;
        ::xs_close(handle);
        return fail(error, "cannot make a pipe for xenstore's events: raise the limit on open files");
    }
    return std::make_unique<LibxenstoreStore>(handle);
}

}  // namespace uvif::xen
