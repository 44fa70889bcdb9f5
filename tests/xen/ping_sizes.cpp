// SPDX-License-Identifier: MIT
//
// usage: ping-sizes ADDRESS FIRST LAST
//
// Pings an IPv4 address with one packet of every size from FIRST to LAST octets of data, several under way at a time,
// which ping(8) has no option for. Every one must be answered with the data that it had.
#include <arpa/inet.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

constexpr int window = 16;               // packets under way
constexpr int patience_ms = 60'000;      // without any answer; the emulated machine stands still at times
constexpr int buffer = 8 * 1024 * 1024;  // for all answers that may be under way

/// The sum of the words, in ones' complement (RFC 1071).
std::uint16_t checksum(const std::vector<unsigned char>& bytes) {
    std::uint32_t sum = 0;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        sum += i % 2 == 0 ? bytes[i] << 8 : bytes[i];
    }
    while (sum >> 16 != 0) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return htons(static_cast<std::uint16_t>(~sum));
}

/// The echo request of a size, whose sequence number is the size.
std::vector<unsigned char> request(int size, std::uint16_t id) {
    std::vector<unsigned char> packet(sizeof(icmphdr) + static_cast<std::size_t>(size));
    for (std::size_t i = sizeof(icmphdr); i < packet.size(); ++i) {
        packet[i] = static_cast<unsigned char>(i * 7 + static_cast<std::size_t>(size) * 31);
    }
    icmphdr header{};
    header.type = ICMP_ECHO;
    header.un.echo.id = id;
    header.un.echo.sequence = htons(static_cast<std::uint16_t>(size));
    std::memcpy(packet.data(), &header, sizeof header);
    header.checksum = checksum(packet);
    std::memcpy(packet.data(), &header, sizeof header);
    return packet;
}

[[noreturn]] void fail(const char* what) {
    std::printf("ping-sizes: %s: %s\n", what, std::strerror(errno));
    std::exit(1);
}

}  // namespace

int main(int argc, char** argv) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    if (argc != 4 || ::inet_pton(AF_INET, argv[1], &to.sin_addr) != 1) {
        std::puts("usage: ping-sizes ADDRESS FIRST LAST");
        return 2;
    }
    const int first = std::atoi(argv[2]);
    const int last = std::atoi(argv[3]);
    const auto id = static_cast<std::uint16_t>(::getpid());
    const int fd = ::socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    if (fd < 0 || ::setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer) != 0 ||
        ::connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) {
        fail("socket");
    }
    std::vector<bool> answered(static_cast<std::size_t>(last) + 1);
    std::vector<unsigned char> answer(65536);
    int next = first;
    int missing = last - first + 1;
    for (int under_way = 0; missing > 0;) {
        for (; under_way < window && next <= last; ++next, ++under_way) {
            const auto packet = request(next, id);
            if (::send(fd, packet.data(), packet.size(), 0) != static_cast<ssize_t>(packet.size())) {
                fail("send");
            }
        }
        pollfd readable{.fd = fd, .events = POLLIN, .revents = 0};
        if (::poll(&readable, 1, patience_ms) <= 0) {
            int size = first;
            while (answered[static_cast<std::size_t>(size)]) {
                ++size;
            }
            std::printf("%d packets were not answered, the first of them of %d octets\n", under_way, size);
            return 1;
        }
        const auto received = ::recv(fd, answer.data(), answer.size(), 0);
        if (received < 0) {
            fail("recv");
        }
        const auto header_size = static_cast<std::size_t>(answer[0] & 0xf) * 4;
        icmphdr header{};
        std::memcpy(&header, answer.data() + header_size, sizeof header);
        const std::size_t size = ntohs(header.un.echo.sequence);
        if (header.type != ICMP_ECHOREPLY || header.un.echo.id != id || size >= answered.size() || answered[size]) {
            continue;  // of another program, or a second one
        }
        const auto sent = request(static_cast<int>(size), id);
        if (static_cast<std::size_t>(received) != header_size + sent.size() ||
            std::memcmp(answer.data() + header_size + sizeof header, sent.data() + sizeof header,
                        sent.size() - sizeof header) != 0) {
            std::printf("the answer to the packet of %zu octets holds other data\n", size);
            return 1;
        }
        answered[size] = true;
        --under_way;
        --missing;
    }
    std::printf("%d sizes, all answered\n", last - first + 1);
}
