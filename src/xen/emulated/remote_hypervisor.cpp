// SPDX-License-Identifier: MIT
#include "xen/emulated/remote_hypervisor.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "xen/emulated/emulated_event_channels.hpp"
#include "xen/emulated/emulated_grant_allocator.hpp"
#include "xen/emulated/emulated_grant_table.hpp"
#include "xen/emulated/fault_store.hpp"
#include "xen/emulated/seqpacket.hpp"
#include "xen/emulated/wire.hpp"
#include "xen/xenstore_client.hpp"

namespace uvif::xen {
namespace {

struct Answer {
    wire::Reply reply;
    std::vector<std::byte> payload;
    UniqueFd fd;
};

class RemoteHypercalls final : public Hypercalls {
public:
    /// Connects, and learns who it is.
    static Result<std::unique_ptr<RemoteHypercalls>> connect(const std::string& socket_path) {
        auto socket = connect_to(socket_path);
        if (!socket) {
            return propagate(socket);
        }
        auto calls = std::unique_ptr<RemoteHypercalls>(new RemoteHypercalls(std::move(*socket)));
        auto hello = calls->call({wire::Call::hello, wire::version, 0, 0});
        if (!hello) {
            return propagate(hello);
        }
        calls->domain_ = static_cast<DomainId>(hello->reply.a);
        calls->charged_ = hello->reply.b != 0;
        calls->store_path_.assign(reinterpret_cast<const char*>(hello->payload.data()), hello->payload.size());
        return calls;
    }

    [[nodiscard]] const std::string& store_path() const noexcept { return store_path_; }
    [[nodiscard]] DomainId domain() const noexcept override { return domain_; }
    [[nodiscard]] bool charged() const noexcept override { return charged_; }

    Result<Attachment> attach(DomainId domain) override {
        auto answer = call_for_fd({wire::Call::attach, std::to_underlying(domain), 0, 0});
        if (!answer) {
            return propagate(answer);
        }
        return Attachment{std::move(answer->fd), answer->reply.a};
    }

    Result<UniqueFd> memory(DomainId domain) override {
        auto answer = call_for_fd({wire::Call::memory, std::to_underlying(domain), 0, 0});
        if (!answer) {
            return propagate(answer);
        }
        return std::move(answer->fd);
    }

    Result<UniqueFd> event_fd() override {
        auto answer = call_for_fd({wire::Call::event_fd, 0, 0, 0});
        if (!answer) {
            return propagate(answer);
        }
        return std::move(answer->fd);
    }

    Result<EventTarget> event_target(EventPort port) override {
        auto answer = call_for_fd({wire::Call::event_target, std::to_underlying(port), 0, 0});
        if (!answer) {
            return propagate(answer);
        }
        return EventTarget{std::move(answer->fd), answer->reply.a};
    }

    Result<EventPort> bind_interdomain(DomainId remote, EventPort remote_port) override {
        return call_for_port(
            {wire::Call::bind_interdomain, std::to_underlying(remote), std::to_underlying(remote_port), 0});
    }

    Result<EventPort> alloc_unbound(DomainId remote) override {
        return call_for_port({wire::Call::alloc_unbound, std::to_underlying(remote), 0, 0});
    }

    void unbind(EventPort port) noexcept override {
        call_quietly({wire::Call::unbind, std::to_underlying(port), 0, 0});
    }

    Result<SharedRange> share(DomainId with, std::uint32_t pages, Access access) override {
        if (pages > wire::max_share_pages) {
            return fail(ENOSPC, fmt::format("cannot share {} pages in one call: the limit is {}", pages,
                                            wire::max_share_pages));
        }
        auto answer =
            call({wire::Call::share, std::to_underlying(with), pages, access == Access::read_write ? 1U : 0U});
        if (!answer) {
            return propagate(answer);
        }
        SharedRange range{static_cast<ShareId>(answer->reply.a), answer->reply.b, {}};
        range.refs.resize(answer->payload.size() / sizeof(GrantRef));
        std::memcpy(range.refs.data(), answer->payload.data(), range.refs.size() * sizeof(GrantRef));
        if (range.refs.size() != pages) {
            return fail(EPROTO, "the emulated machine shared another number of pages than asked for");
        }
        return range;
    }

