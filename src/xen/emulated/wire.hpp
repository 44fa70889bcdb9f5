// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

namespace uvif::xen::wire {

/// What passes over a domain's socket: one Request, one Reply and its payload, one message each. A connection is a
/// handle; closing it releases what the handle holds.

inline constexpr std::uint32_t version = 1;

enum class Call : std::uint32_t {
    hello,             ///< a: version -> a: domain id, b: charged, payload: path of the store's socket
    attach,            ///< a: domain -> a: column, descriptor: memory
    memory,            ///< a: domain -> descriptor: memory
    event_fd,          ///< -> descriptor: eventfd
    event_target,      ///< a: port -> a: owner, descriptor: eventfd
    bind_interdomain,  ///< a: remote domain, b: remote port -> a: port
    alloc_unbound,     ///< a: remote domain -> a: port
    unbind,            ///< a: port
    share,             ///< a: domain, b: pages, c: 1 for writable -> a: share id, b: first frame, payload: references
    unshare,           ///< a: share id
};

struct Request {
    Call call{};
    std::uint32_t a = 0;
    std::uint32_t b = 0;
    std::uint32_t c = 0;
};

struct Reply {
    std::int32_t error = 0;  ///< an errno value; then the payload is the message
    std::uint32_t a = 0;
    std::uint32_t b = 0;
};

/// The largest share a reply can carry the references of.
inline constexpr std::uint32_t max_share_pages = 8192;
inline constexpr std::size_t max_reply = sizeof(Reply) + max_share_pages * sizeof(std::uint32_t);

}  // namespace uvif::xen::wire
