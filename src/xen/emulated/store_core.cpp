// SPDX-License-Identifier: MIT
#include "xen/emulated/store_core.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

namespace uvif::xen {

namespace {

bool is_path_character(char c) noexcept {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '/' ||
           c == '_' || c == '@';
}

/// `path` itself or something below it.
bool is_at_or_below(std::string_view path, std::string_view top) noexcept {
    return path.starts_with(top) && (top == "/" || path.size() == top.size() || path[top.size()] == '/');
}

}  // namespace

bool permits(const Permissions& permissions, DomainId domain, char right) noexcept {
    if (domain == dom0 || permissions.front().domain == domain) {
        return true;
    }
    const auto listed = std::find_if(permissions.begin() + 1, permissions.end(),
                                     [domain](const Permission& entry) { return entry.domain == domain; });
    const char letter = listed != permissions.end() ? listed->letter : permissions.front().letter;
    return letter == right || letter == 'b';
}

void StoreCore::introduce(DomainId domain) {
    if (introduced_.insert(domain).second) {
        fire(Change{"@introduceDomain", true, {}});
    }
}

void StoreCore::release(DomainId domain) {
    if (introduced_.erase(domain) == 0) {
        return;
    }
    std::vector<std::string> orphans;
    std::vector<std::pair<std::string, Permissions>> shared;
    tree_.walk("/", [&](const std::string& path, const StoreNode& node) {
        if (!orphans.empty() && is_at_or_below(path, orphans.back())) {
            return;
        }
        Permissions kept = node.permissions;
        if (kept.front().domain == domain) {
            if (path != "/") {
                orphans.push_back(path);
                return;
            }
            kept.front() = {dom0, 'n'};  // somebody gave the root away, and it cannot go
        }
        std::erase_if(kept, [domain](const Permission& entry) { return entry.domain == domain; });
        if (node.permissions.front().domain == domain || kept.size() != node.permissions.size()) {
            shared.emplace_back(path, std::move(kept));
        }
    });
    for (auto& [path, kept] : shared) {
        tree_.set_permissions(path, std::move(kept), ++generation_);
    }
    for (const std::string& path : orphans) {
        std::vector<Change> changes;
        tree_.walk(path, [&](const std::string& below, const StoreNode& node) {
            changes.push_back({below, below != path, node.permissions});
        });
        tree_.remove(path, ++generation_);
        std::ranges::for_each(changes, [this](const Change& change) { fire(change); });
    }
    ++version_;
    fire(Change{"@releaseDomain", true, {}});
}

void StoreCore::fire(const Change& change) {
    for (StoreSession* session : sessions_) {
        if (!may_know(session->domain(), change)) {
            continue;
        }
        for (const auto& watch : session->watches_) {
            if (change.exact ? change.path == watch.path : is_at_or_below(change.path, watch.path)) {
                session->deliver(watch, change.path);
            }
        }
    }
}

/// As xenstored: whoever may read the node, or could before, or may read its parent, may know that it changed.
bool StoreCore::may_know(DomainId domain, const Change& change) const {
    if (domain == dom0 || (!change.before.empty() && permits(change.before, domain, 'r'))) {
        return true;
    }
    if (const auto special = special_.find(change.path); special != special_.end()) {
        return permits(special->second, domain, 'r');
    }
    const StoreNode* node = tree_.find(change.path);
    const StoreNode* parent = tree_.find(parent_path(change.path));
    return (node != nullptr && permits(node->permissions, domain, 'r')) ||
           (parent != nullptr && permits(parent->permissions, domain, 'r'));
}

StoreSession::StoreSession(StoreCore& core, DomainId domain, std::function<void()> on_event)
    : core_(core),
      domain_(domain),
      home_(fmt::format("/local/domain/{}/", std::to_underlying(domain))),
      on_event_(std::move(on_event)) {
    core_.sessions_.push_back(this);
}

StoreSession::~StoreSession() {
    std::erase(core_.sessions_, this);
}

/// nullopt where the path breaks a rule.
std::optional<std::string> StoreSession::canonical_path(std::string_view path, bool special) const {
    if (path.empty() || !std::ranges::all_of(path, is_path_character)) {
        return std::nullopt;
    }
    if (path.front() == '@') {
        return special && path.size() <= store_relative_path_max ? std::optional<std::string>(path) : std::nullopt;
    }
    const bool relative = path.front() != '/';
    if (relative && path.size() > store_relative_path_max) {
        return std::nullopt;
    }
    std::string full = relative ? home_ + std::string(path) : std::string(path);
    const bool ends_badly = full.size() > 1 && full.back() == '/';
    if (ends_badly || full.size() > store_absolute_path_max || full.find("//") != std::string::npos) {
        return std::nullopt;
    }
    return full;
}

StoreAnswer<StoreSession::Scope> StoreSession::scope(Transaction t) {
    if (t == Transaction::none) {
        return Scope{core_.tree_, nullptr};
    }
    const auto open = transactions_.find(t);
    if (open == transactions_.end()) {
        return refuse(ENOENT);
    }
    return Scope{open->second.tree, &open->second};
}

/// Notes that a transaction depends on this node, or on there being none. Comes before any change of it.
StoreAnswer<> StoreSession::touch(Scope& scope, std::string_view path) {
    OpenTransaction* const open = scope.transaction;
    if (open == nullptr || open->seen.contains(path)) {
        return {};
    }
    if (!privileged() && open->seen.size() >= core_.quota_.transaction_nodes) {
        return refuse(ENOSPC);
    }
    open->seen.emplace(path, scope.tree.generation(path));
    return {};
}

/// The node; nullptr when it is missing and `right` to its nearest ancestor lets the domain know that.
StoreAnswer<const StoreNode*> StoreSession::look_up(Scope& scope, std::string_view path, char right) {
    if (auto noted = touch(scope, path); !noted) {
        return refuse(noted.error());
    }
    if (!permits(scope.tree.nearest(path).permissions, domain_, right)) {
        return refuse(EACCES);
    }
    return scope.tree.find(path);
}

StoreAnswer<std::string> StoreSession::read(std::string_view path, Transaction t) {
    const auto full = canonical_path(path, false);
    auto where = scope(t);
    if (!full || !where) {
        return refuse(!full ? EINVAL : where.error());
    }
    auto node = look_up(*where, *full, 'r');
    if (!node || *node == nullptr) {
        return refuse(!node ? node.error() : ENOENT);
    }
    return (*node)->value;
}

StoreAnswer<StoreSession::Listing> StoreSession::list(std::string_view path, Transaction t) {
    const auto full = canonical_path(path, false);
    auto where = scope(t);
    if (!full || !where) {
        return refuse(!full ? EINVAL : where.error());
    }
    auto node = look_up(*where, *full, 'r');
    if (!node || *node == nullptr) {
        return refuse(!node ? node.error() : ENOENT);
    }
    Listing listing{{}, (*node)->generation};
    for (const auto& [name, child] : (*node)->children) {
        listing.names.push_back(name);
    }
    return listing;
}

StoreAnswer<Permissions> StoreSession::permissions(std::string_view path, Transaction t) {
    const auto full = canonical_path(path, true);
    auto where = scope(t);
    if (!full || !where) {
        return refuse(!full ? EINVAL : where.error());
    }
    if (full->front() == '@') {
        const auto special = core_.special_.find(*full);
        if (special == core_.special_.end() || !permits(special->second, domain_, 'r')) {
            return refuse(special == core_.special_.end() && privileged() ? ENOENT : EACCES);
        }
        return special->second;
    }
    auto node = look_up(*where, *full, 'r');
    if (!node || *node == nullptr) {
        return refuse(!node ? node.error() : ENOENT);
    }
    return (*node)->permissions;
}

/// Makes the node and whatever parents are missing.
StoreAnswer<> StoreSession::create(Scope& scope, const std::string& path) {
    std::vector<std::string_view> missing;
    std::string_view at = path;
    while (scope.tree.find(at) == nullptr) {
        missing.push_back(at);
        at = parent_path(at);
    }
    if (!privileged() && scope.tree.owned(domain_) + missing.size() > core_.quota_.nodes) {
        return refuse(ENOSPC);
    }
    if (auto noted = touch(scope, at); !noted) {
        return noted;
    }
    for (const std::string_view each : missing) {
        if (auto noted = touch(scope, each); !noted) {
            return noted;
        }
    }
    Permissions inherited = scope.tree.find(at)->permissions;
    if (!privileged()) {
        inherited.front().domain = domain_;
    }
    for (auto each = missing.rbegin(); each != missing.rend(); ++each) {
        scope.tree.create(*each, inherited, ++core_.generation_);
        if (scope.transaction != nullptr) {
            scope.transaction->modified.emplace(*each);
        }
    }
    return {};
}

StoreAnswer<> StoreSession::write(std::string_view path, std::string_view value, Transaction t) {
    const auto full = canonical_path(path, false);
    auto where = scope(t);
    if (!full || !where) {
        return refuse(!full ? EINVAL : where.error());
    }
    auto node = look_up(*where, *full, 'w');
    if (!node) {
        return refuse(node.error());
    }
    if (!privileged() && value.size() > core_.quota_.value_size) {
        return refuse(ENOSPC);
    }
    Change change{*full, false, *node != nullptr ? (*node)->permissions : Permissions{}};
    if (*node == nullptr) {
        if (auto made = create(*where, *full); !made) {
            return made;
        }
    }
    where->tree.set_value(*full, value, ++core_.generation_);
    changed(*where, std::move(change));
    return {};
}

StoreAnswer<> StoreSession::make_directory(std::string_view path, Transaction t) {
    const auto full = canonical_path(path, false);
    auto where = scope(t);
    if (!full || !where) {
        return refuse(!full ? EINVAL : where.error());
    }
    auto node = look_up(*where, *full, 'w');
    if (!node) {
        return refuse(node.error());
    }
    if (*node != nullptr) {
        return {};
    }
    if (auto made = create(*where, *full); !made) {
        return made;
    }
    changed(*where, Change{*full, false, {}});
    return {};
}

StoreAnswer<> StoreSession::remove(std::string_view path, Transaction t) {
    const auto full = canonical_path(path, false);
    auto where = scope(t);
    if (!full || !where) {
        return refuse(!full ? EINVAL : where.error());
    }
    auto node = look_up(*where, *full, 'w');
    if (!node || *full == "/") {
        return refuse(!node ? node.error() : EINVAL);
    }
    if (*node == nullptr) {
        return where->tree.find(parent_path(*full)) != nullptr ? StoreAnswer<>{} : refuse(ENOENT);
    }
    std::vector<Change> changes;
    where->tree.walk(*full, [&](const std::string& below, const StoreNode& each) {
        changes.push_back({below, below != *full, each.permissions});
    });
    if (auto noted = touch(*where, parent_path(*full)); !noted) {
        return noted;
    }
    for (const Change& change : changes) {
        if (auto noted = touch(*where, change.path); !noted) {
            return noted;
        }
    }
    where->tree.remove(*full, ++core_.generation_);
    for (Change& change : changes) {
        changed(*where, std::move(change));
    }
    return {};
}

StoreAnswer<> StoreSession::set_special_permissions(const std::string& path, const Permissions& permissions) {
    const auto special = core_.special_.find(path);
    if (!privileged() || special == core_.special_.end()) {
        return refuse(privileged() ? ENOENT : EACCES);
    }
    special->second = permissions;
    return {};
}

StoreAnswer<> StoreSession::set_permissions(std::string_view path, const Permissions& permissions, Transaction t) {
    const auto full = canonical_path(path, true);
    auto where = scope(t);
    if (!full || !where || permissions.empty()) {
        return refuse(!where ? where.error() : EINVAL);
    }
    if (!privileged() && permissions.size() > core_.quota_.permissions) {
        return refuse(ENOSPC);
    }
    if (full->front() == '@') {
        return set_special_permissions(*full, permissions);
    }
    auto node = look_up(*where, *full, 'w');
    if (!node || *node == nullptr) {
        return refuse(!node ? node.error() : ENOENT);
    }
    const DomainId owner = (*node)->permissions.front().domain;
    if (!privileged() && owner != domain_) {
        return refuse(EACCES);
    }
    if (!privileged() && permissions.front().domain != owner) {
        return refuse(EPERM);
    }
    Change change{*full, false, (*node)->permissions};
    where->tree.set_permissions(*full, permissions, ++core_.generation_);
    changed(*where, std::move(change));
    return {};
}

/// Tells the watchers: now, or at the commit.
void StoreSession::changed(Scope& scope, Change change) {
    if (scope.transaction == nullptr) {
        ++core_.version_;
        core_.fire(change);
        return;
    }
    const auto [path, is_new] = scope.transaction->modified.insert(change.path);
    auto& changes = scope.transaction->changes;
    // One event a node is enough, the wider one of two.
    const auto known = is_new ? changes.end() : std::ranges::find(changes, change.path, &Change::path);
    if (known == changes.end()) {
        changes.push_back(std::move(change));
    } else {
        known->exact = known->exact && change.exact;
    }
}

StoreAnswer<Transaction> StoreSession::begin() {
    const auto open = of_domain([](const StoreSession& session) { return session.transactions_.size(); });
    if (!privileged() && open >= core_.quota_.transactions) {
        return refuse(ENOSPC);
    }
    do {
        ++last_transaction_;
    } while (last_transaction_ == 0 || transactions_.contains(Transaction{last_transaction_}));
    transactions_.emplace(Transaction{last_transaction_}, OpenTransaction{core_.tree_, core_.version_, {}, {}, {}});
    return Transaction{last_transaction_};
}

StoreAnswer<> StoreSession::end(Transaction t, bool commit_it) {
    auto open = transactions_.extract(t);
    if (open.empty()) {
        return refuse(ENOENT);
    }
    return commit_it ? commit(open.mapped()) : StoreAnswer<>{};
}

StoreAnswer<> StoreSession::commit(OpenTransaction& open) {
    if (open.modified.empty()) {
        return {};
    }
    if (open.version == core_.version_) {
        core_.tree_ = std::move(open.tree);
    } else {
        for (const auto& [path, generation] : open.seen) {
            if (core_.tree_.generation(path) != generation) {
                return refuse(EAGAIN);
            }
        }
        StoreTree merged = core_.tree_;
        for (const std::string& path : open.modified) {
            const StoreNode* node = open.tree.find(path);
            const bool there = merged.find(path) != nullptr;
            if (node == nullptr) {
                if (there) {
                    merged.remove(path, ++core_.generation_);
                }
                continue;
            }
            if (!there) {
                merged.create(path, node->permissions, ++core_.generation_);
            }
            merged.set_value(path, node->value, ++core_.generation_);
            merged.set_permissions(path, node->permissions, core_.generation_);
        }
        const std::size_t owned = merged.owned(domain_);
        if (!privileged() && owned > core_.quota_.nodes && owned > core_.tree_.owned(domain_)) {
            return refuse(ENOSPC);
        }
        core_.tree_ = std::move(merged);
    }
    ++core_.version_;
    std::ranges::for_each(open.changes, [this](const Change& change) { core_.fire(change); });
    return {};
}

StoreAnswer<> StoreSession::watch(std::string_view path, std::string_view token) {
    const auto full = canonical_path(path, true);
    if (!full) {
        return refuse(EINVAL);
    }
    if (std::ranges::any_of(watches_, [&](const Watch& w) { return w.path == *full && w.token == token; })) {
        return refuse(EEXIST);
    }
    const auto watches = of_domain([](const StoreSession& session) { return session.watches_.size(); });
    if (!privileged() && watches >= core_.quota_.watches) {
        return refuse(ENOSPC);
    }
    const bool relative = path.front() != '/' && path.front() != '@';
    watches_.push_back({*full, std::string(token), relative ? home_.size() : 0});
    deliver(watches_.back(), *full);
    return {};
}

StoreAnswer<> StoreSession::unwatch(std::string_view path, std::string_view token) {
    const auto full = canonical_path(path, true);
    if (!full) {
        return refuse(EINVAL);
    }
    const auto gone = std::erase_if(watches_, [&](const Watch& w) { return w.path == *full && w.token == token; });
    return gone != 0 ? StoreAnswer<>{} : refuse(ENOENT);
}

void StoreSession::reset() {
    watches_.clear();
    transactions_.clear();
    events_.clear();
    waiting_.clear();
}

std::optional<WatchEvent> StoreSession::next_event() {
    if (events_.empty()) {
        return std::nullopt;
    }
    WatchEvent event = std::move(events_.front());
    events_.pop_front();
    waiting_.erase({event.path, event.token});
    return event;
}

std::size_t StoreSession::of_domain(std::size_t (*count)(const StoreSession&)) const {
    std::size_t sum = 0;
    for (const StoreSession* session : core_.sessions_) {
        sum += session->domain_ == domain_ ? count(*session) : 0;
    }
    return sum;
}

void StoreSession::deliver(const Watch& watch, std::string_view path) {
    const std::string_view shown = events_.size() < store_pending_events_max ? path : std::string_view(watch.path);
    WatchEvent event{std::string(shown.substr(watch.prefix)), watch.token};
    if (!waiting_.emplace(event.path, event.token).second) {
        return;
    }
    events_.push_back(std::move(event));
    if (events_.size() == 1 && on_event_) {
        on_event_();
    }
}

}  // namespace uvif::xen
