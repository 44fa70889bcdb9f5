// SPDX-License-Identifier: MIT
#include "grant/grant_costs.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

#include "grant/copy_buffers.hpp"
#include "runtime/clock.hpp"
#include "runtime/describe_error.hpp"
#include "runtime/limits.hpp"

namespace uvif {
namespace {

/// Where everything is slow (Xen under emulation: a millisecond for 64 pages) a few repetitions suffice.
constexpr std::size_t repetitions = 15;
constexpr std::int64_t patience_ns = 8 * ns_per_ms;

class Measurement {
public:
    Measurement(xen::GrantTable& table, const xen::SharedPages& pages, CopyBuffers& buffers, xen::DomainId self)
        : table_(table), refs_(pages.refs()), self_(self) {
        std::ranges::generate(local_, [&] { return buffers.pool.take(); });
    }

    /// Median of the times of a call that returns an errno value.
    template <class Call>
    Result<std::int64_t> time(const char* what, Call call) {
        std::array<std::int64_t, repetitions> times{};
        std::size_t count = 0;
        const std::int64_t begin = monotonic_ns();
        for (std::int64_t from = begin; count < repetitions && (count < 3 || from - begin < patience_ns);) {
            if (const int error = call(); error != 0) {
                return fail(error, fmt::format("{} pages of this domain's own fails: {}", what, describe_error(error)));
            }
            const std::int64_t to = monotonic_ns();
            times[count++] = to - std::exchange(from, to);
        }
        const auto middle = times.begin() + static_cast<std::ptrdiff_t>(count / 2);
        std::nth_element(times.begin(), middle, times.begin() + static_cast<std::ptrdiff_t>(count));
        return *middle;
    }

    int copy(std::uint32_t count, std::uint16_t octets) {
        for (std::uint32_t i = 0; i < count; ++i) {
            segments_[i] = xen::CopySegment::from_guest(self_, refs_[i], 0, local_[i], octets);
        }
        const auto batch = std::span(segments_).first(count);
        if (const int error = table_.copy(batch); error != 0) {
            return error;
        }
        return std::ranges::all_of(batch, [](const auto& segment) { return segment.status == 0; }) ? 0 : EIO;
    }

