// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "packet/buffer_pool.hpp"
#include "port/port.hpp"
#include "runtime/limits.hpp"

namespace uvif {

enum class NullMode : std::uint8_t {
    sink,      ///< swallows what guests send
    generate,  ///< and always has packets for them
    reflect,   ///< sends back what guests send, with the MAC addresses swapped
};

struct NullConfig {
    NullMode mode = NullMode::sink;
    /// Length of generated packets in octets, Ethernet header included.
    std::uint32_t packet_length = packet_length_min;
    /// Destination of generated packets; the guest's own address spares it a look at every packet as a stranger's.
    std::array<std::uint8_t, 6> destination{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

    /// Ethernet, IPv4, UDP, and a sequence number of 8 octets, filled up to the shortest Ethernet frame.
    static constexpr std::uint32_t packet_length_min = 60;
};

/// A port whose other side is memory: for measuring everything but a host's network stack, and for tests. Costs a few
/// nanoseconds a packet.
class NullPort final : public Port {
public:
    static Result<std::unique_ptr<NullPort>> create(const NullConfig& config);

    [[nodiscard]] bool writable() const noexcept override { return true; }
    void submit(std::span<Packet* const> packets) noexcept override;
    void flush(bool /*abandon*/) noexcept override {}
    std::size_t receive(std::span<Packet*> packets) noexcept override;
    [[nodiscard]] bool scatters() const noexcept override { return mode_ == NullMode::generate; }
    [[nodiscard]] int fd() const noexcept override { return -1; }
    [[nodiscard]] bool always_ready() const noexcept override { return mode_ == NullMode::generate; }
    [[nodiscard]] const PortCounters& counters() const noexcept override { return counters_; }

    /// Stops generating: then it is a sink.
    void stop() noexcept { mode_ = mode_ == NullMode::generate ? NullMode::sink : mode_; }
    /// A sum over the first cache line of every packet submitted: what a real consumer would at least have read.
    [[nodiscard]] std::uint64_t inspected() const noexcept { return inspected_; }

private:
    static constexpr std::size_t template_length = 42;

    /// A packet on its way back: a private copy, in a buffer of the pool.
    struct Reflected {
        std::byte* buffer;
        std::uint32_t length;
        Offload offload;
    };

    explicit NullPort(const NullConfig& config) noexcept;
    std::size_t generate(std::span<Packet* const> packets) noexcept;
    void reflect(const Packet& packet) noexcept;
    std::size_t take_reflected(std::span<Packet* const> packets) noexcept;

    NullMode mode_;
    std::uint32_t packet_length_;
    std::array<std::byte, template_length> template_{};
    std::uint64_t sequence_ = 0;
    std::uint64_t inspected_ = 0;
    PortCounters counters_;

    std::unique_ptr<BufferPool> buffers_;  ///< when reflecting
    std::array<Reflected, limits::reflected_packets> ring_{};
    std::uint32_t ring_begin_ = 0;  ///< free running
    std::uint32_t ring_end_ = 0;
};

}  // namespace uvif
