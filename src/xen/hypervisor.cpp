// SPDX-License-Identifier: MIT
#include "xen/hypervisor.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>

#include "runtime/printable.hpp"
#include "xen/emulated/remote_hypervisor.hpp"
#include "xen/real/real_hypervisor.hpp"

namespace uvif::xen {
namespace {

constexpr std::string_view emulated_prefix = "emulated:";

bool runs_on_xen() {
    if (::access("/proc/xen/capabilities", F_OK) == 0 || ::access("/dev/xen/xenbus", F_OK) == 0) {
        return true;
    }
    std::ifstream type("/sys/hypervisor/type");
    std::string name;
    return type >> name && name == "xen";
}

}  // namespace

Result<void> check_hypervisor(std::string_view choice) {
    if (choice == "real" || (choice.starts_with(emulated_prefix) && choice.size() > emulated_prefix.size())) {
        return {};
    }
    return fail(EINVAL, fmt::format("there is no hypervisor '{}': the choices are real and emulated:SOCKET, a domain's "
                                    "socket of a running uvif-machine",
                                    printable(choice)));
}

Result<std::unique_ptr<Hypervisor>> open_hypervisor(std::string_view choice) {
    std::string chosen(choice);
    if (chosen.empty()) {
        const char* from_environment = std::getenv("UVIF_HYPERVISOR");
        chosen = from_environment != nullptr ? from_environment : "";
    }
    if (chosen.empty() && runs_on_xen()) {
        chosen = "real";
    }
    if (chosen.empty()) {
        return fail(ENODEV,
                    "this is not a Xen domain: choose --hypervisor=real or "
                    "--hypervisor=emulated:SOCKET, a domain's socket of a running uvif-machine");
    }
    if (auto checked = check_hypervisor(chosen); !checked) {
        return propagate(checked);
    }
    return chosen == "real" ? open_real_hypervisor() : open_emulated_hypervisor(chosen.substr(emulated_prefix.size()));
}

}  // namespace uvif::xen
