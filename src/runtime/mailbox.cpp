// SPDX-License-Identifier: MIT
#include "runtime/mailbox.hpp"

#include <fmt/format.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <cstring>
#include <semaphore>
#include <utility>

namespace uvif {

Result<std::unique_ptr<Mailbox>> Mailbox::create() {
    UniqueFd event(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    if (!event) {
        const int code = errno;
        return fail(code, fmt::format("cannot create an eventfd for a thread's mailbox ({}); raise the limit of open "
                                      "files",
                                      std::strerror(code)));
    }
    return std::unique_ptr<Mailbox>(new Mailbox(std::move(event)));
}

Mailbox::~Mailbox() {
    for (Node* node = take_all(); node != nullptr;) {
        const std::unique_ptr<Node> dropped(std::exchange(node, node->next));
    }
}

void Mailbox::post(Function function) noexcept {
    auto* node = new Node{std::move(function), top_.load(std::memory_order_relaxed)};
    // Once the node is up, a reader may run and free it: what it stood on is remembered apart.
    Node* below = node->next;
    while (!top_.compare_exchange_weak(below, node, std::memory_order_release, std::memory_order_relaxed)) {
        node->next = below;
    }
    if (below == nullptr) {
        wake();
    }
}

void Mailbox::wake() noexcept {
    // Cannot fail: the counter would need 2^64 of these without one drain.
    const eventfd_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(event_.get(), &one, sizeof one);
}

bool Mailbox::call_and_wait(Function function) {
    struct Call {
        std::binary_semaphore done{0};
        bool ran = false;
    };
    // Both threads hold it: the waiter may be gone while the other still is inside release().
    struct Finish {
        std::shared_ptr<Call> call;
        explicit Finish(std::shared_ptr<Call> shared) noexcept : call(std::move(shared)) {}
        Finish(Finish&&) noexcept = default;
        Finish& operator=(Finish&&) = delete;
        ~Finish() {
            if (call != nullptr) {
                call->done.release();
            }
        }
    };
    auto call = std::make_shared<Call>();
    post([finish = Finish(call), function = std::move(function)]() mutable {
        function();
        finish.call->ran = true;
    });
    call->done.acquire();
    return call->ran;
}

void Mailbox::drain() noexcept {
    eventfd_t posts = 0;
    [[maybe_unused]] const ssize_t emptied = ::read(event_.get(), &posts, sizeof posts);
    for (Node* node = take_all(); node != nullptr;) {
        const std::unique_ptr<Node> current(std::exchange(node, node->next));
        current->function();
    }
}

Mailbox::Node* Mailbox::take_all() noexcept {
    Node* taken = top_.exchange(nullptr, std::memory_order_acquire);
    Node* oldest = nullptr;
    while (taken != nullptr) {
        Node* const below = taken->next;
        taken->next = oldest;
        oldest = taken;
        taken = below;
    }
    return oldest;
}

}  // namespace uvif
