// SPDX-License-Identifier: MIT
#include "xen/emulated/fault_plan.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <optional>
#include <utility>

#include "xen/grant_table.hpp"

namespace uvif::xen {
namespace {

constexpr std::array<std::string_view, operation_count> operation_names{"open",         "map",
                                                                        "unmap",        "copy",
                                                                        "copy.segment", "notify",
                                                                        "bind",         "alloc_unbound",
                                                                        "share",        "store.read",
                                                                        "store.list",   "store.write",
                                                                        "store.remove", "store.set_permissions",
                                                                        "store.begin",  "store.commit",
                                                                        "store.watch",  "store.unwatch"};

constexpr std::pair<std::string_view, int> errno_names[] = {
    {"EPERM", EPERM},   {"ENOENT", ENOENT}, {"EINTR", EINTR},   {"EIO", EIO},
    {"EBADF", EBADF},   {"EAGAIN", EAGAIN}, {"ENOMEM", ENOMEM}, {"EACCES", EACCES},
    {"EFAULT", EFAULT}, {"EBUSY", EBUSY},   {"EEXIST", EEXIST}, {"ENODEV", ENODEV},
    {"EINVAL", EINVAL}, {"EMFILE", EMFILE}, {"ENOSPC", ENOSPC}, {"EPIPE", EPIPE},
};

template <class T>
std::optional<T> whole_number(std::string_view text) {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) {
        return std::nullopt;
    }
    return value;
}

std::optional<Operation> operation_named(std::string_view name) {
    for (std::size_t i = 0; i < operation_names.size(); ++i) {
        if (operation_names[i] == name) {
            return static_cast<Operation>(i);
        }
    }
    return std::nullopt;
}

std::optional<int> failure_value(std::string_view text, Operation operation) {
    for (const auto& [name, value] : errno_names) {
        if (name == text && operation != Operation::copy_segment) {
            return value;
        }
    }
    const auto number = whole_number<int>(text);
    const bool segment = operation == Operation::copy_segment;
    if (!number || (segment ? *number >= 0 || *number < -128 : *number <= 0 || *number > 4095)) {
        return std::nullopt;
    }
    return number;
}

}  // namespace

Result<std::shared_ptr<FaultPlan>> FaultPlan::parse(std::string_view text) {
    auto plan = std::make_shared<FaultPlan>();
    while (!text.empty()) {
        const std::size_t comma = text.find(',');
        if (auto added = plan->add(text.substr(0, comma)); !added) {
            return propagate(added);
        }
        text.remove_prefix(comma == std::string_view::npos ? text.size() : comma + 1);
    }
    return plan;
}

Result<std::shared_ptr<FaultPlan>> FaultPlan::from_environment() {
    const char* text = std::getenv("UVIF_FAULTS");
    auto plan = parse(text == nullptr ? "" : text);
    if (!plan) {
        return fail(plan.error().code, fmt::format("UVIF_FAULTS: {}", plan.error().message));
    }
    return plan;
}

Result<void> FaultPlan::add(std::string_view entry) {
    const std::size_t at = entry.find('@');
    const auto operation = operation_named(entry.substr(0, at));
    if (!operation) {
        return fail(EINVAL, fmt::format("fault '{}' does not begin with one of {}", entry.substr(0, 64),
                                        fmt::join(operation_names, ", ")));
    }
    std::string_view rest = at == std::string_view::npos ? std::string_view{} : entry.substr(at + 1);
    const std::size_t equals = rest.find('=');
    const auto call = whole_number<std::uint64_t>(rest.substr(0, equals));
    if (!call || *call == 0) {
        return fail(EINVAL,
                    fmt::format("fault '{}' needs '@' and the number of the call, from 1", entry.substr(0, 64)));
    }
    int value = *operation == Operation::copy_segment ? static_cast<int>(GrantStatus::general_error) : EIO;
    if (equals != std::string_view::npos) {
        const auto given = failure_value(rest.substr(equals + 1), *operation);
        if (!given) {
            return fail(EINVAL, fmt::format("fault '{}' ends in something that is not {}", entry.substr(0, 64),
                                            *operation == Operation::copy_segment ? "a negative grant status"
                                                                                  : "an errno name or number"));
        }
        value = *given;
    }
    tracks_[static_cast<std::size_t>(*operation)].faults.push_back({*call, value});
    return {};
}

int FaultPlan::check_counted(Track& track) noexcept {
    const std::uint64_t call = track.calls.fetch_add(1, std::memory_order_relaxed) + 1;
    for (const Fault& fault : track.faults) {
        if (fault.call == call) {
            return fault.value;
        }
    }
    return 0;
}

}  // namespace uvif::xen
