// SPDX-License-Identifier: MIT
#include "xen/emulated/emulated_grant_allocator.hpp"

#include <cerrno>
#include <utility>

#include "xen/emulated/layout.hpp"

namespace uvif::xen {
namespace {

class EmulatedSharedPages final : public SharedPages {
public:
    EmulatedSharedPages(std::shared_ptr<Hypercalls> hypercalls, SharedRange range)
        : hypercalls_(std::move(hypercalls)), range_(std::move(range)) {}
    ~EmulatedSharedPages() override {
        map_ = MemoryMap{};
        hypercalls_->unshare(range_.id);
    }

    Result<void> map(int memory) {
        if (range_.first_frame >= max_frames || range_.refs.size() > max_frames - range_.first_frame) {
            return fail(EPROTO, "the emulated hypervisor shared frames that do not exist");
        }
        auto mapped = MemoryMap::map(memory, DomainMemory::frames_offset + range_.first_frame * page_size,
                                     range_.refs.size() * page_size, MemoryMap::Protection::read_write);
        if (!mapped) {
            return propagate(mapped);
        }
        map_ = std::move(*mapped);
        return {};
    }

    [[nodiscard]] std::span<std::byte> memory() const noexcept override { return {map_.base(), map_.length()}; }
    [[nodiscard]] std::span<const GrantRef> refs() const noexcept override { return range_.refs; }

private:
    std::shared_ptr<Hypercalls> hypercalls_;
    SharedRange range_;
    MemoryMap map_;
};

}  // namespace

Result<std::unique_ptr<GrantAllocator>> EmulatedGrantAllocator::create(std::unique_ptr<Hypercalls> hypercalls,
                                                                       std::shared_ptr<FaultPlan> faults) {
    auto allocator =
        std::unique_ptr<EmulatedGrantAllocator>(new EmulatedGrantAllocator(std::move(hypercalls), std::move(faults)));
    auto memory = allocator->hypercalls_->memory(allocator->hypercalls_->domain());
    if (!memory) {
        return propagate(memory);
    }
    allocator->memory_ = std::move(*memory);
    return allocator;
}

Result<std::unique_ptr<SharedPages>> EmulatedGrantAllocator::share(DomainId with, std::uint32_t pages, Access access) {
    if (const int fault = faults_->check(Operation::share); fault != 0) {
        return fail(fault, "sharing pages failed as the fault plan wants it");
    }
    auto range = hypercalls_->share(with, pages, access);
    if (!range) {
        return propagate(range);
    }
    auto shared = std::make_unique<EmulatedSharedPages>(hypercalls_, std::move(*range));
    if (auto mapped = shared->map(memory_.get()); !mapped) {
        return propagate(mapped);
    }
    return shared;
}

}  // namespace uvif::xen
