// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "netback/queue_pair.hpp"
#include "netfront/queue.hpp"
#include "support/fake_port.hpp"
#include "xen/emulated/local_hypervisor.hpp"

namespace uvif::test {

inline bool readable(int fd) {
    pollfd p{fd, POLLIN, 0};
    return ::poll(&p, 1, 0) == 1;
}

/// A guest's program over the library's queue: sends what is queued, takes what has come, and sleeps when there is
/// nothing, until an event wakes it.
class PlayedGuest {
public:
    PlayedGuest(xen::LocalHost& on, const char* name, bool split, ring::Index start)
        : host(on),
          id(*host.create_domain(name)),
          hypervisor(host.open(id)),
          alarm(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
          grants(*hypervisor->open_grant_allocator()) {
        netfront::QueueSetup setup{};
        setup.backend = xen::DomainId{0};
        setup.tx_buffers = 64;
        setup.rx_buffers = 64;
        setup.split_event_channels = split;
        setup.tx = {true, true, true, true, true};
        setup.rx = {true, true};
        setup.first_index = start;
        setup.alarm = alarm.get();
        front = *netfront::Queue::Impl::create(*hypervisor, *grants, setup);
    }
    ~PlayedGuest() { front->disconnect(); }
    PlayedGuest(const PlayedGuest&) = delete;
    PlayedGuest& operator=(const PlayedGuest&) = delete;

    /// For a backend that serves it, and may learn its grants.
    [[nodiscard]] netback::QueueConfig config(netback::FetchStrategy strategy, bool persistent = false) {
        netback::QueueConfig config;
        config.domain = id;
        config.keys = {front->tx_ring_ref(), front->rx_ring_ref(), front->tx_port(), front->rx_port()};
        config.rx = {.scatter_gather = true,
                     .checksum_v4 = true,
                     .checksum_v6 = true,
                     .gso_v4 = true,
                     .gso_v6 = true,
                     .announces_buffers = true};
        config.fetch.strategy = strategy;
        config.credit = &credit;
        config.held = &held;
        config.persistent = persistent ? &kept_pages : nullptr;
        return config;
    }

    /// False: it sleeps on.
    bool step() {
        if (asleep && !readable(front->fd())) {
            return false;
        }
        asleep = false;
        bool moved = send_some();
        moved |= receive_some();
        if (!moved) {
            asleep = front->arm(!to_send.empty());
        }
        return true;
    }

    void queue(Frame frame) {
        to_send.push_back(std::move(frame));
        asleep = false;  // the program itself decided to send
    }

    bool send_some() {
        bool moved = false;
        while (!to_send.empty()) {
            const Frame& frame = to_send.front();
            std::array<netfront::Fragment, 18> buffers;
            const std::size_t pages = (frame.data.size() + 4095) / 4096;
            const std::size_t got = front->allocate(std::span(buffers).first(pages), true);
            if (got < pages) {
                front->free(std::span(buffers).first(got));
                break;
            }
            netfront::Packet packet;
            packet.fragment_count = static_cast<std::uint16_t>(pages);
            packet.offload = frame.offload;
            for (std::size_t i = 0; i < pages; ++i) {
                buffers[i].length =
                    static_cast<std::uint32_t>(std::min<std::size_t>(4096, frame.data.size() - i * 4096));
                std::memcpy(buffers[i].data, frame.data.data() + i * 4096, buffers[i].length);
                packet.fragments[i] = buffers[i];
            }
            int error = 0;
            if (front->send(std::span(&packet, 1), error) == 0) {
                front->free(std::span(buffers).first(pages));
                EXPECT_EQ(error, 0);
                break;
            }
            sent.push_back(frame);
            to_send.pop_front();
            moved = true;
        }
        return moved;
    }

    bool receive_some() {
        std::array<netfront::Packet, 8> packets;
        const std::size_t count = front->receive(packets);
        for (std::size_t i = 0; i < count; ++i) {
            Frame frame;
            for (std::size_t f = 0; f < packets[i].fragment_count; ++f) {
                const netfront::Fragment& piece = packets[i].fragments[f];
                frame.data.insert(frame.data.end(), piece.data, piece.data + piece.length);
            }
            frame.offload = packets[i].offload;
            received.push_back(std::move(frame));
        }
        front->release(std::span(packets).first(count));
        return count != 0;
    }

    /// All of its buffers are its own again, and nobody holds more of its grants than the two rings. Takes them all.
    [[nodiscard]] bool has_all() {
        std::array<netfront::Fragment, 64> all;
        return front->breach() == nullptr && front->allocate(all, false) == all.size() && front->tx_in_flight() == 0 &&
               host.machine().usage(id)->grants_in_use == 2;
    }

    xen::LocalHost& host;
    xen::DomainId id;
    std::unique_ptr<xen::Hypervisor> hypervisor;
    UniqueFd alarm;
    std::unique_ptr<xen::GrantAllocator> grants;
    std::unique_ptr<netfront::Queue::Impl> front;
    netback::TxCredit credit;
    netback::HeldSlots held;
    PageBudget kept_pages{limits::static_grants_per_vif};
    bool asleep = false;
    std::deque<Frame> to_send;
    std::vector<Frame> sent, received;
};

}  // namespace uvif::test
