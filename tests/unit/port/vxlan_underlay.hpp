// SPDX-License-Identifier: MIT
#pragma once

// Theory of operation
//
// The underlay is one end of a veth pair. What leaves by it is dropped at the other end before anything looks at it, as
// a network card would have it gone: the kernel then never copies. Or it is looked at, by a packet socket, which has
// the kernel copy at that moment, and shows what stood in the buffer then.

#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <net/if.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>

#include "port/vxlan_endpoint.hpp"
#include "runtime/clock.hpp"
#include "runtime/unique_fd.hpp"
#include "support/process.hpp"
#include "unit/port/network.hpp"
#include "unit/port/packets.hpp"

namespace uvif {

/// Drops all that comes in by an interface, as long as it lives. TCX: Linux 6.6.
class DropAll {
public:
    explicit DropAll(const char* name) {
        std::array<bpf_insn, 2> program{};
        program[0].code = BPF_ALU64 | BPF_MOV | BPF_K;
        program[0].imm = 2;  // TCX_DROP
        program[1].code = BPF_JMP | BPF_EXIT;
        bpf_attr load{};
        load.prog_type = BPF_PROG_TYPE_SCHED_CLS;
        load.insns = reinterpret_cast<std::uint64_t>(program.data());
        load.insn_cnt = program.size();
        load.license = reinterpret_cast<std::uint64_t>("MIT");
        program_.reset(static_cast<int>(::syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load)));
        bpf_attr link{};
        link.link_create.prog_fd = static_cast<std::uint32_t>(program_.get());
        link.link_create.target_fd = ::if_nametoindex(name);
        link.link_create.attach_type = 46;  // BPF_TCX_INGRESS, which older headers do not have
        link_.reset(static_cast<int>(::syscall(SYS_bpf, BPF_LINK_CREATE, &link, sizeof link)));
    }
    [[nodiscard]] explicit operator bool() const { return program_ && link_; }

private:
    UniqueFd program_, link_;
};

/// A port whose underlay is a veth pair.
class VxlanUnderlayTest : public NetworkTest {
protected:
    static constexpr Mac near{2, 0, 0, 0, 0, 7};  ///< behind 10.9.0.2, which is there
    static constexpr Mac lost{2, 0, 0, 0, 0, 8};  ///< behind 10.9.0.9, which answers no ARP
    static constexpr Mac here{2, 0, 0, 0, 0, 9};  ///< behind an address of this host

    void SetUp() override {
        NetworkTest::SetUp();
        if (IsSkipped()) {
            return;
        }
        ASSERT_TRUE(run(
            "ip link set lo up; ip link add uvif-u type veth peer name uvif-v && ip addr add 10.9.0.1/24 dev uvif-u && "
            "ip link set uvif-u up && ip link set uvif-v up && "
            "ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:ff dev uvif-u"));
        // A device that is up drops all until the kernel has seen its carrier and given it a queue.
        ASSERT_TRUE(test::eventually([] { return run("! ip link show uvif-u | grep -q 'qdisc noop '"); }));
        set_neighbour("retrans_time_ms", 20000);  // nothing is given up unless a test wants it
        const auto config = parse_vxlan_config(
            "vni=42,local=10.9.0.1,fdb=02:00:00:00:00:07@10.9.0.2,fdb=02:00:00:00:00:08@10.9.0.9,"
            "fdb=02:00:00:00:00:09@127.0.0.2");
        ASSERT_TRUE(config) << config.error().message;
        auto endpoint = VxlanEndpoint::open(*config, {});
        ASSERT_TRUE(endpoint) << endpoint.error().message;
        endpoint_ = std::move(*endpoint);
        auto port = endpoint_->queue(0);
        ASSERT_TRUE(port) << port.error().message;
        port_ = std::move(*port);
    }

    void TearDown() override {
        port_.reset();
        endpoint_.reset();
        run("ip link del uvif-u");
    }

    static void set_neighbour(const char* name, int value) {
        std::ofstream(std::string("/proc/sys/net/ipv4/neigh/uvif-u/") + name) << value;
    }

    static frames::Octets frame(const Mac& to, unsigned mark, std::size_t length) {
        frames::Octets octets = frames::ethernet(type_experimental);
        octets.insert(octets.end(), length, static_cast<std::byte>(mark));
        std::memcpy(octets.data(), to.data(), to.size());
        return octets;
    }

    /// Hears all that the kernel says until it has been silent for so long.
    void settle(int silence_ms = 0) {
        pollfd entry{port_->fd(), 0, 0};
        while (::poll(&entry, 1, silence_ms) == 1 && (entry.revents & POLLERR) != 0) {
            ASSERT_TRUE(port_->survives_error());
        }
    }

    /// Waits until the kernel has been done with so many messages without having copied them.
    bool sees_sent(std::uint64_t count) {
        for (const std::int64_t deadline = monotonic_ns() + 20 * ns_per_s; counters().zerocopy_sent < count;) {
            if (monotonic_ns() > deadline) {
                return false;
            }
            settle(20);
        }
        return true;
    }

    static std::uint64_t sent_by_device() {
        std::ifstream file("/proc/thread-self/net/dev");
        for (std::string word; file >> word;) {
            if (word == "uvif-u:") {
                std::uint64_t octets = 0;
                for (int column = 0; column < 9; ++column) {
                    file >> octets;
                }
                return octets;
            }
        }
        return 0;
    }

    [[nodiscard]] const PortCounters& counters() const { return port_->counters(); }

    Packets packets_;
    std::unique_ptr<VxlanEndpoint> endpoint_;
    std::unique_ptr<Port> port_;
};

}  // namespace uvif
