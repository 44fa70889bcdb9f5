// SPDX-License-Identifier: MIT
#include "netback/gref_control.hpp"

#include <algorithm>
#include <array>
#include <unordered_set>
#include <utility>

#include "grant/static_table.hpp"

namespace uvif::netback {

using ring::CtrlRequest;
using ring::CtrlResponse;
using ring::CtrlType;
using ring::GrefEntry;

namespace {
constexpr std::size_t list_max = xen::page_size / sizeof(GrefEntry);
}  // namespace

CtrlResponse GrefControl::execute(const CtrlRequest& request, const ReadPage& read, const WritePage& write) {
    CtrlResponse response{.id = request.id, .type = request.type};
    const auto answer = [&response](Status status) {
        response.status = std::to_underlying(status);
        return response;
    };
    const auto type = static_cast<CtrlType>(request.type);
    const bool removes = type == CtrlType::del_gref_mapping;
    if (type != CtrlType::get_gref_mapping_size && type != CtrlType::add_gref_mapping && !removes) {
        return answer(Status::not_supported);
    }
    const auto [queue, page, count] = request.data;
    if (queue >= grants_.queues()) {
        return answer(Status::invalid_parameter);
    }
    if (type == CtrlType::get_gref_mapping_size) {
        response.data = static_cast<std::uint32_t>(grants_.room(queue));
        return answer(Status::success);
    }
    if (count > list_max) {
        return answer(Status::invalid_parameter);
    }
    std::array<GrefEntry, list_max> copy;
    const auto list = std::span(copy).first(count);
    if (count != 0 && !read(xen::GrantRef{page}, std::as_writable_bytes(list))) {
        return answer(Status::invalid_parameter);
    }
    if (!removes) {
        return answer(add(queue, list));
    }
    response.data = remove(queue, list);
    const bool told = count == 0 || write(xen::GrantRef{page}, std::as_bytes(list));
    return answer(told ? Status::success : Status::invalid_parameter);
}

GrefControl::Status GrefControl::add(std::size_t queue, std::span<const GrefEntry> list) {
    if (list.size() > grants_.room(queue)) {
        return Status::invalid_parameter;
    }
    std::vector<StaticGrants::Page> pages;
    std::unordered_set<std::uint32_t> seen;
    for (const GrefEntry& entry : list) {
        const bool known = !seen.insert(entry.ref).second || grants_.has(queue, entry.ref);
        if (known || !StaticTable::takes(entry.ref) || (entry.flags & ~GrefEntry::read_only) != 0) {
            return Status::invalid_parameter;
        }
        pages.push_back({.ref = entry.ref, .writable = (entry.flags & GrefEntry::read_only) == 0});
    }
    if (!grants_.add(queue, pages)) {
        return Status::invalid_parameter;
    }
    users_.enter(queue, pages);
    return Status::success;
}

/// The queue forgets them first, and only then they are unmapped. Returns how many were.
std::uint32_t GrefControl::remove(std::size_t queue, std::span<GrefEntry> list) {
    std::vector<std::uint32_t> refs;
    std::vector<GrefEntry*> entries;
    std::unordered_set<std::uint32_t> seen;
    for (GrefEntry& entry : list) {
        entry.status = static_cast<std::uint16_t>(Status::invalid_parameter);
        if (grants_.has(queue, entry.ref) && seen.insert(entry.ref).second) {
            refs.push_back(entry.ref);
            entries.push_back(&entry);
        }
    }
    std::vector<bool> forgotten(refs.size(), true);
    users_.forget(queue, refs, forgotten);
    std::uint32_t removed = 0;
    for (std::size_t i = 0; i < refs.size(); ++i) {
        if (forgotten[i]) {
            grants_.remove(queue, refs[i]);
            entries[i]->status = static_cast<std::uint16_t>(Status::success);
            ++removed;
        }
    }
    return removed;
}

}  // namespace uvif::netback
