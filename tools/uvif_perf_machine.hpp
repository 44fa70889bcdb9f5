// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "uvif/error.hpp"
#include "uvif_perf_options.hpp"
#include "uvif_perf_process.hpp"

namespace uvif::perf {

/// Which cores the two sides of --self run on.
struct Placement {
    std::vector<int> backend;
    std::vector<int> guest;
    std::string note;  ///< what of it falls short, one sentence; or empty

    /// A core for each queue and side where there are as many, else half of the cores each, and no pinning of a
    /// single one.
    static Placement choose(const std::vector<int>& cores, unsigned queues);
    /// The cores that this process may use.
    static std::vector<int> usable_cores();
};

/// An emulated host with one backend over a null port and one guest with a vif, in a directory of its own: all gone
/// when this goes.
class OwnMachine {
public:
    static Result<std::unique_ptr<OwnMachine>> start(const Options& options, const std::vector<int>& backend_cores);
    ~OwnMachine();
    OwnMachine(const OwnMachine&) = delete;
    OwnMachine& operator=(const OwnMachine&) = delete;

    [[nodiscard]] std::string guest_hypervisor() const { return "emulated:" + directory_ + "/dom" + guest_; }
    [[nodiscard]] std::string control_path() const { return directory_ + "/dom0.netback"; }
    /// A child that has ended by itself, if any.
    [[nodiscard]] const char* casualty() noexcept;

private:
    explicit OwnMachine(std::string directory) : directory_(std::move(directory)) {}
    Result<void> start_machine(const Options& options);
    Result<void> start_backend(const Options& options, const std::vector<int>& cores);
    Result<void> attach_guest();

    std::string directory_;
    std::string program_;  ///< uvif-machine
    std::string guest_;    ///< its domain id
    ChildProcess machine_;
    ChildProcess backend_;
};

}  // namespace uvif::perf
