// SPDX-License-Identifier: MIT
#include "xen/emulated/store_connection.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <iterator>
#include <optional>
#include <string>
#include <utility>

#include "xen/store_path.hpp"

extern "C" {
#include <xen/io/xs_wire.h>
}

namespace uvif::xen {

namespace {

constexpr std::string_view acknowledgement("OK", 3);

StoreAnswer<std::string> acknowledge(const StoreAnswer<>& done) {
    return done ? StoreAnswer<std::string>(acknowledgement) : refuse(done.error());
}

/// Cuts a string off the front of the payload; nullopt when no NUL ends it.
std::optional<std::string_view> take_string(std::string_view& payload) {
    const std::size_t end = payload.find('\0');
    if (end == std::string_view::npos) {
        return std::nullopt;
    }
    const std::string_view text = payload.substr(0, end);
    payload.remove_prefix(end + 1);
    return text;
}

std::optional<DomainId> parse_domain(std::string_view text) {
    const auto number = parse_decimal(text, 0xffff);
    return number ? std::optional<DomainId>(DomainId{static_cast<std::uint16_t>(*number)}) : std::nullopt;
}

/// Strings of a letter and a domain's number each.
std::optional<Permissions> parse_permissions(std::string_view strings) {
    Permissions permissions;
    while (!strings.empty()) {
        const auto text = take_string(strings);
        if (!text || text->empty() || std::string_view("nrwb").find(text->front()) == std::string_view::npos) {
            return std::nullopt;
        }
        const auto domain = parse_domain(text->substr(1));
        if (!domain) {
            return std::nullopt;
        }
        permissions.push_back({*domain, text->front()});
    }
    return permissions.empty() ? std::nullopt : std::optional<Permissions>(std::move(permissions));
}

std::string format_permissions(const Permissions& permissions) {
    std::string text;
    for (const Permission& entry : permissions) {
        fmt::format_to(std::back_inserter(text), "{}{}", entry.letter, std::to_underlying(entry.domain));
        text += '\0';
    }
    return text;
}

std::string join_names(const std::vector<std::string>& names) {
    std::string joined;
    for (const std::string& name : names) {
        joined += name;
        joined += '\0';
    }
    return joined;
}

/// The name that stands for an errno value on the wire.
std::string_view error_name(int error) {
    for (const auto& known : xsd_errors) {
        if (known.errnum == error) {
            return known.errstring;
        }
    }
    return "EINVAL";
}

}  // namespace

bool StoreConnection::feed(std::span<const std::byte> bytes) {
    if (!failed_) {
        input_.insert(input_.end(), bytes.begin(), bytes.end());
        serve();
    }
    return !failed_;
}

bool StoreConnection::sent(std::size_t count) {
    output_head_ += count;
    // Moving the rest to the front is only worth it once the rest is the smaller part.
    if (output_head_ * 2 >= output_.size()) {
        output_.erase(output_.begin(), output_.begin() + static_cast<std::ptrdiff_t>(output_head_));
        output_head_ = 0;
    }
    serve();
    return !failed_;
}

std::span<const std::byte> StoreConnection::output() {
    while (backlog() < backlog_max) {
        const auto event = session_.next_event();
        if (!event) {
            break;
        }
        std::string payload = event->path;
        payload += '\0';
        payload += event->token;
        payload += '\0';
        message(XS_WATCH_EVENT, 0, Transaction::none, payload);
    }
    return std::span(output_).subspan(output_head_);
}

/// Answers whole requests while the client takes its replies.
void StoreConnection::serve() {
    std::size_t done = 0;
    while (!failed_ && backlog() < backlog_max && input_.size() - done >= sizeof(xsd_sockmsg)) {
        xsd_sockmsg header;
        std::memcpy(&header, input_.data() + done, sizeof(header));
        if (header.len > XENSTORE_PAYLOAD_MAX) {
            failed_ = true;
            break;
        }
        if (input_.size() - done < sizeof(header) + header.len) {
            break;
        }
        const auto* payload = reinterpret_cast<const char*>(input_.data() + done + sizeof(header));
        answer({header.type, header.req_id, Transaction{header.tx_id}, {payload, header.len}});
        done += sizeof(header) + header.len;
    }
    input_.erase(input_.begin(), input_.begin() + static_cast<std::ptrdiff_t>(done));
}

void StoreConnection::answer(const Request& request) {
    StoreAnswer<std::string> reply = execute(request);
    if (reply && reply->size() > XENSTORE_PAYLOAD_MAX) {
        reply = refuse(E2BIG);
    }
    if (reply) {
        message(request.type, request.id, request.transaction, *reply);
    } else {
        std::string name(error_name(reply.error()));
        name += '\0';
        message(XS_ERROR, request.id, request.transaction, name);
    }
}

StoreAnswer<std::string> StoreConnection::execute(const Request& request) {
    std::string_view rest = request.payload;
    switch (request.type) {
        case XS_TRANSACTION_START: {
            if (request.transaction != Transaction::none) {
                return refuse(EBUSY);
            }
            const auto begun = session_.begin();
            return begun ? StoreAnswer<std::string>(fmt::format("{}", std::to_underlying(*begun)) + '\0')
                         : refuse(begun.error());
        }
        case XS_TRANSACTION_END: {
            const auto verdict = take_string(rest);
            if (!verdict || !rest.empty() || (*verdict != "T" && *verdict != "F")) {
                return refuse(EINVAL);
            }
            return acknowledge(session_.end(request.transaction, *verdict == "T"));
        }
        case XS_RESET_WATCHES:
            session_.reset();
            return std::string(acknowledgement);
        case XS_CONTROL:
            if (!session_.privileged()) {
                return refuse(EACCES);
            }
            return take_string(rest) == "help" ? StoreAnswer<std::string>(std::string("commands: help\n") + '\0')
                                               : refuse(EINVAL);
        case XS_GET_DOMAIN_PATH:
        case XS_IS_DOMAIN_INTRODUCED:
            return about_domain(request);
        case XS_DIRECTORY:
        case XS_DIRECTORY_PART:
        case XS_READ:
        case XS_WRITE:
        case XS_MKDIR:
        case XS_RM:
        case XS_GET_PERMS:
        case XS_SET_PERMS:
        case XS_WATCH:
        case XS_UNWATCH: {
            const auto path = take_string(rest);
            return path ? execute_on_node(request, *path, rest) : refuse(EINVAL);
        }
        default:
            // Domains of an emulated machine come and go through the machine, not through the store.
            return refuse(ENOSYS);
    }
}

StoreAnswer<std::string> StoreConnection::execute_on_node(const Request& request, std::string_view path,
                                                          std::string_view rest) {
    const Transaction t = request.transaction;
    if (request.type == XS_WRITE) {
        return acknowledge(session_.write(path, rest, t));
    }
    if (request.type == XS_SET_PERMS) {
        const auto permissions = parse_permissions(rest);
        return permissions ? acknowledge(session_.set_permissions(path, *permissions, t)) : refuse(EINVAL);
    }
    const bool takes_second =
        request.type == XS_WATCH || request.type == XS_UNWATCH || request.type == XS_DIRECTORY_PART;
    const auto second = takes_second ? take_string(rest) : std::optional<std::string_view>("");
    if (!second || !rest.empty()) {
        return refuse(EINVAL);
    }
    switch (request.type) {
        case XS_WATCH:
            return acknowledge(session_.watch(path, *second));
        case XS_UNWATCH:
            return acknowledge(session_.unwatch(path, *second));
        case XS_MKDIR:
            return acknowledge(session_.make_directory(path, t));
        case XS_RM:
            return acknowledge(session_.remove(path, t));
        case XS_READ:
            return session_.read(path, t);
        case XS_GET_PERMS: {
            const auto permissions = session_.permissions(path, t);
            return permissions ? StoreAnswer<std::string>(format_permissions(*permissions))
                               : refuse(permissions.error());
        }
        case XS_DIRECTORY_PART:
            return list_part(request, path, *second);
        default: {
            const auto listing = session_.list(path, t);
            return listing ? StoreAnswer<std::string>(join_names(listing->names)) : refuse(listing.error());
        }
    }
}

/// Whole names from an offset into the joined list, after the node's generation by which the client sees that the list
/// changed between two parts; an empty name ends the last part.
StoreAnswer<std::string> StoreConnection::list_part(const Request& request, std::string_view path,
                                                    std::string_view offset) {
    const auto from = parse_decimal(offset);
    const auto listing = session_.list(path, request.transaction);
    if (!from || !listing) {
        return refuse(!from ? EINVAL : listing.error());
    }
    const std::string joined = join_names(listing->names);
    if (*from > joined.size()) {
        return refuse(EINVAL);
    }
    std::string part = fmt::format("{}", listing->generation) + '\0';
    std::string_view left = std::string_view(joined).substr(*from);
    while (!left.empty()) {
        const std::size_t length = left.find('\0') + 1;
        if (part.size() + length >= XENSTORE_PAYLOAD_MAX) {
            return part;
        }
        part += left.substr(0, length);
        left.remove_prefix(length);
    }
    return part + '\0';
}

StoreAnswer<std::string> StoreConnection::about_domain(const Request& request) {
    std::string_view rest = request.payload;
    const auto text = take_string(rest);
    const auto domain = text && rest.empty() ? parse_domain(*text) : std::nullopt;
    if (!domain) {
        return refuse(EINVAL);
    }
    if (request.type == XS_GET_DOMAIN_PATH) {
        return fmt::format("/local/domain/{}", std::to_underlying(*domain)) + '\0';
    }
    return std::string(session_.core().introduced(*domain) ? "T" : "F") + '\0';
}

void StoreConnection::message(std::uint32_t type, std::uint32_t id, Transaction transaction, std::string_view payload) {
    const xsd_sockmsg header{type, id, std::to_underlying(transaction), static_cast<std::uint32_t>(payload.size())};
    const auto head = std::as_bytes(std::span(&header, 1));
    const auto body = std::as_bytes(std::span(payload));
    output_.insert(output_.end(), head.begin(), head.end());
    output_.insert(output_.end(), body.begin(), body.end());
}

}  // namespace uvif::xen
