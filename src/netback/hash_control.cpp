// SPDX-License-Identifier: MIT
#include "netback/hash_control.hpp"

#include <algorithm>
#include <utility>

namespace uvif::netback {

using ring::CtrlRequest;
using ring::CtrlResponse;
using ring::CtrlType;
using ring::HashAlgorithm;

CtrlResponse HashControl::execute(const CtrlRequest& request, const ReadPage& read) {
    const auto [first, second, third] = request.data;
    Status status = Status::success;
    std::uint32_t data = 0;
    switch (static_cast<CtrlType>(request.type)) {
        case CtrlType::get_hash_flags:
            if (algorithm_ == HashAlgorithm::none) {
                status = Status::not_supported;  // which types there are depends on the algorithm
            } else {
                data = HashTypes::all;
            }
            break;
        case CtrlType::set_hash_flags:
            status = set_types(first);
            break;
        case CtrlType::set_hash_key:
            status = set_key(xen::GrantRef{first}, second, read);
            break;
        case CtrlType::get_hash_mapping_size:
            data = limits::hash_mapping;
            break;
        case CtrlType::set_hash_mapping_size:
            status = set_mapping_size(first);
            break;
        case CtrlType::set_hash_mapping:
            status = set_mapping(xen::GrantRef{first}, second, third, read);
            break;
        case CtrlType::set_hash_algorithm:
            status = set_algorithm(first);
            break;
        default:
            status = Status::not_supported;
            break;
    }
    return {.id = request.id, .type = request.type, .status = std::to_underlying(status), .data = data};
}

HashControl::Status HashControl::set_types(std::uint32_t types) noexcept {
    if (algorithm_ == HashAlgorithm::none || (types & ~HashTypes::all) != 0) {
        return Status::invalid_parameter;
    }
    types_ = types;
    return Status::success;
}

HashControl::Status HashControl::set_key(xen::GrantRef page, std::uint32_t size, const ReadPage& read) {
    if (size > key_.size()) {
        return Status::buffer_overflow;
    }
    std::array<std::uint8_t, Toeplitz::key_max> key{};  // what is not given is 0
    if (size != 0 && !read(page, std::as_writable_bytes(std::span(key)).first(size))) {
        return Status::invalid_parameter;
    }
    key_ = key;
    return Status::success;
}

HashControl::Status HashControl::set_mapping_size(std::uint32_t size) noexcept {
    if (size > mapping_.size()) {
        return Status::invalid_parameter;
    }
    mapping_size_ = size;
    mapping_.fill(0);
    return Status::success;
}

HashControl::Status HashControl::set_mapping(xen::GrantRef page, std::uint32_t count, std::uint32_t offset,
                                             const ReadPage& read) {
    if (count > mapping_.size()) {
        return Status::buffer_overflow;
    }
    if (offset > mapping_size_ || count > mapping_size_ - offset) {  // XSA-270: nothing here can wrap
        return Status::invalid_parameter;
    }
    std::array<std::uint32_t, limits::hash_mapping> copy;
    const std::span<std::uint32_t> entries = std::span(copy).first(count);
    if (count != 0 && !read(page, std::as_writable_bytes(entries))) {
        return Status::invalid_parameter;
    }
    if (std::ranges::any_of(entries, [this](std::uint32_t queue) { return queue >= queues_; })) {
        return Status::invalid_parameter;
    }
    std::ranges::transform(entries, mapping_.begin() + offset,
                           [](std::uint32_t queue) { return static_cast<std::uint16_t>(queue); });
    return Status::success;
}

HashControl::Status HashControl::set_algorithm(std::uint32_t algorithm) noexcept {
    if (algorithm > std::to_underlying(HashAlgorithm::toeplitz)) {
        return Status::invalid_parameter;
    }
    algorithm_ = static_cast<HashAlgorithm>(algorithm);
    return Status::success;
}

std::shared_ptr<const RxSteering> HashControl::steering() const {
    if (algorithm_ == HashAlgorithm::none || types_ == 0) {
        return nullptr;
    }
    return std::make_shared<RxSteering>(types_, key_, std::span(mapping_).first(mapping_size_), queues_);
}

}  // namespace uvif::netback
