// SPDX-License-Identifier: MIT
#pragma once

#include <memory>

#include "uvif/error.hpp"
#include "xen/event_channels.hpp"

namespace uvif::xen {

/// libxenevtchn, one handle (/dev/xen/evtchn).
Result<std::unique_ptr<EventChannels>> open_real_event_channels();

}  // namespace uvif::xen
