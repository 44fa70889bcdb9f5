// SPDX-License-Identifier: MIT
#include "xen/emulated/machine.hpp"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <bitset>
#include <cerrno>
#include <cstring>
#include <utility>

#include "runtime/describe_error.hpp"

namespace uvif::xen {

// Theory of operation
// -------------------
// A Domain is its memory file and the truth about its ports, frames and references; a Handle is what one opener
// holds: ports, columns of pins in other domains' memory, shares. Closing a handle walks that list. A share that
// another domain still uses is revoked at once, but its frames and references wait on the `deferred` list, which is
// swept whenever somebody wants memory or looks at the usage: the machine needs no timer.

struct Machine::Port {
    PortBinding binding;
    HandleId owner{};
};

struct Machine::Share {
    ShareId id{};
    HandleId owner{};
    std::uint32_t first_frame = 0;
    std::vector<GrantRef> refs;
    bool deferred = false;
};

struct Machine::Domain {
    DomainId id{};
    UniqueFd memory_fd;
    MemoryMap map;
    DomainMemory memory;
    std::vector<Port> ports = std::vector<Port>(max_ports);
    std::vector<bool> frame_used = std::vector<bool>(max_frames, false);
    std::vector<GrantRef> free_refs;
    std::list<Share> shares;
    std::uint32_t pages = 0;  ///< in shares, deferred ones included
};

struct Machine::Handle {
    HandleId id{};
    DomainId domain{};
    UniqueFd event_fd;
    std::map<std::uint16_t, std::uint32_t> columns;  ///< by domain
};

Machine::Machine(const MachineConfig& config) : config_(config) {}

Machine::~Machine() = default;

Result<std::unique_ptr<Machine>> Machine::create(const MachineConfig& config) {
    auto machine = std::unique_ptr<Machine>(new Machine(config));
    if (auto created = machine->create_domain(); !created) {
        return propagate(created);
    }
    return machine;
}

Result<DomainId> Machine::create_domain() {
    if (next_domain_ >= first_reserved_domain_id) {
        return fail(ENOSPC, "all domain ids have been used: restart the machine");
    }
    const auto id = static_cast<DomainId>(next_domain_);
    if (auto added = add_domain(id); !added) {
        return propagate(added);
    }
    ++next_domain_;
    return id;
}

Result<void> Machine::add_domain(DomainId id) {
    auto fd = create_shared_memory("uvif-domain", DomainMemory::size);
    if (!fd) {
        return propagate(fd);
    }
    auto map = MemoryMap::map(fd->get(), 0, DomainMemory::size, MemoryMap::Protection::read_write);
    if (!map) {
        return propagate(map);
    }
    auto added = std::make_unique<Domain>();
    added->id = id;
    added->memory_fd = std::move(*fd);
    added->map = std::move(*map);
    added->memory = DomainMemory(added->map.base());
    for (std::uint32_t ref = max_grants; ref-- > reserved_grants;) {
        added->free_refs.push_back(static_cast<GrantRef>(ref));
    }
    added->memory.alive().store(1);
    domains_.emplace(std::to_underlying(id), std::move(added));
    return {};
}

Result<void> Machine::destroy_domain(DomainId id) {
    auto doomed = domain(id);
    if (!doomed) {
        return propagate(doomed);
    }
    if (id == DomainId{0}) {
        return fail(EBUSY, "domain 0 cannot be destroyed: stop the machine instead");
    }
    (*doomed)->memory.alive().store(0);
    std::vector<HandleId> of_domain;
    for (const auto& [number, held] : handles_) {
        if (held->domain == id) {
            of_domain.push_back(held->id);
        }
    }
    for (const HandleId handle : of_domain) {
        close_handle(handle);
    }
    for (const auto& [number, held] : handles_) {
        held->columns.erase(std::to_underlying(id));
    }
    domains_.erase(std::to_underlying(id));
    return {};
}

std::vector<DomainId> Machine::domains() const {
    std::vector<DomainId> ids;
    for (const auto& [number, known] : domains_) {
        ids.push_back(known->id);
    }
    return ids;
}

Result<Machine::Domain*> Machine::domain(DomainId id) {
    const auto found = domains_.find(std::to_underlying(id));
    if (found == domains_.end()) {
        return fail(ESRCH, fmt::format("there is no domain {}", std::to_underlying(id)));
    }
    return found->second.get();
}

Result<Machine::Handle*> Machine::handle(HandleId id) {
    const auto found = handles_.find(std::to_underlying(id));
    if (found == handles_.end()) {
        return fail(EBADF, "this handle is closed: its domain may have been destroyed");
    }
    return found->second.get();
}

Result<DomainUsage> Machine::usage(DomainId id) {
    auto found = domain(id);
    if (!found) {
        return propagate(found);
    }
    Domain& asked = **found;
    sweep(asked);
    DomainUsage usage;
    std::bitset<max_grants> in_use;
    for (std::uint64_t columns = asked.memory.columns().load(); columns != 0; columns &= columns - 1) {
        const auto column = static_cast<std::uint32_t>(std::countr_zero(columns));
        for (std::uint32_t ref = 0; ref < max_grants; ++ref) {
            if (asked.memory.pins(column, ref).load(std::memory_order_relaxed) != 0) {
                in_use.set(ref);
            }
        }
    }
    usage.grants_in_use = static_cast<std::uint32_t>(in_use.count());
    for (const Port& port : asked.ports) {
        usage.ports_unbound += port.binding.state == PortState::unbound ? 1 : 0;
        usage.ports_interdomain += port.binding.state == PortState::interdomain ? 1 : 0;
    }
    for (const Share& share : asked.shares) {
        (share.deferred ? usage.pages_deferred : usage.pages_shared) += static_cast<std::uint32_t>(share.refs.size());
    }
    for (const auto& [number, held] : handles_) {
        if (held->domain != id) {
            continue;
        }
        ++usage.handles;
        for (const auto& [granter, column] : held->columns) {
            const DomainMemory& memory = domains_.at(granter)->memory;
            for (std::uint32_t ref = 0; ref < max_grants; ++ref) {
                usage.grants_held += memory.pins(column, ref).load() != 0 ? 1 : 0;
            }
        }
    }
    return usage;
}

Result<HandleId> Machine::open_handle(DomainId id) {
    if (auto found = domain(id); !found) {
        return propagate(found);
    }
    auto opened = std::make_unique<Handle>();
    opened->id = static_cast<HandleId>(next_handle_++);
    opened->domain = id;
    const HandleId handle = opened->id;
    handles_.emplace(std::to_underlying(handle), std::move(opened));
    return handle;
}

void Machine::close_handle(HandleId id) noexcept {
    const auto found = handles_.find(std::to_underlying(id));
    if (found == handles_.end()) {
        return;
    }
    Handle& closed = *found->second;
    Domain& owner = *domains_.at(std::to_underlying(closed.domain));
    for (std::uint32_t port = 0; port < max_ports; ++port) {
        if (owner.ports[port].binding.state != PortState::free && owner.ports[port].owner == id) {
            close_port(owner, port);
        }
    }
    while (!closed.columns.empty()) {
        detach(closed, closed.columns.begin()->first);
    }
    for (Share& share : owner.shares) {
        if (share.owner == id) {
            give_back(owner, share);
        }
    }
    sweep(owner);
    handles_.erase(found);
}

Result<Machine::ColumnOf> Machine::attach(HandleId id, DomainId granter) {
    auto holder = handle(id);
    if (!holder) {
        return propagate(holder);
    }
    auto found = domain(granter);
    if (!found) {
        return propagate(found);
    }
    Domain& owner = **found;
    auto& columns = (*holder)->columns;
    if (const auto known = columns.find(std::to_underlying(granter)); known != columns.end()) {
        return ColumnOf{owner.memory_fd.get(), known->second};
    }
    const std::uint64_t used = owner.memory.columns().load();
    if (used == ~std::uint64_t{0}) {
        return fail(ENOSPC, fmt::format("{} grant handles already use the grants of domain {}: use fewer workers",
                                        max_columns, std::to_underlying(granter)));
    }
    const auto column = static_cast<std::uint32_t>(std::countr_one(used));
    owner.memory.columns().fetch_or(std::uint64_t{1} << column);
    columns.emplace(std::to_underlying(granter), column);
    return ColumnOf{owner.memory_fd.get(), column};
}

void Machine::detach(Handle& holder, std::uint16_t id) noexcept {
    const auto found = holder.columns.find(id);
    Domain& owner = *domains_.at(id);
    const std::uint32_t column = found->second;
    discard_memory(owner.memory_fd.get(), DomainMemory::pins_offset + column * DomainMemory::column_size,
                   DomainMemory::column_size);
    owner.memory.columns().fetch_and(~(std::uint64_t{1} << column));
    holder.columns.erase(found);
    sweep(owner);
}

Result<int> Machine::memory(DomainId id) {
    auto found = domain(id);
    if (!found) {
        return propagate(found);
    }
    return (*found)->memory_fd.get();
}

Result<DomainMemory> Machine::mapped_memory(DomainId id) {
    auto found = domain(id);
    if (!found) {
        return propagate(found);
    }
    return (*found)->memory;
}

Result<int> Machine::event_fd(HandleId id) {
    auto holder = handle(id);
    if (!holder) {
        return propagate(holder);
    }
    UniqueFd& fd = (*holder)->event_fd;
    if (!fd) {
        fd = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        if (!fd) {
            return fail(errno, fmt::format("cannot make an eventfd: {}", describe_error(errno)));
        }
    }
    return fd.get();
}

Result<Machine::TargetOf> Machine::event_target(HandleId id, EventPort port) {
    auto holder = handle(id);
    if (!holder) {
        return propagate(holder);
    }
    const std::uint32_t number = std::to_underlying(port);
    const Domain& local = *domains_.at(std::to_underlying((*holder)->domain));
    if (number >= max_ports || local.ports[number].owner != id ||
        local.ports[number].binding.state != PortState::interdomain) {
        return fail(ENOTCONN, fmt::format("port {} is not connected", number));
    }
    const PortBinding& binding = local.ports[number].binding;
    const Domain& remote = *domains_.at(std::to_underlying(binding.remote));
    const HandleId owner = remote.ports[std::to_underlying(binding.remote_port)].owner;
    auto fd = event_fd(owner);
    if (!fd) {
        return propagate(fd);
    }
    return TargetOf{*fd, std::to_underlying(owner)};
}

Result<EventPort> Machine::free_port(const Domain& owner) const {
    for (std::uint32_t port = 1; port < max_ports; ++port) {
        if (owner.ports[port].binding.state == PortState::free) {
            return static_cast<EventPort>(port);
        }
    }
    return fail(ENOSPC, fmt::format("all {} event channels of domain {} are in use", max_ports - 1,
                                    std::to_underlying(owner.id)));
}

void Machine::publish(Domain& owner, std::uint32_t number) noexcept {
    const Port& port = owner.ports[number];
    owner.memory.owner(number).store(std::to_underlying(port.owner));
    owner.memory.binding(number).store(pack(port.binding));
}

void Machine::raise_event(Domain& owner, std::uint32_t number) noexcept {
    const std::size_t word = port_word(number);
    owner.memory.pending(word).fetch_or(port_bit(number));
    if ((owner.memory.masked(word).load() & port_bit(number)) != 0) {
        return;
    }
    if (auto fd = event_fd(owner.ports[number].owner); fd) {
        const std::uint64_t one = 1;
        [[maybe_unused]] const ssize_t written = ::write(*fd, &one, sizeof one);
    }
}

Result<EventPort> Machine::alloc_unbound(HandleId id, DomainId remote) {
    auto holder = handle(id);
    if (!holder) {
        return propagate(holder);
    }
    if (auto found = domain(remote); !found) {
        return propagate(found);
    }
    if (auto fd = event_fd(id); !fd) {
        return propagate(fd);
    }
    Domain& local = *domains_.at(std::to_underlying((*holder)->domain));
    auto port = free_port(local);
    if (!port) {
        return port;
    }
    local.ports[std::to_underlying(*port)] = Port{{PortState::unbound, remote, {}}, id};
    publish(local, std::to_underlying(*port));
    return port;
}

Result<EventPort> Machine::bind_interdomain(HandleId id, DomainId remote, EventPort remote_port) {
    auto holder = handle(id);
    if (!holder) {
        return propagate(holder);
    }
    auto found = domain(remote);
    if (!found) {
        return propagate(found);
    }
    if (auto fd = event_fd(id); !fd) {
        return propagate(fd);
    }
    Domain& far = **found;
    const std::uint32_t far_number = std::to_underlying(remote_port);
    const DomainId self = (*holder)->domain;
    if (far_number >= max_ports || far.ports[far_number].binding.state == PortState::free ||
        far.ports[far_number].binding.remote != self) {
        return fail(EINVAL, fmt::format("domain {} has no event channel {} for domain {}", std::to_underlying(remote),
                                        far_number, std::to_underlying(self)));
    }
    if (far.ports[far_number].binding.state != PortState::unbound) {
        return fail(EINVAL, fmt::format("event channel {} of domain {} is already bound: another process holds it",
                                        far_number, std::to_underlying(remote)));
    }
    Domain& local = *domains_.at(std::to_underlying(self));
    auto port = free_port(local);
    if (!port) {
        return port;
    }
    const std::uint32_t number = std::to_underlying(*port);
    local.ports[number] = Port{{PortState::interdomain, remote, remote_port}, id};
    far.ports[far_number].binding = {PortState::interdomain, self, *port};
    publish(local, number);
    publish(far, far_number);
    // Events sent while nobody was bound are lost, so each side is told to look once.
    raise_event(local, number);
    raise_event(far, far_number);
    return port;
}

void Machine::unbind(HandleId id, EventPort port) noexcept {
    auto holder = handle(id);
    const std::uint32_t number = std::to_underlying(port);
    if (!holder || number >= max_ports) {
        return;
    }
    Domain& local = *domains_.at(std::to_underlying((*holder)->domain));
    if (local.ports[number].binding.state != PortState::free && local.ports[number].owner == id) {
        close_port(local, number);
    }
}

void Machine::close_port(Domain& owner, std::uint32_t number) noexcept {
    const PortBinding was = std::exchange(owner.ports[number], Port{}).binding;
    publish(owner, number);
    owner.memory.pending(port_word(number)).fetch_and(~port_bit(number));
    owner.memory.masked(port_word(number)).fetch_and(~port_bit(number));
    if (was.state != PortState::interdomain) {
        return;
    }
    Domain& far = *domains_.at(std::to_underlying(was.remote));
    const std::uint32_t far_number = std::to_underlying(was.remote_port);
    far.ports[far_number].binding = {PortState::unbound, owner.id, {}};
    publish(far, far_number);
    // A process killed between setting the pending bit and waking the owner left an event that no later
    // notification would deliver.
    if ((far.memory.pending(port_word(far_number)).load() & port_bit(far_number)) != 0) {
        raise_event(far, far_number);
    }
}

Result<std::uint32_t> Machine::allocate_frames(DomainId id, std::uint32_t count) {
    auto found = domain(id);
    if (!found) {
        return propagate(found);
    }
    Domain& owner = **found;
    const auto begin = owner.frame_used.begin();
    const auto first = std::search_n(begin, owner.frame_used.end(), static_cast<std::ptrdiff_t>(count), false);
    if (count == 0 || first == owner.frame_used.end()) {
        return fail(ENOMEM, fmt::format("domain {} has no {} contiguous pages left", std::to_underlying(id), count));
    }
    std::fill_n(first, count, true);
    const auto frame = static_cast<std::uint32_t>(first - begin);
    std::memset(owner.memory.frame(frame), 0, std::size_t{count} * page_size);
    return frame;
}

Result<std::vector<GrantRef>> Machine::allocate_refs(DomainId id, std::uint32_t count) {
    auto found = domain(id);
    if (!found) {
        return propagate(found);
    }
    Domain& owner = **found;
    if (owner.free_refs.size() < count) {
        return fail(ENOSPC, fmt::format("domain {} has no {} grant references left of {}", std::to_underlying(id),
                                        count, max_grants));
    }
    std::vector<GrantRef> refs(owner.free_refs.rbegin(), owner.free_refs.rbegin() + count);
    owner.free_refs.resize(owner.free_refs.size() - count);
    return refs;
}

Result<SharedRange> Machine::share(HandleId id, DomainId with, std::uint32_t pages, Access access) {
    auto holder = handle(id);
    if (!holder) {
        return propagate(holder);
    }
    if (pages == 0 || std::to_underlying(with) >= first_reserved_domain_id) {
        return fail(EINVAL, "sharing needs at least one page and an ordinary domain");
    }
    const DomainId self = (*holder)->domain;
    Domain& owner = *domains_.at(std::to_underlying(self));
    sweep(owner);
    if (pages > config_.gntalloc_limit || owner.pages > config_.gntalloc_limit - pages) {
        return fail(ENOSPC, fmt::format("cannot share {} more pages: domain {} shares {} and its limit is {}: use "
                                        "fewer queues or buffers, or start the machine with a larger "
                                        "--gntalloc-limit (on Xen: gntalloc's parameter limit)",
                                        pages, std::to_underlying(self), owner.pages, config_.gntalloc_limit));
    }
    auto first = allocate_frames(self, pages);
    if (!first) {
        return propagate(first);
    }
    auto refs = allocate_refs(self, pages);
    if (!refs) {
        std::fill_n(owner.frame_used.begin() + *first, pages, false);
        return propagate(refs);
    }
    const std::uint16_t flags =
        access == Access::read_only ? grant_permit_access | grant_read_only : grant_permit_access;
    for (std::uint32_t i = 0; i < pages; ++i) {
        owner.memory.grant(std::to_underlying((*refs)[i])).store(pack({flags, std::to_underlying(with), *first + i}));
    }
    owner.pages += pages;
    const auto share = static_cast<ShareId>(next_share_++);
    owner.shares.push_back(Share{share, id, *first, *refs, false});
    return SharedRange{share, *first, std::move(*refs)};
}

void Machine::unshare(HandleId id, ShareId share_id) noexcept {
    auto holder = handle(id);
    if (!holder) {
        return;
    }
    Domain& owner = *domains_.at(std::to_underlying((*holder)->domain));
    for (Share& share : owner.shares) {
        if (share.id == share_id && share.owner == id) {
            give_back(owner, share);
        }
    }
    sweep(owner);
}

void Machine::give_back(Domain& owner, Share& share) noexcept {
    for (const GrantRef ref : share.refs) {
        owner.memory.grant(std::to_underlying(ref)).store(0);
    }
    share.deferred = true;
}

void Machine::sweep(Domain& owner) noexcept {
    for (auto share = owner.shares.begin(); share != owner.shares.end();) {
        const bool used = !share->deferred || std::ranges::any_of(share->refs, [&owner](GrantRef ref) {
            return grant_use(owner.memory, std::to_underlying(ref)).reading;
        });
        if (used) {
            ++share;
            continue;
        }
        const auto pages = static_cast<std::uint32_t>(share->refs.size());
        discard_memory(owner.memory_fd.get(), DomainMemory::frames_offset + share->first_frame * page_size,
                       pages * page_size);
        std::fill_n(owner.frame_used.begin() + share->first_frame, pages, false);
        owner.free_refs.insert(owner.free_refs.end(), share->refs.rbegin(), share->refs.rend());
        owner.pages -= pages;
        share = owner.shares.erase(share);
    }
}

}  // namespace uvif::xen
