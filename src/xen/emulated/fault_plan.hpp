// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "uvif/error.hpp"

namespace uvif::xen {

/// What can be made to fail. The names used in the text of a plan are those of the enumerators, with `store_`
/// written "store." and `copy_segment` written "copy.segment".
enum class Operation : std::uint8_t {
    open,
    map,
    unmap,
    copy,
    copy_segment,
    notify,
    bind,
    alloc_unbound,
    share,
    store_read,
    store_list,
    store_write,
    store_remove,
    store_set_permissions,
    store_begin,
    store_commit,
    store_watch,
    store_unwatch,
};
inline constexpr std::size_t operation_count = static_cast<std::size_t>(Operation::store_unwatch) + 1;

/// Which calls of an emulated hypervisor fail, and how: "copy@17,map@3=ENOMEM,copy.segment@100=-3". The n-th call
/// (from 1) of the named operation fails with the errno given by name or number (EIO when none is given), a copy
/// segment with a GrantStatus (-1 when none is given). An unmap counts once for every mapping, as each fails alone.
/// Thread rule: `check` from any thread; calls are counted over all handles that share the plan.
class FaultPlan {
public:
    /// EINVAL with a message that names the entry and what is wrong with it. Empty text: nothing ever fails.
    static Result<std::shared_ptr<FaultPlan>> parse(std::string_view text);
    /// The plan in UVIF_FAULTS; one that does nothing when it is unset.
    static Result<std::shared_ptr<FaultPlan>> from_environment();

    /// Counts a call. Returns 0, or the value that this call is to fail with: an errno value, negative for a
    /// copy segment.
    [[nodiscard]] int check(Operation operation) noexcept {
        Track& track = tracks_[static_cast<std::size_t>(operation)];
        return track.faults.empty() ? 0 : check_counted(track);
    }
    /// Whether `check` can ever return anything for it: lets a loop over segments leave the check out.
    [[nodiscard]] bool concerns(Operation operation) const noexcept {
        return !tracks_[static_cast<std::size_t>(operation)].faults.empty();
    }

private:
    struct Fault {
        std::uint64_t call;
        int value;
    };
    struct Track {
        std::atomic<std::uint64_t> calls = 0;
        std::vector<Fault> faults;
    };

    static int check_counted(Track& track) noexcept;
    Result<void> add(std::string_view entry);

    std::array<Track, operation_count> tracks_;
};

}  // namespace uvif::xen
