// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "xen/store.hpp"
#include "xen/types.hpp"

/// Theory of operation
///
/// The nodes of xenstore as a value. Nodes are shared between copies of a tree and copied only when one copy changes
/// them, so a transaction's private view of the whole store costs one pointer. Every change gives the node,
/// and the parent whose list of children changed, the generation that the caller hands in: comparing generations is
/// how conflicts are found. Paths are canonical here: see canonical_path() in store_core.cpp.
namespace uvif::xen {

using Permissions = std::vector<Permission>;  ///< never empty: the first entry names the owner

struct StoreNode {
    std::string value;
    Permissions permissions;
    std::uint64_t generation = 0;
    std::map<std::string, std::shared_ptr<StoreNode>, std::less<>> children;
};

/// Thread rule: one thread for a tree and all of its copies.
class StoreTree {
public:
    /// One root node, of dom0's and closed to all others.
    StoreTree();

    /// nullptr when there is none.
    [[nodiscard]] const StoreNode* find(std::string_view path) const;
    /// The node, or its nearest ancestor that exists; the root always does.
    [[nodiscard]] const StoreNode& nearest(std::string_view path) const;
    /// Generation of the node, 0 when there is none.
    [[nodiscard]] std::uint64_t generation(std::string_view path) const;
    /// How many nodes this domain owns.
    [[nodiscard]] std::size_t owned(DomainId domain) const;
    /// Calls `visit` for the node and all below it, parents first.
    void walk(std::string_view path, const std::function<void(const std::string&, const StoreNode&)>& visit) const;

    /// The parent exists and the node does not.
    void create(std::string_view path, Permissions permissions, std::uint64_t generation);
    /// The node exists.
    void set_value(std::string_view path, std::string_view value, std::uint64_t generation);
    /// The node exists.
    void set_permissions(std::string_view path, Permissions permissions, std::uint64_t generation);
    /// The node exists and is not the root; all below it goes too.
    void remove(std::string_view path, std::uint64_t generation);

private:
    StoreNode& own(std::string_view path);
    void count(DomainId owner, int change);

    std::shared_ptr<StoreNode> root_;
    std::map<DomainId, std::size_t> owned_;
};

/// "/" for "/a".
[[nodiscard]] std::string_view parent_path(std::string_view path) noexcept;
[[nodiscard]] std::string_view last_component(std::string_view path) noexcept;

}  // namespace uvif::xen
