// SPDX-License-Identifier: MIT
#pragma once

#include <memory>

#include "uvif/error.hpp"
#include "xen/emulated/hypercalls.hpp"
#include "xen/emulated/machine.hpp"

namespace uvif::xen {

/// A handle on a machine in this process, which must outlive it. Thread rule: the machine's thread.
class LocalHypercalls final : public Hypercalls {
public:
    static Result<std::unique_ptr<Hypercalls>> open(Machine& machine, DomainId domain);
    ~LocalHypercalls() override { machine_.close_handle(handle_); }

    [[nodiscard]] DomainId domain() const noexcept override { return domain_; }
    [[nodiscard]] bool charged() const noexcept override { return machine_.config().charged; }
    Result<Attachment> attach(DomainId domain) override;
    Result<UniqueFd> memory(DomainId domain) override;
    Result<UniqueFd> event_fd() override;
    Result<EventTarget> event_target(EventPort port) override;
    Result<EventPort> bind_interdomain(DomainId remote, EventPort remote_port) override {
        return machine_.bind_interdomain(handle_, remote, remote_port);
    }
    Result<EventPort> alloc_unbound(DomainId remote) override { return machine_.alloc_unbound(handle_, remote); }
    void unbind(EventPort port) noexcept override { machine_.unbind(handle_, port); }
    Result<SharedRange> share(DomainId with, std::uint32_t pages, Access access) override {
        return machine_.share(handle_, with, pages, access);
    }
    void unshare(ShareId id) noexcept override { machine_.unshare(handle_, id); }

private:
    LocalHypercalls(Machine& machine, DomainId domain, HandleId handle)
        : machine_(machine), domain_(domain), handle_(handle) {}

    Machine& machine_;
    DomainId domain_;
    HandleId handle_;
};

}  // namespace uvif::xen
