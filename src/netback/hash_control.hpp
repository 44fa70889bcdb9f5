// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "netback/rx_steering.hpp"
#include "packet/toeplitz.hpp"
#include "ring/netif.hpp"
#include "runtime/limits.hpp"
#include "xen/types.hpp"

namespace uvif::netback {

/// Copies the first octets of a page that the guest has granted; at most a page. False: it cannot be copied. What a
/// request refers to is copied by one call and judged afterwards: the guest can go on writing to it.
using ReadPage = std::function<bool(xen::GrantRef, std::span<std::byte>)>;

/// What a guest has set of its hash (netif.h, "Control messages", 1 to 7), by requests of which each has its effect as
/// a whole or not at all.
class HashControl {
public:
    /// For a guest with so many queues.
    explicit HashControl(std::uint32_t queues) noexcept : queues_(queues) {}

    /// Answers a request of one of these types; all others are not_supported.
    [[nodiscard]] ring::CtrlResponse execute(const ring::CtrlRequest& request, const ReadPage& read);

    /// What is to be done with packets now; nullptr: nothing.
    [[nodiscard]] std::shared_ptr<const RxSteering> steering() const;

private:
    using Status = ring::CtrlStatus;
    Status set_types(std::uint32_t types) noexcept;
    Status set_key(xen::GrantRef page, std::uint32_t size, const ReadPage& read);
    Status set_mapping_size(std::uint32_t size) noexcept;
    Status set_mapping(xen::GrantRef page, std::uint32_t count, std::uint32_t offset, const ReadPage& read);
    Status set_algorithm(std::uint32_t algorithm) noexcept;

    std::uint32_t queues_;
    ring::HashAlgorithm algorithm_ = ring::HashAlgorithm::none;
    std::uint32_t types_ = 0;
    std::array<std::uint8_t, Toeplitz::key_max> key_{};
    std::uint32_t mapping_size_ = 0;
    std::array<std::uint16_t, limits::hash_mapping> mapping_{};
};

}  // namespace uvif::netback
