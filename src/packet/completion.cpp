// SPDX-License-Identifier: MIT
#include <cstdio>
#include <cstdlib>

#include "packet/packet.hpp"

namespace uvif {

void completed_twice(const Packet& packet) noexcept {
    std::fprintf(stderr, "uvif: a packet of %u octets was completed twice: this is a bug of the port that had it\n",
                 packet.length);
    std::abort();
}

}  // namespace uvif