    void unshare(ShareId id) noexcept override { call_quietly({wire::Call::unshare, std::to_underlying(id), 0, 0}); }

private:
    explicit RemoteHypercalls(UniqueFd socket) : socket_(std::move(socket)), buffer_(wire::max_reply) {}

    Result<Answer> call(const wire::Request& request) {
        if (auto sent = send_message(socket_.get(), std::as_bytes(std::span(&request, 1))); !sent) {
            return propagate(sent);
        }
        auto received = receive_message(socket_.get(), buffer_);
        if (!received) {
            return propagate(received);
        }
        if (received->length < sizeof(wire::Reply)) {
            return connection_closed(EPIPE);
        }
        Answer answer;
        std::memcpy(&answer.reply, buffer_.data(), sizeof(wire::Reply));
        const std::span payload =
            std::span(buffer_).subspan(sizeof(wire::Reply), received->length - sizeof(wire::Reply));
        if (answer.reply.error != 0) {
            return fail(answer.reply.error, std::string(reinterpret_cast<const char*>(payload.data()), payload.size()));
        }
        answer.payload.assign(payload.begin(), payload.end());
        answer.fd = std::move(received->fd);
        return answer;
    }

    Result<Answer> call_for_fd(const wire::Request& request) {
        auto answer = call(request);
        if (answer && !answer->fd) {
            return fail(EMFILE, "the emulated machine's descriptor did not arrive: raise the open file limit");
        }
        return answer;
    }

    Result<EventPort> call_for_port(const wire::Request& request) {
        auto answer = call(request);
        if (!answer) {
            return propagate(answer);
        }
        return static_cast<EventPort>(answer->reply.a);
    }

    void call_quietly(const wire::Request& request) noexcept {
        try {
            // A machine that has gone has released it already.
            [[maybe_unused]] const auto answer = call(request);
        } catch (const std::bad_alloc&) {
            // The request was sent before anything could run out, and nobody needs the answer.
            return;
        }
    }

    UniqueFd socket_;
    std::vector<std::byte> buffer_;
    DomainId domain_{};
    bool charged_ = false;
    std::string store_path_;
};

class RemoteHypervisor final : public Hypervisor {
public:
    RemoteHypervisor(std::string socket_path, std::string store_path, std::shared_ptr<FaultPlan> faults)
        : socket_path_(std::move(socket_path)), store_path_(std::move(store_path)), faults_(std::move(faults)) {}

    [[nodiscard]] std::string description() const override { return "emulated:" + socket_path_; }
    [[nodiscard]] bool pinning_is_safe() const override { return true; }

    Result<std::unique_ptr<GrantTable>> open_grant_table() override { return open<EmulatedGrantTable, GrantTable>(); }
    Result<std::unique_ptr<GrantAllocator>> open_grant_allocator() override {
        return open<EmulatedGrantAllocator, GrantAllocator>();
    }
    Result<std::unique_ptr<EventChannels>> open_event_channels() override {
        return open<EmulatedEventChannels, EventChannels>();
    }
    Result<std::unique_ptr<Store>> open_store() override {
        if (const int fault = faults_->check(Operation::open); fault != 0) {
            return fail(fault, "opening a handle failed as the fault plan wants it");
        }
        auto store = open_libxenstore(store_path_);
        if (!store) {
            return store;
        }
        return with_faults(std::move(*store), faults_);
    }

private:
    template <class Kind, class Interface>
    Result<std::unique_ptr<Interface>> open() {
        if (const int fault = faults_->check(Operation::open); fault != 0) {
            return fail(fault, "opening a handle failed as the fault plan wants it");
        }
        auto calls = RemoteHypercalls::connect(socket_path_);
        if (!calls) {
            return propagate(calls);
        }
        return Kind::create(std::move(*calls), faults_);
    }

    std::string socket_path_;
    std::string store_path_;
    std::shared_ptr<FaultPlan> faults_;
};

}  // namespace

Result<std::unique_ptr<Hypervisor>> open_emulated_hypervisor(const std::string& socket_path) {
    auto faults = FaultPlan::from_environment();
    if (!faults) {
        return propagate(faults);
    }
    auto probe = RemoteHypercalls::connect(socket_path);
    if (!probe) {
        return propagate(probe);
    }
    return std::make_unique<RemoteHypervisor>(socket_path, (*probe)->store_path(), std::move(*faults));
}

}  // namespace uvif::xen
