// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "uvif/error.hpp"
#include "xen/store.hpp"

/// Theory of operation
///
/// Two ends bring a device up and down by writing a state number each into its own xenstore folder and watching
/// the other's (xen/io/xenbus.h). What an end does next is decided here, by pure functions from what the store says
/// to one step. The caller takes the step, looks at the store again, and asks again, until there is nothing to do:
/// so a burst of changes, a change that was missed, or a restart of this process all lead to the same place, and
/// every state on the way is written one by one, because frontends rely on seeing them.
///
/// The backend's states, by what it wants (left) and where it stands:
///
///                    frontend 1                 frontend 4, script done: connect
///     Initialising(1) ---------> InitWait(2) --------------------------------> Connected(4)
///          |                      |    ^                                          |
///          | frontend 6,          |    | frontend 1                               | frontend 1, 5 or 6,
///          | or gone              |    | and online                               | or gone, or rogue:
///          v                      |    |                                          v disconnect
///       Closed(6) <---------------|----+----------------------------------- Closing(5)
///          |                      |        frontend 1 or 6, or gone              ^
///          |                      +----------------------------------------------+
///          v                         frontend 5 or 6, or gone
///       remove: not online, or frontend gone
///
///  * Only what libxl's detach does differs from Linux's netback, which waits for the frontend for ever: Closing in
///    our own node with online=0 was written there by the toolstack. We disconnect, give a connected frontend its
///    time to close too, and then answer Closed.
///  * Closing while the frontend is still connected waits for it: nothing reconnects to rings that are being closed.
///  * A frontend that went from 4 back to 1 (rebind, kexec, resume) walks us through 5, 6 and 2.
///  * A frontend that goes 5, 6, 1 before it ever connects (Windows) is answered step by step.
///  * Connected in the node without rings in our hands is what a daemon finds that was restarted: it connects again
///    and writes nothing.
namespace uvif::xen {

/// XenbusState of xen/io/xenbus.h, by value.
enum class XenbusState : std::uint8_t {
    unknown = 0,
    initialising = 1,
    init_wait = 2,
    initialised = 3,
    connected = 4,
    closing = 5,
    closed = 6,
    reconfiguring = 7,
    reconfigured = 8,
};
inline constexpr std::uint8_t xenbus_state_count = 9;

/// A number of the enumeration in decimal; anything else reads as `unknown`, as a missing node does.
[[nodiscard]] XenbusState parse_xenbus_state(std::string_view text) noexcept;
[[nodiscard]] std::string_view to_string(XenbusState state) noexcept;
/// Connected, or an excursion from it that keeps the rings.
[[nodiscard]] constexpr bool is_live(XenbusState state) noexcept {
    return state == XenbusState::connected || state == XenbusState::reconfiguring || state == XenbusState::reconfigured;
}

/// The backend's `hotplug-status`, written by the toolstack's script.
enum class Hotplug : std::uint8_t {
    absent,     ///< no such key: no script will run, go on
    pending,    ///< libxl writes it empty at first: wait
    connected,  ///< the script is done
    error,      ///< the script failed: the toolstack will take the device away
};
[[nodiscard]] Hotplug parse_hotplug(std::string_view text) noexcept;

/// What one backend device looks like. Read `online` after `self`: the toolstack writes both in one transaction, and
/// a Closing of its own must not be taken for one of ours.
struct BackendView {
    bool backend_exists = true;                   ///< our own `state` is there
    XenbusState self = XenbusState::unknown;      ///< our own `state`, whoever wrote it
    bool frontend_exists = true;                  ///< the frontend's `state` is there
    XenbusState frontend = XenbusState::unknown;  ///< the frontend's `state`
    bool online = true;                           ///< `online` is 1: the toolstack wants the device
    Hotplug hotplug = Hotplug::absent;
    bool attached = false;  ///< rings are mapped and ports bound
    bool broken = false;    ///< connecting failed, or the guest was found rogue; the caller forgets it at InitWait
    bool overdue = false;   ///< the frontend has had its time to answer our Closing
};

enum class BackendAction : std::uint8_t {
    none,         ///< wait for a change
    write_state,  ///< change_state() from `self` to `state`
    connect,      ///< map the rings; then `attached`, or on failure `broken`
    disconnect,   ///< unmap everything; then not `attached`
    remove,       ///< the end: let go of all that is held for the device
};

struct BackendStep {
    BackendAction action = BackendAction::none;
    XenbusState state = XenbusState::unknown;  ///< of write_state

    bool operator==(const BackendStep&) const = default;
};

/// Defined for every view; from any view the steps end, in `none` or `remove`, after less than ten.
[[nodiscard]] BackendStep backend_step(const BackendView& view) noexcept;

/// What one frontend device looks like.
struct FrontendView {
    bool frontend_exists = true;                 ///< our own `state` is there
    XenbusState self = XenbusState::unknown;     ///< our own `state`
    XenbusState backend = XenbusState::unknown;  ///< the backend's `state`; unknown when it is missing
    bool attached = false;                       ///< rings are shared, ports allocated and the keys written
    bool wanted = true;                          ///< false: close, and stay closed
    bool overdue = false;                        ///< the backend has had its time to answer our closing
};

enum class FrontendAction : std::uint8_t {
    none,         ///< wait for a change
    write_state,  ///< change_state() from `self` to `state`
    connect,      ///< share rings and write the keys, in one transaction; then `attached`, or give up `wanted`
    disconnect,   ///< end the access to everything shared; then not `attached`
    finished,     ///< the end: closed as asked, or the device is gone
};

struct FrontendStep {
    FrontendAction action = FrontendAction::none;
    XenbusState state = XenbusState::unknown;  ///< of write_state

    bool operator==(const FrontendStep&) const = default;
};

/// The other end, for the library. It starts from Initialising whatever an earlier life left in its node, connects at
/// the backend's InitWait, closes after the backend, and begins again when that comes back; pages are taken
/// back only once the backend is Closed, is gone, or let its time pass. Packets may move only while both ends are
/// Connected. A backend that jumps between states in any order is answered from wherever it is. Limiting how often a
/// backend may make us begin again is the caller's part: it stops wanting. Defined for every view; the steps
/// end after less than ten.
[[nodiscard]] FrontendStep frontend_step(const FrontendView& view) noexcept;

/// Writes `state` into `directory` if the state there is still `from`. False: it is not (look again). ENOENT: the node
/// is gone, and is not made again, which is why this runs in a transaction.
Result<bool> change_state(Store& store, const std::string& directory, XenbusState from, XenbusState to);

/// Writes `state` whatever stands there, but ENOENT when the node is gone, as above.
Result<void> write_state(Store& store, const std::string& directory, XenbusState to);

}  // namespace uvif::xen
