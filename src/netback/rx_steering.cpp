// SPDX-License-Identifier: MIT
#include "netback/rx_steering.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "packet/headers.hpp"

namespace uvif::netback {

RxSteering::RxSteering(std::uint32_t types, std::span<const std::uint8_t> key, std::span<const std::uint16_t> mapping,
                       std::uint32_t queues) noexcept
    : types_(types), queues_(queues), mapping_size_(static_cast<std::uint32_t>(mapping.size())), toeplitz_(key) {
    assert(mapping.size() <= mapping_.size() && queues != 0);
    std::ranges::copy(mapping, mapping_.begin());
}

FlowHash RxSteering::hash(std::span<const std::byte> octets) const noexcept {
    const Headers headers = parse_headers(octets);
    const bool v4 = headers.ip_version == 4;
    if (!v4 && headers.ip_version != 6) {
        return {};
    }
    const std::uint32_t plain = v4 ? HashTypes::ipv4 : HashTypes::ipv6;
    const std::uint32_t tcp = v4 ? HashTypes::ipv4_tcp : HashTypes::ipv6_tcp;
    const bool with_ports = (types_ & tcp) != 0 && headers.is_tcp() && !headers.fragment;
    if (!with_ports && (types_ & plain) == 0) {
        return {};
    }
    const std::size_t addresses = v4 ? 8 : 32;
    std::array<std::byte, Toeplitz::input_max> input;
    std::memcpy(input.data(), octets.data() + headers.l3_offset + (v4 ? 12 : 8), addresses);
    if (with_ports) {
        std::memcpy(input.data() + addresses, octets.data() + headers.l4_offset, 4);
    }
    return {toeplitz_(std::span(input).first(addresses + (with_ports ? 4 : 0))), with_ports ? tcp : plain};
}

}  // namespace uvif::netback
