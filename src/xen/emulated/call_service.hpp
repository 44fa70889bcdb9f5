// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "xen/emulated/machine.hpp"

namespace uvif::xen {

/// The answer to one call of a client, ready to be sent. `fd` is the machine's own; -1: none.
struct CallAnswer {
    std::vector<std::byte> message;
    int fd = -1;
};

/// Does what `request`, octets of a client's making, asks of the machine in the name of that client.
CallAnswer answer_call(Machine& machine, DomainId caller, HandleId handle, std::string_view store_path,
                       std::span<const std::byte> request);

}  // namespace uvif::xen
