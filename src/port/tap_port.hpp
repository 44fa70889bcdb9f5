// SPDX-License-Identifier: MIT
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "packet/vnet_header.hpp"
#include "port/port.hpp"
#include "runtime/limits.hpp"
#include "runtime/loop.hpp"
#include "runtime/unique_fd.hpp"

// Theory of operation
//
// A packet goes to the kernel as one vectored write: virtio-net header, then its fragments from where they are; the
// kernel copies it once. Writes of a batch share a submission (Loop::write_batch).
//
// Where the loop can read ahead, the kernel fills packets lent to the port as frames come, one after the other;
// receive() hands them out and lends those it is given in their place. Otherwise receive() is a read for each packet,
// and one that finds no more; it is vectored, so that a packet's pieces may lie anywhere.
//
// TUNSETSNDBUF bounds what the queue may have inside the host's network stack. A write beyond it reports EAGAIN:
// that packet and all behind it are held, in order, until the descriptor is writable. The submission of a batch does
// not stop at such a write, so a later packet of the batch may find room that an earlier one did not; that is
// counted, and TCP takes it for the reordering that any network does.

namespace uvif {

/// One queue of a TAP interface. Made by TapDevice.
class TapPort final : public Port {
public:
    /// With `detach` the queue leaves the interface when the port goes.
    TapPort(UniqueFd fd, Loop& loop, bool detach) noexcept;
    ~TapPort() override;

    [[nodiscard]] bool writable() const noexcept override { return held_count_ == 0; }
    void submit(std::span<Packet* const> packets) noexcept override;
    void flush(bool abandon) noexcept override;
    [[nodiscard]] std::span<Packet* const> held() const noexcept override {
        return std::span(held_).first(held_count_);
    }
    std::size_t receive(std::span<Packet*> packets) noexcept override;
    [[nodiscard]] std::size_t reads_ahead() const noexcept override {
        return loop_.can_read_ahead() ? reads_ahead_max : 0;
    }
    void lend(std::span<Packet* const> packets, ReadyHandler& handler) noexcept override;
    [[nodiscard]] bool scatters() const noexcept override { return true; }
    void read_ahead(bool on) noexcept override;
    [[nodiscard]] bool reading_ahead() const noexcept override {
        return lent_ != 0 && (ahead_ || next_read_ != posted_);
    }
    [[nodiscard]] int fd() const noexcept override { return fd_.get(); }
    [[nodiscard]] bool failed() const noexcept override { return failed_; }
    [[nodiscard]] const PortCounters& counters() const noexcept override { return counters_; }

private:
    /// What one write is made of.
    struct Slot {
        Packet* packet = nullptr;
        VnetHeader header;
        std::array<std::byte, limits::header_octets> scratch;  ///< headers with a checksum field that is not ours
        std::array<iovec, Packet::max_fragments + 2> pieces;   ///< header, scratch, fragments
    };

    /// What one read ahead is made of.
    struct Read {
        Packet* packet = nullptr;
        VnetHeader header;
        std::array<iovec, 2> pieces;
    };
    /// A system call is shared by so many packets at most; each has a buffer of 64 KiB.
    static constexpr std::size_t reads_ahead_max = 16;

    void transmit(std::span<Packet* const> packets) noexcept;
    void transmit_batch(std::span<Packet* const> packets) noexcept;
    [[nodiscard]] std::span<const iovec> prepare(Slot& slot) noexcept;
    void settle(const Slot& slot, std::int64_t result) noexcept;
    void hold(Packet* packet) noexcept;
    void drop(Packet* packet, std::uint64_t PortCounters::* reason) noexcept;
    std::size_t take_reads(std::span<Packet*> packets) noexcept;
    std::size_t read(std::span<Packet* const> packets) noexcept;
    void post_reads() noexcept;
    bool accept(Packet& packet, const VnetHeader& header, std::int64_t result) noexcept;

    UniqueFd fd_;
    Loop& loop_;
    const bool detach_;
    bool failed_ = false;
    PortCounters counters_;
    std::array<Slot, Loop::write_batch_max> slots_;
    std::array<WriteOperation, Loop::write_batch_max> operations_{};
    std::array<Packet*, limits::port_held_packets> held_{};
    std::array<Packet*, limits::port_held_packets> retried_{};  ///< held_ as it was when flush() began
    std::size_t held_count_ = 0;

    std::array<Read, reads_ahead_max> reads_;
    std::array<ReadOperation, reads_ahead_max> read_operations_;
    ReadStream stream_;
    bool ahead_ = true;
    std::size_t lent_ = 0;
    std::size_t next_read_ = 0;  ///< of those posted, the first that has not been handed out
    std::size_t posted_ = 0;
};

}  // namespace uvif
