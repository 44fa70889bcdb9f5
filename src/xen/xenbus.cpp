// SPDX-License-Identifier: MIT
#include "xen/xenbus.hpp"

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <utility>

#include "xen/store_path.hpp"

namespace uvif::xen {

namespace {

using enum XenbusState;

constexpr BackendStep backend_waits{};
constexpr BackendStep backend_connects{BackendAction::connect, unknown};
constexpr BackendStep backend_disconnects{BackendAction::disconnect, unknown};
constexpr BackendStep backend_is_done{BackendAction::remove, unknown};

constexpr BackendStep backend_writes(XenbusState state) noexcept {
    return {BackendAction::write_state, state};
}

/// Nobody has offered anything yet. A state that no backend writes counts as a fresh node.
constexpr bool is_fresh(XenbusState state) noexcept {
    return state == unknown || state == initialising || state == initialised;
}

BackendStep towards_connected(const BackendView& v) noexcept {
    if (v.attached && (is_fresh(v.self) || v.self == closing || v.self == closed)) {
        return backend_disconnects;
    }
    if (is_fresh(v.self)) {
        return backend_writes(init_wait);
    }
    if (v.self == init_wait) {
        if (v.hotplug == Hotplug::pending || v.hotplug == Hotplug::error) {
            return backend_waits;
        }
        return v.attached ? backend_writes(connected) : backend_connects;
    }
    if (is_live(v.self)) {
        if (!v.attached) {
            return backend_connects;
        }
        const XenbusState answer = v.frontend == reconfiguring ? reconfigured : connected;
        return v.self == answer ? backend_waits : backend_writes(answer);
    }
    if (v.self == closing) {
        return !v.online && v.overdue ? backend_writes(closed) : backend_waits;
    }
    return v.online ? backend_writes(init_wait) : backend_is_done;
}

BackendStep towards_init_wait(const BackendView& v) noexcept {
    if (v.self == init_wait) {
        return backend_waits;
    }
    if (is_live(v.self)) {
        return backend_writes(closing);
    }
    return backend_writes(v.self == closing ? closed : init_wait);
}

BackendStep towards_closing(const BackendView& v) noexcept {
    if (is_fresh(v.self)) {
        return backend_writes(init_wait);
    }
    if (v.self == closing) {
        return !v.online && v.overdue ? backend_writes(closed) : backend_waits;
    }
    if (v.self == closed) {
        if (!v.online) {
            return backend_is_done;
        }
        return v.frontend == closing ? backend_writes(closing) : backend_waits;
    }
    return backend_writes(closing);
}

BackendStep towards_closed(const BackendView& v) noexcept {
    if (v.self == closed) {
        return v.online && v.frontend_exists ? backend_waits : backend_is_done;
    }
    return backend_writes(is_fresh(v.self) || v.self == closing ? closed : closing);
}

/// The frontend is in a state that asks nothing of us.
BackendStep staying(const BackendView& v) noexcept {
    if (v.attached && !is_live(v.self)) {
        return backend_disconnects;
    }
    if (v.online || is_live(v.self)) {
        return backend_waits;
    }
    return v.self == closing ? backend_writes(closed) : v.self == closed ? backend_is_done : backend_waits;
}

constexpr FrontendStep frontend_waits{};
constexpr FrontendStep frontend_connects{FrontendAction::connect, unknown};
constexpr FrontendStep frontend_disconnects{FrontendAction::disconnect, unknown};
constexpr FrontendStep frontend_is_done{FrontendAction::finished, unknown};

constexpr FrontendStep frontend_writes(XenbusState state) noexcept {
    return {FrontendAction::write_state, state};
}

/// The backend holds nothing of ours any more, or nobody is there to hold it.
constexpr bool has_let_go(XenbusState backend) noexcept {
    return backend == closed || backend == unknown;
}

FrontendStep attached_step(const FrontendView& v) noexcept {
    const bool leaving = !v.wanted || v.backend == closing || has_let_go(v.backend);
    if (v.self == closing) {
        // Closing because the backend left needs no answer; closing of our own accord waits for its answer.
        const bool answered = v.wanted || v.backend == closing || has_let_go(v.backend) || v.overdue;
        return answered ? frontend_writes(closed) : frontend_waits;
    }
    if (v.self == closed) {
        const bool starts_again = v.backend == initialising || v.backend == init_wait;
        return has_let_go(v.backend) || starts_again || v.overdue ? frontend_disconnects : frontend_waits;
    }
    if (is_live(v.self)) {
        return leaving ? frontend_writes(closing) : frontend_waits;
    }
    // The keys are written and the backend has not been told.
    return leaving ? frontend_disconnects : frontend_writes(connected);
}

FrontendStep detached_step(const FrontendView& v) noexcept {
    if (!v.wanted || v.backend == closing) {
        if (v.self != closed) {
            return frontend_writes(v.self == closing ? closed : closing);
        }
        return !v.wanted && (has_let_go(v.backend) || v.overdue) ? frontend_is_done : frontend_waits;
    }
    if (v.self != initialising) {
        return frontend_writes(initialising);
    }
    return v.backend == init_wait ? frontend_connects : frontend_waits;
}

}  // namespace

XenbusState parse_xenbus_state(std::string_view text) noexcept {
    const auto number = parse_decimal(text, xenbus_state_count - 1);
    return number ? static_cast<XenbusState>(*number) : unknown;
}

std::string_view to_string(XenbusState state) noexcept {
    static constexpr std::array<std::string_view, xenbus_state_count> names = {
        "Unknown", "Initialising", "InitWait",      "Initialised", "Connected",
        "Closing", "Closed",       "Reconfiguring", "Reconfigured"};
    const auto index = std::to_underlying(state);
    return index < names.size() ? names[index] : names[0];
}

Hotplug parse_hotplug(std::string_view text) noexcept {
    return text == "connected" ? Hotplug::connected : text == "error" ? Hotplug::error : Hotplug::pending;
}

BackendStep backend_step(const BackendView& v) noexcept {
    if (!v.backend_exists) {
        return v.attached ? backend_disconnects : backend_is_done;
    }
    if (v.frontend_exists && (v.frontend == connected || (v.frontend == reconfiguring && is_live(v.self)))) {
        if (!v.broken) {
            return towards_connected(v);
        }
        return v.attached ? backend_disconnects : towards_closing(v);
    }
    const bool speaks = !v.frontend_exists || v.frontend == initialising || v.frontend == closing ||
                        v.frontend == closed || v.frontend == unknown;
    if (!speaks) {
        return staying(v);
    }
    if (v.attached) {
        return backend_disconnects;
    }
    if (v.frontend_exists && v.frontend == closing) {
        return towards_closing(v);
    }
    // A device on its way out is not offered again.
    const bool offered = v.frontend_exists && v.frontend == initialising && v.online;
    return offered ? towards_init_wait(v) : towards_closed(v);
}

FrontendStep frontend_step(const FrontendView& v) noexcept {
    if (!v.frontend_exists) {
        return v.attached ? frontend_disconnects : frontend_is_done;
    }
    return v.attached ? attached_step(v) : detached_step(v);
}

Result<bool> change_state(Store& store, const std::string& directory, XenbusState from, XenbusState to) {
    const std::string path = directory + "/state";
    bool changed = false;
    auto done = transact(store, [&](Transaction t) -> Result<void> {
        auto now = store.read(path, t);
        if (!now) {
            return propagate(now);
        }
        changed = parse_xenbus_state(*now) == from;
        return changed ? store.write(path, fmt::to_string(std::to_underlying(to)), t) : Result<void>{};
    });
    if (!done) {
        return propagate(done);
    }
    return changed;
}

Result<void> write_state(Store& store, const std::string& directory, XenbusState to) {
    const std::string path = directory + "/state";
    return transact(store, [&](Transaction t) -> Result<void> {
        auto now = store.read(path, t);
        if (!now) {
            return propagate(now);
        }
        return store.write(path, fmt::to_string(std::to_underlying(to)), t);
    });
}

}  // namespace uvif::xen
