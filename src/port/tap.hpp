// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "port/port.hpp"
#include "runtime/unique_fd.hpp"

namespace uvif {

struct TapConfig {
    std::string name;         ///< of the interface: 1 to 15 characters
    unsigned queues = 1;      ///< the most that will be used at once; more than 1 makes a multi-queue interface
    bool persistent = false;  ///< stays when the last descriptor is closed
};

/// A TAP interface of the host: made when it does not exist, attached to when it does (a toolstack or an earlier
/// process made it). Checksum and segmentation offload are passed through in a virtio-net header.
/// Thread rule: the control thread; its queues belong to the threads that use them.
/// Errors are those of the system calls, each with a sentence that says what to do.
class TapDevice {
public:
    /// The interface is asked for again for a while when it is busy: the kernel frees what a killed process held
    /// a little later than the process.
    static Result<std::unique_ptr<TapDevice>> open(const TapConfig& config);
    TapDevice(const TapDevice&) = delete;
    TapDevice& operator=(const TapDevice&) = delete;
    ~TapDevice() = default;

    [[nodiscard]] const std::string& name() const noexcept { return name_; }
    [[nodiscard]] unsigned queue_count() const noexcept { return static_cast<unsigned>(queues_.size()); }

    /// A queue as a port that writes through `loop`, which outlives it. One port a queue at a time. Queues without a
    /// port take no part in the interface's traffic, except the first, which fills up and drops.
    Result<std::unique_ptr<Port>> queue(unsigned index, Loop& loop);

    Result<void> set_mac(const std::array<std::uint8_t, 6>& mac);
    Result<void> set_mtu(unsigned octets);
    Result<void> set_carrier(bool on);
    Result<void> set_up(bool up);
    /// Somebody deleted the interface: this device is of no use any more.
    [[nodiscard]] bool deleted() const noexcept;
    /// Whether the interface stays when this process has closed it.
    Result<void> set_persistent(bool on);
    /// What the kernel may hand us, and so the guest: blank checksums, TCP segments to cut. Segmentation needs `csum`.
    /// What guests hand the kernel is not limited.
    Result<void> set_offload(bool csum, bool tso4, bool tso6);

private:
    TapDevice(std::string name, UniqueFd control) : name_(std::move(name)), control_(std::move(control)) {}

    std::string name_;
    UniqueFd control_;  ///< a socket for interface requests; it stays in the network namespace it was made in
    std::vector<UniqueFd> queues_;
};

}  // namespace uvif
