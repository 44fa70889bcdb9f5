// SPDX-License-Identifier: MIT
#include "xen/real/real_hypervisor.hpp"

#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <optional>
#include <string>

#include "xen/real/kernel_netback.hpp"
#include "xen/real/real_event_channels.hpp"
#include "xen/real/real_grant_allocator.hpp"
#include "xen/real/real_grant_table.hpp"
#include "xen/store_path.hpp"
#include "xen/xenstore_client.hpp"

namespace uvif::xen {

namespace {

/// Whether the domain is itself the guest of a network backend. Its netfront grants that backend what it sends, and
/// what another domain has granted cannot be granted on: the backend's copy of such a page fails, and the packet is
/// lost.
bool has_vif() {
    std::error_code error;  // there is no such folder, or no end of it
    std::filesystem::directory_iterator device("/sys/bus/xen/devices", error);
    for (; !error && device != std::filesystem::directory_iterator(); device.increment(error)) {
        if (device->path().filename().string().starts_with("vif-")) {
            return true;
        }
    }
    return false;
}

class RealHypervisor final : public Hypervisor {
public:
    [[nodiscard]] std::string description() const override { return "real"; }
    Result<std::unique_ptr<GrantTable>> open_grant_table() override { return open_real_grant_table(self()); }
    Result<std::unique_ptr<GrantAllocator>> open_grant_allocator() override { return open_real_grant_allocator(); }
    Result<std::unique_ptr<EventChannels>> open_event_channels() override { return open_real_event_channels(); }
    Result<std::unique_ptr<Store>> open_store() override { return open_libxenstore({}); }
    [[nodiscard]] bool pinning_is_safe() const override {
        std::ifstream file("/sys/hypervisor/guest_type");
        std::string type;
        return file >> type && (type == "PVH" || type == "HVM") && !has_vif();
    }
    [[nodiscard]] Result<void> check_no_other_netback() const override { return kernel_netback_.check_absent(); }
    [[nodiscard]] bool other_netback_serves(DomainId guest, std::uint32_t handle) const override {
        return kernel_netback_.serves(guest, handle);
    }

private:
    std::optional<DomainId> self() {
        std::call_once(asked_, [this] {
            if (auto store = open_store(); store) {
                if (const auto id = read_decimal(**store, "domid", first_reserved_domain_id - 1U); id && *id) {
                    self_ = DomainId{static_cast<std::uint16_t>(**id)};
                }
            }
        });
        return self_;
    }

    KernelNetback kernel_netback_;
    std::once_flag asked_;
    std::optional<DomainId> self_;
};

bool exists(const char* path) noexcept {
    return ::access(path, F_OK) == 0;
}

}  // namespace

Result<std::unique_ptr<Hypervisor>> open_real_hypervisor() {
    if (!exists("/dev/xen") && !exists("/proc/xen/capabilities")) {
        return fail(ENODEV,
                    "not running under Xen (there is no /dev/xen): start this in a Xen domain, or name a domain of "
                    "an emulated machine with emulated:SOCKET");
    }
    // Both ends of a vif need events; which grant driver is needed depends on the end, and shows when it is opened.
    if (!exists("/dev/xen/evtchn")) {
        return fail(ENODEV, "there is no /dev/xen/evtchn: modprobe xen-evtchn");
    }
    return std::make_unique<RealHypervisor>();
}

}  // namespace uvif::xen
