// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

namespace uvif::perf {

/// Which way packets go, as ever named from the guest.
enum class Mode : std::uint8_t { tx, rx, echo };

/// Strategies that guest and backend share: all buffers stay mapped, as the guest asks for it,
inline constexpr const char* static_strategy = "static";
/// or as the backend learns of them.
inline constexpr const char* persistent_strategy = "persistent";

/// What goes in the header area of each packet: Ethernet, IPv4, and TCP with its timestamps.
inline constexpr unsigned header_octets = 66;

struct Options {
    Mode mode = Mode::tx;
    unsigned size = 64;  ///< octets, Ethernet header included
    unsigned queues = 1;
    double time_s = 10;
    double interval_s = 1;  ///< 0: none
    double omit_s = 0;
    std::array<std::uint8_t, 6> to{0x02, 0, 0, 0, 0, 0x01};  ///< address that packets are sent to
    bool latency = false;                                    ///< echo with one packet in flight
    unsigned spin_us = 20;
    bool split = true;
    bool header_area = false;  ///< headers go in slots of their own
    bool json = false;
    // Who is measured: a guest of a running machine,
    std::string hypervisor;
    std::optional<unsigned> device;
    std::string control;
    std::string strategy;  ///< empty: the best that there is, or for one of our own making, copy
    // or one of our own making.
    bool self = false;
    std::string unmap = "batch";
    std::string receive = "auto";
    std::string loop = "auto";
    bool charged = false;
};

/// What a backend of our own making is told.
[[nodiscard]] inline std::string own_strategy(const Options& options) {
    return options.strategy == "map" || options.strategy == "auto" ? options.strategy : "copy";
}

[[nodiscard]] constexpr const char* name_of(Mode mode) noexcept {
    return mode == Mode::tx ? "tx" : mode == Mode::rx ? "rx" : "echo";
}

}  // namespace uvif::perf
