// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <utility>

#include "xen/xenbus.hpp"

namespace uvif::xen {

/// More steps than any view may need.
inline constexpr int too_many_steps = 10;

/// Takes one step on the view as an obedient caller would. False: there was nothing to do, or it was the end.
inline bool take(BackendView& view, const BackendStep& step) {
    switch (step.action) {
        case BackendAction::write_state:
            view.self = step.state;
            view.broken = view.broken && step.state != XenbusState::init_wait;
            return true;
        case BackendAction::connect:
            view.attached = true;
            return true;
        case BackendAction::disconnect:
            view.attached = false;
            return true;
        case BackendAction::remove:
        case BackendAction::none:
            break;
    }
    return false;
}

inline bool take(FrontendView& view, const FrontendStep& step) {
    switch (step.action) {
        case FrontendAction::write_state:
            view.self = step.state;
            return true;
        case FrontendAction::connect:
            view.attached = true;
            return true;
        case FrontendAction::disconnect:
            view.attached = false;
            return true;
        case FrontendAction::finished:
        case FrontendAction::none:
            break;
    }
    return false;
}

inline std::string name(const BackendStep& step) {
    static constexpr const char* names[] = {"", "", "connect", "disconnect", "remove"};
    return step.action == BackendAction::write_state ? std::to_string(std::to_underlying(step.state))
                                                     : names[std::to_underlying(step.action)];
}

inline std::string name(const FrontendStep& step) {
    static constexpr const char* names[] = {"", "", "connect", "disconnect", "finished"};
    return step.action == FrontendAction::write_state ? std::to_string(std::to_underlying(step.state))
                                                      : names[std::to_underlying(step.action)];
}

inline BackendStep next_step(const BackendView& view) {
    return backend_step(view);
}
inline FrontendStep next_step(const FrontendView& view) {
    return frontend_step(view);
}

/// Steps until there is nothing to do: "disconnect 5 6 2".
template <class View>
std::string walk(View& view) {
    std::string steps;
    for (int i = 0; i < too_many_steps; ++i) {
        const auto step = next_step(view);
        const std::string text = name(step);
        if (!text.empty()) {
            steps += (steps.empty() ? "" : " ") + text;
        }
        if (!take(view, step)) {
            return steps;
        }
    }
    return steps + " and so on";
}

}  // namespace uvif::xen
