// SPDX-License-Identifier: MIT
#include "xen/emulated/store_tree.hpp"

#include <utility>

namespace uvif::xen {

namespace {

/// Takes the next component off a canonical path; empty at its end.
std::string_view take_component(std::string_view& rest) noexcept {
    if (!rest.empty() && rest.front() == '/') {
        rest.remove_prefix(1);
    }
    const std::string_view component = rest.substr(0, rest.find('/'));
    rest.remove_prefix(component.size());
    return component;
}

using Visit = std::function<void(const std::string&, const StoreNode&)>;

void walk_below(std::string& path, const StoreNode& node, const Visit& visit) {
    visit(path, node);
    const std::size_t length = path.size();
    for (const auto& [name, child] : node.children) {
        if (length > 1) {
            path += '/';
        }
        path += name;
        walk_below(path, *child, visit);
        path.resize(length);
    }
}

}  // namespace

std::string_view parent_path(std::string_view path) noexcept {
    const std::size_t slash = path.rfind('/');
    return slash == 0 || slash == std::string_view::npos ? std::string_view("/") : path.substr(0, slash);
}

std::string_view last_component(std::string_view path) noexcept {
    return path.substr(path.rfind('/') + 1);
}

StoreTree::StoreTree() : root_(std::make_shared<StoreNode>()) {
    root_->permissions = {Permission{DomainId{0}, 'n'}};
    count(DomainId{0}, 1);
}

const StoreNode* StoreTree::find(std::string_view path) const {
    const StoreNode* node = root_.get();
    for (std::string_view name = take_component(path); !name.empty(); name = take_component(path)) {
        const auto child = node->children.find(name);
        if (child == node->children.end()) {
            return nullptr;
        }
        node = child->second.get();
    }
    return node;
}

const StoreNode& StoreTree::nearest(std::string_view path) const {
    const StoreNode* node = root_.get();
    for (std::string_view name = take_component(path); !name.empty(); name = take_component(path)) {
        const auto child = node->children.find(name);
        if (child == node->children.end()) {
            break;
        }
        node = child->second.get();
    }
    return *node;
}

std::uint64_t StoreTree::generation(std::string_view path) const {
    const StoreNode* node = find(path);
    return node != nullptr ? node->generation : 0;
}

std::size_t StoreTree::owned(DomainId domain) const {
    const auto found = owned_.find(domain);
    return found != owned_.end() ? found->second : 0;
}

void StoreTree::walk(std::string_view path, const Visit& visit) const {
    if (const StoreNode* node = find(path)) {
        std::string name(path);
        walk_below(name, *node, visit);
    }
}

void StoreTree::create(std::string_view path, Permissions permissions, std::uint64_t generation) {
    StoreNode& parent = own(parent_path(path));
    auto node = std::make_shared<StoreNode>();
    count(permissions.front().domain, 1);
    node->permissions = std::move(permissions);
    node->generation = generation;
    parent.children.emplace(last_component(path), std::move(node));
    parent.generation = generation;
}

void StoreTree::set_value(std::string_view path, std::string_view value, std::uint64_t generation) {
    StoreNode& node = own(path);
    node.value = value;
    node.generation = generation;
}

void StoreTree::set_permissions(std::string_view path, Permissions permissions, std::uint64_t generation) {
    StoreNode& node = own(path);
    count(node.permissions.front().domain, -1);
    count(permissions.front().domain, 1);
    node.permissions = std::move(permissions);
    node.generation = generation;
}

void StoreTree::remove(std::string_view path, std::uint64_t generation) {
    walk(path, [this](const std::string&, const StoreNode& node) { count(node.permissions.front().domain, -1); });
    StoreNode& parent = own(parent_path(path));
    parent.children.erase(parent.children.find(last_component(path)));
    parent.generation = generation;
}

/// The node for writing: whatever another copy of the tree shares on the way is copied first.
StoreNode& StoreTree::own(std::string_view path) {
    std::shared_ptr<StoreNode>* link = &root_;
    while (true) {
        if (link->use_count() > 1) {
            *link = std::make_shared<StoreNode>(**link);
        }
        const std::string_view name = take_component(path);
        if (name.empty()) {
            return **link;
        }
        link = &(*link)->children.find(name)->second;
    }
}

void StoreTree::count(DomainId owner, int change) {
    std::size_t& nodes = owned_[owner];
    nodes = change > 0 ? nodes + 1 : nodes - 1;
    if (nodes == 0) {
        owned_.erase(owner);
    }
}

}  // namespace uvif::xen
