// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <expected>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "xen/emulated/store_tree.hpp"
#include "xen/store.hpp"
#include "xen/types.hpp"

/// Theory of operation
///
/// xenstored without sockets: one tree, and sessions that act on it as some domain. Nothing here depends on time or
/// threads, so the same calls always give the same answers and the same events in the same order.
///
/// A transaction works on its own copy of the tree and notes the generation of every node that it touches. At
/// commit each of these must be the same in the store as it was (EAGAIN otherwise); then what it changed is carried
/// over and its events fire. One that changed nothing read one consistent moment of the store, and commits always.
///
/// Events wait in the session until they are fetched. The same path and token waits only once, since an event only
/// says where to look again; and when too many different ones wait, a watch is told to look at its own path
/// instead, which covers all of them. So a client that never reads holds a bounded amount of memory.
namespace uvif::xen {

/// What an unprivileged domain may have, as xenstored's defaults. dom0 may have any amount.
struct StoreQuota {
    std::size_t nodes = 1000;              ///< nodes owned by the domain: ENOSPC
    std::size_t value_size = 2048;         ///< octets of one value: ENOSPC
    std::size_t watches = 128;             ///< of all sessions of the domain: ENOSPC
    std::size_t transactions = 10;         ///< open at a time, of all sessions of the domain: ENOSPC
    std::size_t transaction_nodes = 1024;  ///< nodes that one transaction touches: ENOSPC
    std::size_t permissions = 5;           ///< entries of one node: ENOSPC
};

/// Different events that wait in a session before its watches fall back to their own paths.
inline constexpr std::size_t store_pending_events_max = 1024;

/// Longest paths (io/xs_wire.h); longer ones are EINVAL.
inline constexpr std::size_t store_absolute_path_max = 3072;
inline constexpr std::size_t store_relative_path_max = 2048;

/// An answer of the store: an errno value where it fails.
template <class T = void>
using StoreAnswer = std::expected<T, int>;

inline std::unexpected<int> refuse(int error) {
    return std::unexpected<int>(error);
}

class StoreSession;

/// Thread rule: one thread for the core and all of its sessions.
class StoreCore {
public:
    explicit StoreCore(const StoreQuota& quota = {}) : quota_(quota) {}
    StoreCore(const StoreCore&) = delete;
    StoreCore& operator=(const StoreCore&) = delete;
    ~StoreCore() = default;

    /// The domain exists from now on: fires @introduceDomain.
    void introduce(DomainId domain);
    /// It is gone: what it owned is removed, its name is struck off all permissions so that a later domain of the same
    /// number inherits nothing, and @releaseDomain fires.
    void release(DomainId domain);
    [[nodiscard]] bool introduced(DomainId domain) const { return introduced_.contains(domain); }

    [[nodiscard]] const StoreTree& tree() const noexcept { return tree_; }
    [[nodiscard]] const StoreQuota& quota() const noexcept { return quota_; }

private:
    friend class StoreSession;

    /// Something changed at `path`. `exact`: only watches on that very node are told, not those above it.
    struct Change {
        std::string path;
        bool exact = false;
        Permissions before;  ///< of a node that was there, empty otherwise
    };

    void fire(const Change& change);
    [[nodiscard]] bool may_know(DomainId domain, const Change& change) const;

    StoreQuota quota_;
    StoreTree tree_;
    std::uint64_t generation_ = 1;  ///< the last one given to a node
    std::uint64_t version_ = 0;     ///< changes of tree_
    std::set<DomainId> introduced_ = {DomainId{0}};
    /// @introduceDomain and @releaseDomain are nodes that only have permissions.
    std::map<std::string, Permissions, std::less<>> special_ = {
        {"@introduceDomain", {Permission{DomainId{0}, 'n'}}},
        {"@releaseDomain", {Permission{DomainId{0}, 'n'}}},
    };
    std::vector<StoreSession*> sessions_;
};

/// One connection of one domain. Paths are as the Store interface has them. Errors: EINVAL for a path that breaks
/// the rules or the root where it cannot be meant, ENOENT, EACCES (also for missing nodes below ones that may not be
/// read), EPERM, EEXIST, EAGAIN, ENOSPC for every quota; ENOENT for a transaction that is not open.
/// The core outlives it.
class StoreSession {
public:
    struct Listing {
        std::vector<std::string> names;
        std::uint64_t generation = 0;
    };

