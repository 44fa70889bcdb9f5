// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <vector>

#include "uvif/error.hpp"
#include "xen/emulated/hypercalls.hpp"
#include "xen/emulated/layout.hpp"
#include "xen/emulated/shared_memory.hpp"
#include "xen/types.hpp"

namespace uvif::xen {

struct MachineConfig {
    bool charged = false;                 ///< every grant operation and notification costs a real system call
    std::uint32_t gntalloc_limit = 1024;  ///< pages that a domain can share at a time, as gntalloc's parameter
};

/// One opened handle of a domain: a GrantTable, an EventChannels or a GrantAllocator. Never used twice.
enum class HandleId : std::uint32_t {};

/// What a domain has in use. All zero but `handles` and the pages of live allocators once everything is given back.
struct DomainUsage {
    std::uint32_t grants_in_use = 0;      ///< of this domain's grants, those that some handle has mapped
    std::uint32_t grants_held = 0;        ///< grants that this domain's handles have mapped, of any domain
    std::uint32_t ports_unbound = 0;      ///< allocated, and waiting for the other end
    std::uint32_t ports_interdomain = 0;  ///< connected
    std::uint32_t pages_shared = 0;       ///< given out by its grant allocators
    std::uint32_t pages_deferred = 0;     ///< given back, but still in use by another domain
    std::uint32_t handles = 0;

    bool operator==(const DomainUsage&) const = default;
};

/// The emulated hypervisor, and the part of each guest's kernel that gntalloc is. Nothing in it depends on time
/// or on thread order. Domain 0 exists from the start; domain ids are never used twice.
/// Errors carry the errno value that the corresponding call on real Xen gives.
/// Thread rule: one thread.
class Machine {
public:
    static Result<std::unique_ptr<Machine>> create(const MachineConfig& config = {});
    ~Machine();
    Machine(const Machine&) = delete;
    Machine& operator=(const Machine&) = delete;

    [[nodiscard]] const MachineConfig& config() const noexcept { return config_; }

    Result<DomainId> create_domain();
    /// Closes its ports, ends its grants; its handles can do nothing any more.
    Result<void> destroy_domain(DomainId id);
    [[nodiscard]] std::vector<DomainId> domains() const;
    [[nodiscard]] bool exists(DomainId id) const noexcept { return domains_.contains(std::to_underlying(id)); }
    Result<DomainUsage> usage(DomainId id);

    Result<HandleId> open_handle(DomainId id);
    /// Releases everything that the handle holds: what the kernel does when a process dies.
    void close_handle(HandleId id) noexcept;

    struct ColumnOf {
        int memory = -1;  ///< the machine's own descriptor
        std::uint32_t column = 0;
    };
    Result<ColumnOf> attach(HandleId handle, DomainId id);
    /// The machine's own descriptor of a domain's memory.
    Result<int> memory(DomainId id);

    Result<int> event_fd(HandleId handle);
    struct TargetOf {
        int fd = -1;
        std::uint32_t owner = 0;
    };
    Result<TargetOf> event_target(HandleId handle, EventPort port);
    Result<EventPort> bind_interdomain(HandleId handle, DomainId remote, EventPort remote_port);
    Result<EventPort> alloc_unbound(HandleId handle, DomainId remote);
    void unbind(HandleId handle, EventPort port) noexcept;

    Result<SharedRange> share(HandleId handle, DomainId with, std::uint32_t pages, Access access);
    void unshare(HandleId handle, ShareId id) noexcept;

    /// For the kernel of a guest made up in this process (GuestMemory): contiguous zeroed frames, and references.
    Result<std::uint32_t> allocate_frames(DomainId id, std::uint32_t count);
    Result<std::vector<GrantRef>> allocate_refs(DomainId id, std::uint32_t count);
    Result<DomainMemory> mapped_memory(DomainId id);

private:
    struct Port;
    struct Share;
    struct Domain;
    struct Handle;

    explicit Machine(const MachineConfig& config);

    Result<Domain*> domain(DomainId id);
    Result<Handle*> handle(HandleId id);
    Result<void> add_domain(DomainId id);
    Result<EventPort> free_port(const Domain& owner) const;
    void close_port(Domain& owner, std::uint32_t number) noexcept;
    static void publish(Domain& owner, std::uint32_t number) noexcept;
    void raise_event(Domain& owner, std::uint32_t number) noexcept;
    void detach(Handle& handle, std::uint16_t id) noexcept;
    void give_back(Domain& owner, Share& share) noexcept;
    void sweep(Domain& owner) noexcept;

    MachineConfig config_;
    std::map<std::uint16_t, std::unique_ptr<Domain>> domains_;
    std::map<std::uint32_t, std::unique_ptr<Handle>> handles_;
    std::uint16_t next_domain_ = 0;
    std::uint32_t next_handle_ = 1;
    std::uint32_t next_share_ = 1;
};

}  // namespace uvif::xen
