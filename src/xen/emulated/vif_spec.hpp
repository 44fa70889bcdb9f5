// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "uvif/error.hpp"

namespace uvif::xen {

/// A vif as xl's configuration describes it (xl-network-configuration(5)).
struct VifSpec {
    struct Rate {
        std::uint64_t bytes = 0;  ///< credit of an interval
        std::uint32_t interval_us = 0;
    };

    std::optional<unsigned> devid;  ///< none: the lowest that is free
    std::string mac;                ///< aa:bb:cc:dd:ee:ff; made up by parse() when none is given
    std::string bridge;
    std::string script;  ///< absolute path; empty: no script is run and nobody is to wait for one
    std::string ip;
    std::string vifname;
    std::string backend = "0";  ///< domain id or name
    std::string type = "vif";
    std::optional<Rate> rate;
    unsigned mtu = 1500;

    /// "mac=..,bridge=..,rate=10MB/s@20ms,.." as in `vif = [ '...' ]`. EINVAL, naming the entry and what it may be.
    static Result<VifSpec> parse(std::string_view text);
};

}  // namespace uvif::xen
