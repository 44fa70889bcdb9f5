// SPDX-License-Identifier: MIT
//
// Theory of operation
//
// A whole machine for one test: uvif-machine and uvif-netback as programs, in a directory of their own, driven as an
// administrator would by the same programs, and watched through dom0's store. Nothing is waited for by time, only by
// conditions. When a test is over, everything a guest can make a backend hold has to be back: at_rest() says so.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "support/process.hpp"
#include "xen/store.hpp"

namespace uvif::test {

/// Store keys of one folder.
using Keys = std::map<std::string, std::string>;

/// A program of the build, by its name.
[[nodiscard]] std::string program(const std::string& name);

// Sanitizers keep what is freed, and shadows of what was touched: their memory says nothing of ours.
#ifdef UVIF_SANITIZED
inline constexpr bool memory_is_ours = false;
#else
inline constexpr bool memory_is_ours = true;
#endif

struct HostOptions {
    std::string port = "null:reflect";
    std::vector<std::string> arguments = {};  ///< of the daemon, besides
    std::vector<std::string> machine = {};    ///< of uvif-machine
    unsigned max_queues = 2;
    int network = -1;  ///< namespace of the daemon and of the toolstack's scripts
    std::string log_level = "debug";
    bool daemon = true;  ///< start one at once
};

class Host {
public:
    explicit Host(HostOptions options = {});
    Host(const Host&) = delete;
    Host& operator=(const Host&) = delete;
    ~Host();

    /// `words` after the program and the directory, as in machine("attach", {"1", "mac=.."}).
    Outcome machine(const std::string& command, const std::vector<std::string>& words = {}) const;
    /// The same without waiting for its end.
    [[nodiscard]] Process machine_in_background(const std::string& command,
                                                const std::vector<std::string>& words = {}) const;
    /// A new domain's id.
    unsigned create() const;
    /// A new vif's handle, once the backend is in InitWait.
    unsigned attach(unsigned domain, const std::string& vif = "") const;
    void destroy(unsigned domain) const;

    void start_daemon();
    [[nodiscard]] Process& daemon() { return *daemon_; }
    [[nodiscard]] Process& hypervisor_process() { return *machine_; }
    /// What all daemons of this host have logged.
    [[nodiscard]] std::string log() const { return read_file(directory_.path() + "/netback.log"); }
    [[nodiscard]] std::vector<std::string> daemon_words(const std::vector<std::string>& more = {}) const;

    /// What `uvif-ctl -J` says; null when the daemon refuses.
    [[nodiscard]] nlohmann::json ask(const std::vector<std::string>& words) const;
    [[nodiscard]] std::uint64_t counter(unsigned domain, unsigned handle, const std::string& name) const;

    [[nodiscard]] const std::string& directory() const noexcept { return directory_.path(); }
    [[nodiscard]] std::string machine_directory() const { return directory_.path() + "/machine"; }
    [[nodiscard]] std::string hypervisor(unsigned domain) const;
    [[nodiscard]] std::string store_socket(unsigned domain) const;

    [[nodiscard]] xen::Store& store() { return *store_; }
    [[nodiscard]] std::unique_ptr<xen::Store> store_of(unsigned domain) const;
    [[nodiscard]] std::optional<std::string> read(const std::string& path);
    void write(const std::string& path, const std::string& value);
    void remove(const std::string& path);
    [[nodiscard]] bool exists(const std::string& path) { return read(path).has_value(); }
    [[nodiscard]] bool reaches(const std::string& folder, const std::string& state);

    /// What the toolstack writes into the backend's folder of a new vif.
    static Keys vif_keys(unsigned domain);
    /// Makes a vif as a toolstack with ideas of its own would: `keys` at once, and a frontend that initialises.
    void write_vif(unsigned domain, const Keys& keys);

    static std::string frontend(unsigned domain, unsigned handle = 0);
    static std::string backend(unsigned domain, unsigned handle = 0);
    static std::string error_key(unsigned domain, unsigned handle = 0);

    /// What descriptors the daemon has. Not counted: the emulated grant table's windows into domains, one for each
    /// worker, which it lets go of when it next opens one.
    [[nodiscard]] std::vector<std::string> open_files() const;
    [[nodiscard]] std::size_t resident_kib() const;
    [[nodiscard]] std::chrono::milliseconds processor_time() const;

    /// Whether, in the end, the daemon serves no vif, holds no more descriptors than when it began, and dom0 holds no
    /// grant and no port.
    testing::AssertionResult at_rest();
    /// The same of what the machine knows alone: nothing is held by dom0.
    [[nodiscard]] bool holds_nothing() const;

private:
    HostOptions options_;
    TemporaryDirectory directory_;
    std::unique_ptr<Process> machine_;
    std::unique_ptr<Process> daemon_;
    std::unique_ptr<xen::Store> store_;
    std::size_t files_at_start_ = 0;
};

}  // namespace uvif::test
