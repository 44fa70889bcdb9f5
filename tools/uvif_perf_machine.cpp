// SPDX-License-Identifier: MIT
#include "uvif_perf_machine.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "control_client.hpp"
#include "runtime/clock.hpp"
#include "runtime/describe_error.hpp"

namespace uvif::perf {
namespace {

constexpr int start_patience_ms = 20'000;
constexpr int poll_interval_ms = 10;

std::string port_of(const Options& options) {
    switch (options.mode) {
        case Mode::tx:
            return "null:sink";
        case Mode::rx:
            return fmt::format("null:generate,{}", options.size);
        case Mode::echo:
            break;
    }
    return "null:reflect";
}

}  // namespace

std::vector<int> Placement::usable_cores() {
    cpu_set_t set;
    CPU_ZERO(&set);
    std::vector<int> cores;
    if (::sched_getaffinity(0, sizeof set, &set) == 0) {
        for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
            if (CPU_ISSET(static_cast<unsigned>(cpu), &set)) {
                cores.push_back(cpu);
            }
        }
    }
    return cores;
}

Placement Placement::choose(const std::vector<int>& cores, unsigned queues) {
    Placement placement;
    if (cores.size() < 2) {
        placement.note = "guest and backend share the only core: they take turns, and neither spins";
        return placement;
    }
    const std::size_t side = std::min<std::size_t>(queues, cores.size() / 2);
    if (side < queues) {
        placement.note = fmt::format("{} queues share {} core{} a side", queues, side, side == 1 ? "" : "s");
    }
    const auto middle = cores.begin() + static_cast<std::ptrdiff_t>(side);
    placement.backend.assign(cores.begin(), middle);
    placement.guest.assign(middle, middle + static_cast<std::ptrdiff_t>(side));
    return placement;
}

Result<std::unique_ptr<OwnMachine>> OwnMachine::start(const Options& options, const std::vector<int>& backend_cores) {
    std::error_code error;
    std::string directory = std::filesystem::temp_directory_path(error) / "uvif-perf-XXXXXX";
    if (error || ::mkdtemp(directory.data()) == nullptr) {
        return fail(errno, fmt::format("cannot make a directory for the machine under $TMPDIR or /tmp: {}",
                                       std::strerror(errno)));
    }
    std::unique_ptr<OwnMachine> machine(new OwnMachine(directory));
    if (auto started = machine->start_machine(options); !started) {
        return propagate(started);
    }
    if (auto started = machine->start_backend(options, backend_cores); !started) {
        return propagate(started);
    }
    if (auto attached = machine->attach_guest(); !attached) {
        return propagate(attached);
    }
    return machine;
}

OwnMachine::~OwnMachine() {
    backend_.stop();
    machine_.stop();
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
}

Result<void> OwnMachine::start_machine(const Options& options) {
    auto program = find_program("uvif-machine");
    if (!program) {
        return propagate(program);
    }
    program_ = *program;
    std::array<int, 2> ends{-1, -1};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
        return fail(errno, fmt::format("cannot make a pipe: {}", describe_error(errno)));
    }
    const UniqueFd ready(ends[0]);
    UniqueFd ready_input(ends[1]);
    std::vector<std::string> command{program_, "start", directory_, "--ready-fd", std::to_string(ready_input.get())};
    if (options.charged) {
        command.emplace_back("--charged");
    }
    // Each queue shares its rings and buffers: more than gntalloc's usual 1024 pages when there are many.
    command.insert(command.end(), {"--gntalloc-limit", std::to_string(1024 * options.queues)});
    auto child = ChildProcess::start(command, {}, ready_input.get());
    if (!child) {
        return propagate(child);
    }
    machine_ = std::move(*child);
    ready_input.reset();
    pollfd wait{ready.get(), POLLIN, 0};
    char byte = 0;
    if (::poll(&wait, 1, start_patience_ms) <= 0 || ::read(ready.get(), &byte, 1) != 1) {
        return fail(ECHILD, "uvif-machine did not start");
    }
    return {};
}

Result<void> OwnMachine::start_backend(const Options& options, const std::vector<int>& cores) {
    auto program = find_program("uvif-netback");
    if (!program) {
        return propagate(program);
    }
    const std::string queues = std::to_string(options.queues);
    std::vector<std::string> command{*program, "--hypervisor", "emulated:" + directory_ + "/dom0"};
    command.insert(command.end(), {"--port", port_of(options), "--loop", options.loop, "--log-level", "warning"});
    command.insert(command.end(), {"--strategy", own_strategy(options), "--unmap", options.unmap});
    command.insert(command.end(), {"--receive", options.receive, "--workers", queues, "--max-queues", queues});
    command.insert(command.end(), {"--spin-us", std::to_string(options.spin_us)});
    auto child = ChildProcess::start(command, cores);
    if (!child) {
        return propagate(child);
    }
    backend_ = std::move(*child);
    const std::int64_t deadline = monotonic_ns() + start_patience_ms * ns_per_ms;
    while (!backend_.ended() && monotonic_ns() < deadline) {
        if (tools::ControlClient::connect(control_path())) {
            return {};
        }
        ::poll(nullptr, 0, poll_interval_ms);
    }
    return fail(ECHILD, "uvif-netback did not start");
}

Result<void> OwnMachine::attach_guest() {
    auto created = run_program({program_, "create", directory_, "--name", "guest"});
    if (!created) {
        return propagate(created);
    }
    guest_ = created->substr(0, created->find('\n'));
    auto attached = run_program({program_, "attach", directory_, guest_});
    if (!attached) {
        return propagate(attached);
    }
    return {};
}

const char* OwnMachine::casualty() noexcept {
    return machine_.ended() ? "uvif-machine" : backend_.ended() ? "uvif-netback" : nullptr;
}

}  // namespace uvif::perf