    int map(std::uint32_t count) {
        xen::MappingId id;
        if (const int error = table_.map(self_, refs_.first(count), xen::Access::read_only, pages_, id); error != 0) {
            return error;
        }
        for (const std::byte* page : std::span(pages_).first(count)) {
            touched_ = *static_cast<const volatile std::byte*>(page);
        }
        return table_.unmap(std::array{id});
    }

private:
    xen::GrantTable& table_;
    std::span<const xen::GrantRef> refs_;
    xen::DomainId self_;
    std::array<std::byte*, GrantCosts::many> local_{};
    std::array<xen::CopySegment, GrantCosts::many> segments_{};
    std::array<std::byte*, GrantCosts::many> pages_{};
    std::byte touched_{};
};

/// The shortest frame that pays when as many of its kind as fit share a region; 0: none does.
std::uint32_t shortest_frame(const MapTerms& terms) noexcept {
    constexpr std::int64_t page_size = xen::page_size;
    constexpr std::int64_t header = limits::header_octets;
    for (std::int64_t pages = 1; (pages - 1) * page_size < limits::packet_length; ++pages) {
        const std::int64_t share = terms.call / (GrantCosts::many / pages) + 1;
        const auto slots = static_cast<std::uint32_t>(pages);
        const std::int64_t lacking = share - terms.gain(0, slots, slots);  // which its octets have to save
        if (lacking > 0 && terms.octet == 0) {
            continue;
        }
        const std::int64_t octets = lacking <= 0 ? 1 : (lacking + terms.octet - 1) / terms.octet;
        const std::int64_t frame = std::max(header + octets, (pages - 1) * page_size + 1);
        if (frame <= std::min<std::int64_t>(pages * page_size, limits::packet_length)) {
            return static_cast<std::uint32_t>(frame);
        }
    }
    return 0;
}

}  // namespace

Result<GrantCosts> GrantCosts::measure(xen::GrantTable& table, xen::GrantAllocator& allocator, xen::DomainId self) {
    auto pages = allocator.share(self, many, xen::Access::read_only);
    if (!pages) {
        return propagate(pages);
    }
    auto buffers = CopyBuffers::create(table, many, many, xen::page_size);  // as queues have them
    if (!buffers) {
        return propagate(buffers);
    }
    Measurement measurement(table, **pages, *buffers, self);
    constexpr auto whole = static_cast<std::uint16_t>(xen::page_size);
    constexpr std::uint16_t none = 0;  // mapped, not copied
    struct Step {
        std::int64_t GrantCosts::* result;
        std::uint32_t pages;
        std::uint16_t octets;  ///< copied of each
    };
    GrantCosts costs;
    for (const Step& step : {Step{&GrantCosts::copy_many, many, whole}, Step{&GrantCosts::copy_one, 1, whole},
                             Step{&GrantCosts::copy_short, many, std::uint16_t{short_octets}},
                             Step{&GrantCosts::map_many, many, none}, Step{&GrantCosts::map_one, 1, none}}) {
        const bool maps = step.octets == none;
        auto time = measurement.time(maps ? "mapping" : "copying", [&] {
            return maps ? measurement.map(step.pages) : measurement.copy(step.pages, step.octets);
        });
        if (!time) {
            return propagate(time);
        }
        costs.*step.result = *time;
    }
    return costs;
}

MapTerms MapTerms::of(const GrantCosts& costs) noexcept {
    constexpr std::int64_t ps = 1000;
    constexpr std::int64_t many = GrantCosts::many;
    const auto positive = [](std::int64_t value) { return std::max<std::int64_t>(0, value); };
    const auto dearer = [](std::int64_t value) { return value + value / 4; };
    MapTerms terms;
    terms.octet = positive(costs.copy_many - costs.copy_short) * ps /
                  (many * (static_cast<std::int64_t>(xen::page_size) - GrantCosts::short_octets));
    const std::int64_t copied_page = positive(costs.copy_many - costs.copy_one) * ps / (many - 1);
    terms.segment = positive(copied_page - terms.octet * static_cast<std::int64_t>(xen::page_size));
    const std::int64_t page = positive(costs.map_many - costs.map_one) * ps / (many - 1);
    terms.page = dearer(page);
    terms.call = dearer(positive(costs.map_one * ps - page));
    terms.frame_octets = shortest_frame(terms);
    // In the middle of a long packet a page is a segment.
    const std::int64_t saved = terms.gain(xen::page_size, 2, 1);
    terms.call_pages =
        saved <= 0 ? 0 : static_cast<std::uint32_t>(std::min<std::int64_t>(terms.call / saved + 1, many + 1));
    if (terms.frame_octets == 0 || terms.call_pages == 0 || terms.call_pages > many) {
        terms.frame_octets = terms.call_pages = 0;
    }
    return terms;
}

std::string MapTerms::describe(const GrantCosts& costs) const {
    const auto us = [](std::int64_t ns) { return static_cast<double>(ns) / ns_per_us; };
    const std::string measured =
        fmt::format("copying 64 pages takes {:.1f} us, mapping them and back {:.1f} us; one page {:.1f} and {:.1f} us",
                    us(costs.copy_many), us(costs.map_many), us(costs.copy_one), us(costs.map_one));
    return frame_octets == 0 ? fmt::format("copies everything, since here {}", measured)
                             : fmt::format(
                                   "maps frames of {} octets and more where {} page{} or more come together, since "
                                   "here {}",
                                   frame_octets, call_pages, call_pages == 1 ? "" : "s", measured);
}

}  // namespace uvif
