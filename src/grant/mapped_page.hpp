// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <utility>

#include <fmt/format.h>

#include "runtime/describe_error.hpp"
#include "uvif/error.hpp"
#include "xen/grant_table.hpp"

namespace uvif {

/// One page of another domain, mapped writable for as long as this lives: a shared ring.
class MappedPage {
public:
    static Result<MappedPage> map(xen::GrantTable& grants, xen::DomainId domain, xen::GrantRef ref) {
        MappedPage page(grants);
        std::array<std::byte*, 1> address{};
        const int error = grants.map(domain, std::array{ref}, xen::Access::read_write, address, page.id_);
        if (error != 0) {
            page.id_ = {};
            return fail(error, fmt::format("cannot map grant {} of domain {}: {}", std::to_underlying(ref),
                                           std::to_underlying(domain), describe_error(error)));
        }
        page.address_ = address[0];
        return page;
    }
    MappedPage(MappedPage&& other) noexcept
        : grants_(other.grants_), id_(std::exchange(other.id_, {})), address_(std::exchange(other.address_, nullptr)) {}
    MappedPage& operator=(MappedPage&&) = delete;
    ~MappedPage() {
        if (id_.token != 0) {
            grants_.unmap(std::array{id_});
        }
    }

    [[nodiscard]] std::byte* address() const noexcept { return address_; }

private:
    explicit MappedPage(xen::GrantTable& grants) noexcept : grants_(grants) {}

    xen::GrantTable& grants_;
    xen::MappingId id_;
    std::byte* address_ = nullptr;
};

}  // namespace uvif