    /// `on_event` is called when the first event comes to wait; it must not call back into the store.
    StoreSession(StoreCore& core, DomainId domain, std::function<void()> on_event = {});
    StoreSession(const StoreSession&) = delete;
    StoreSession& operator=(const StoreSession&) = delete;
    ~StoreSession();

    [[nodiscard]] DomainId domain() const noexcept { return domain_; }
    [[nodiscard]] bool privileged() const noexcept { return domain_ == DomainId{0}; }
    [[nodiscard]] const StoreCore& core() const noexcept { return core_; }

    StoreAnswer<std::string> read(std::string_view path, Transaction t);
    StoreAnswer<Listing> list(std::string_view path, Transaction t);
    StoreAnswer<Permissions> permissions(std::string_view path, Transaction t);

    /// Missing parents are made too; whoever makes a node owns it, and it has its parent's permissions otherwise.
    StoreAnswer<> write(std::string_view path, std::string_view value, Transaction t);
    StoreAnswer<> make_directory(std::string_view path, Transaction t);
    /// A missing node is fine when its parent exists.
    StoreAnswer<> remove(std::string_view path, Transaction t);
    StoreAnswer<> set_permissions(std::string_view path, const Permissions& permissions, Transaction t);

    StoreAnswer<Transaction> begin();
    StoreAnswer<> end(Transaction t, bool commit);

    StoreAnswer<> watch(std::string_view path, std::string_view token);
    StoreAnswer<> unwatch(std::string_view path, std::string_view token);
    /// Forgets all watches, transactions and waiting events.
    void reset();

    [[nodiscard]] bool has_event() const noexcept { return !events_.empty(); }
    std::optional<WatchEvent> next_event();

private:
    friend class StoreCore;
    using Change = StoreCore::Change;

    struct Watch {
        std::string path;  ///< canonical
        std::string token;
        std::size_t prefix;  ///< octets to leave out of event paths, for a relative watch
    };
    struct OpenTransaction {
        StoreTree tree;
        std::uint64_t version;                                   ///< of the core's tree when it was copied
        std::map<std::string, std::uint64_t, std::less<>> seen;  ///< generations at the first touch
        std::set<std::string, std::less<>> modified;
        std::vector<Change> changes;
    };
    /// Where an operation works: the store itself, or a transaction's copy.
    struct Scope {
        StoreTree& tree;
        OpenTransaction* transaction;
    };

    [[nodiscard]] std::optional<std::string> canonical_path(std::string_view path, bool special) const;
    StoreAnswer<Scope> scope(Transaction t);
    StoreAnswer<> touch(Scope& scope, std::string_view path);
    StoreAnswer<const StoreNode*> look_up(Scope& scope, std::string_view path, char right);
    StoreAnswer<> create(Scope& scope, const std::string& path);
    StoreAnswer<> set_special_permissions(const std::string& path, const Permissions& permissions);
    void changed(Scope& scope, Change change);
    StoreAnswer<> commit(OpenTransaction& open);
    [[nodiscard]] std::size_t of_domain(std::size_t (*count)(const StoreSession&)) const;
    void deliver(const Watch& watch, std::string_view path);

    StoreCore& core_;
    const DomainId domain_;
    const std::string home_;  ///< "/local/domain/N/"
    std::function<void()> on_event_;
    std::vector<Watch> watches_;
    std::map<Transaction, OpenTransaction> transactions_;
    std::uint32_t last_transaction_ = 0;
    std::deque<WatchEvent> events_;
    std::set<std::pair<std::string, std::string>> waiting_;  ///< path and token of every one in events_
};

/// What the letters of `permissions` allow `domain`: `right` is 'r' or 'w'.
[[nodiscard]] bool permits(const Permissions& permissions, DomainId domain, char right) noexcept;

}  // namespace uvif::xen
