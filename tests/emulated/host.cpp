// SPDX-License-Identifier: MIT
#include "emulated/host.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "xen/xenstore_client.hpp"

namespace uvif::test {

using nlohmann::json;

std::string program(const std::string& name) {
    return name == "uvif-netback" ? UVIF_NETBACK : UVIF_TOOLS "/" + name;
}

Host::Host(HostOptions options) : options_(std::move(options)) {
    Launch machine{{program("uvif-machine"), "start", machine_directory()}};
    machine.words.insert(machine.words.end(), options_.machine.begin(), options_.machine.end());
    machine_ = std::make_unique<Process>(machine, directory_.path() + "/machine.log");
    const bool serves = eventually([this] {
        auto opened = xen::open_libxenstore(store_socket(0));
        store_ = opened ? std::move(*opened) : nullptr;
        return store_ != nullptr || !machine_->running();
    });
    if (!serves || !store_) {
        throw std::runtime_error("the machine does not start: " + machine_->output());
    }
    if (options_.daemon) {
        start_daemon();
    }
}

Host::~Host() {
    if (testing::Test::HasFailure()) {
        fmt::print("--- the daemon's log\n{}---\n", log());
    }
    for (Process* process : {daemon_.get(), machine_.get()}) {
        if (process != nullptr) {
            process->send(SIGTERM);
            EXPECT_TRUE(process->wait().has_value()) << "does not end when told to";
        }
    }
}

Process Host::machine_in_background(const std::string& command, const std::vector<std::string>& words) const {
    Launch launch{{program("uvif-machine"), command, machine_directory()}, {}, options_.network};
    launch.words.insert(launch.words.end(), words.begin(), words.end());
    return Process(launch, fmt::format("{}/{}.log", directory_.path(), command));
}

Outcome Host::machine(const std::string& command, const std::vector<std::string>& words) const {
    Launch launch{{program("uvif-machine"), command, machine_directory()}, {}, options_.network};
    launch.words.insert(launch.words.end(), words.begin(), words.end());
    return run(launch);
}

unsigned Host::create() const {
    const Outcome made = machine("create");
    EXPECT_EQ(made.status, 0) << made.output;
    return static_cast<unsigned>(std::strtoul(made.output.c_str(), nullptr, 10));
}

unsigned Host::attach(unsigned domain, const std::string& vif) const {
    const Outcome made = machine("attach", {std::to_string(domain), vif});
    EXPECT_EQ(made.status, 0) << made.output;
    return static_cast<unsigned>(std::strtoul(made.output.c_str(), nullptr, 10));
}

void Host::destroy(unsigned domain) const {
    const Outcome destroyed = machine("destroy", {std::to_string(domain)});
    EXPECT_EQ(destroyed.status, 0) << destroyed.output;
}

std::vector<std::string> Host::daemon_words(const std::vector<std::string>& more) const {
    std::vector<std::string> words{program("uvif-netback"),
                                   "--hypervisor",
                                   hypervisor(0),
                                   "--port",
                                   options_.port,
                                   "--max-queues",
                                   std::to_string(options_.max_queues),
                                   "--log-level",
                                   options_.log_level};
    words.insert(words.end(), options_.arguments.begin(), options_.arguments.end());
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

void Host::start_daemon() {
    daemon_ =
        std::make_unique<Process>(Launch{daemon_words(), {}, options_.network}, directory_.path() + "/netback.log");
    const bool serves = eventually([this] { return !ask({"version"}).is_null() || !daemon_->running(); });
    if (!serves || !daemon_->running()) {
        throw std::runtime_error("the daemon does not start: " + log());
    }
    files_at_start_ = files_at_start_ == 0 ? open_files().size() : files_at_start_;
}

json Host::ask(const std::vector<std::string>& words) const {
    Launch launch{{program("uvif-ctl"), "--hypervisor", hypervisor(0), "-J"}};
    launch.words.insert(launch.words.end(), words.begin(), words.end());
    const Outcome answer = run(launch);
    return answer.status == 0 ? json::parse(answer.output, nullptr, false) : json();
}

std::uint64_t Host::counter(unsigned domain, unsigned handle, const std::string& name) const {
    const json answer = ask({"stats", fmt::format("vif{}.{}", domain, handle)});
    return answer.is_object() ? answer.at("statistics").at(name).get<std::uint64_t>() : 0;
}

std::string Host::hypervisor(unsigned domain) const {
    return fmt::format("emulated:{}/dom{}", machine_directory(), domain);
}

std::string Host::store_socket(unsigned domain) const {
    return fmt::format("{}/dom{}.xenstore", machine_directory(), domain);
}

std::unique_ptr<xen::Store> Host::store_of(unsigned domain) const {
    auto opened = xen::open_libxenstore(store_socket(domain));
    EXPECT_TRUE(opened.has_value());
    return opened ? std::move(*opened) : nullptr;
}

std::optional<std::string> Host::read(const std::string& path) {
    auto value = store_->read(path);
    return value ? std::optional(std::move(*value)) : std::nullopt;
}

void Host::write(const std::string& path, const std::string& value) {
    auto written = store_->write(path, value);
    EXPECT_TRUE(written.has_value()) << path;
}

void Host::remove(const std::string& path) {
    auto removed = store_->remove(path);
    EXPECT_TRUE(removed.has_value()) << path;
}

bool Host::reaches(const std::string& folder, const std::string& state) {
    return eventually([&] { return read(folder + "/state") == state; });
}

Keys Host::vif_keys(unsigned domain) {
    return {{"frontend", frontend(domain)},
            {"frontend-id", std::to_string(domain)},
            {"mac", "00:16:3e:00:00:01"},
            {"handle", "0"},
            {"online", "1"},
            {"state", "1"}};
}

void Host::write_vif(unsigned domain, const Keys& keys) {
    write(frontend(domain) + "/state", "1");
    auto made = xen::transact(*store_, [&](xen::Transaction t) -> Result<void> {
        for (const auto& [key, value] : keys) {
            if (auto written = store_->write(fmt::format("{}/{}", backend(domain), key), value, t); !written) {
                return written;
            }
        }
        return {};
    });
    EXPECT_TRUE(made.has_value());
}

std::string Host::frontend(unsigned domain, unsigned handle) {
    return fmt::format("/local/domain/{}/device/vif/{}", domain, handle);
}

std::string Host::backend(unsigned domain, unsigned handle) {
    return fmt::format("/local/domain/0/backend/vif/{}/{}", domain, handle);
}

std::string Host::error_key(unsigned domain, unsigned handle) {
    return fmt::format("/local/domain/0/error/backend/vif/{}/{}/error", domain, handle);
}

namespace {

/// ThreadSanitizer starts its symbolizer with the first report, also with one that is suppressed, and keeps the pipes.
bool is_a_sanitizers(const std::string& file) {
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
    return file.starts_with("pipe:") || file == "/dev/null";
#endif
#endif
    (void)file;
    return false;
}

}  // namespace

std::vector<std::string> Host::open_files() const {
    std::vector<std::string> names;
    std::error_code ignored;
    for (std::filesystem::directory_iterator file(fmt::format("/proc/{}/fd", daemon_->pid()), ignored), end;
         file != end; file.increment(ignored)) {
        std::string name = std::filesystem::read_symlink(*file, ignored).string();
        if (!name.starts_with("/memfd:uvif-domain") && !is_a_sanitizers(name)) {
            names.push_back(std::move(name));
        }
    }
    return names;
}

std::size_t Host::resident_kib() const {
    std::ifstream status(fmt::format("/proc/{}/status", daemon_->pid()));
    for (std::string line; std::getline(status, line);) {
        if (line.starts_with("VmRSS:")) {
            return std::strtoul(line.c_str() + 6, nullptr, 10);
        }
    }
    return 0;
}

std::chrono::milliseconds Host::processor_time() const {
    const std::string stat = read_file(fmt::format("/proc/{}/stat", daemon_->pid()));
    std::istringstream fields(stat.substr(stat.rfind(')') + 2));  // a name may hold spaces; state is what follows
    std::string skipped;
    for (int i = 0; i < 11; ++i) {
        fields >> skipped;
    }
    long user = 0;
    long system = 0;
    fields >> user >> system;
    return std::chrono::milliseconds((user + system) * 1000 / ::sysconf(_SC_CLK_TCK));
}

bool Host::holds_nothing() const {
    const Outcome listed = machine("list", {"-J"});
    const json domains = json::parse(listed.output, nullptr, false);
    return domains.is_array() && std::ranges::all_of(domains, [](const json& domain) {
               const auto count = [&domain](const char* key) { return domain.at(key).get<unsigned>(); };
               return count("grants_in_use") == 0 &&
                      (count("domain") != 0 ||
                       (count("grants_held") == 0 && count("ports_interdomain") == 0 && count("ports_unbound") == 0));
           });
}

testing::AssertionResult Host::at_rest() {
    if (!daemon_->running()) {
        return testing::AssertionFailure() << "the daemon ended";
    }
    if (!eventually([this] { return ask({"list"}) == json::array(); }, std::chrono::seconds(10))) {
        return testing::AssertionFailure() << "the daemon still serves " << ask({"list"}).dump();
    }
    if (!eventually([this] { return holds_nothing(); }, std::chrono::seconds(10))) {
        return testing::AssertionFailure() << "something is still held: " << machine("list", {"-J"}).output;
    }
    if (!eventually([this] { return open_files().size() <= files_at_start_; }, std::chrono::seconds(10))) {
        return testing::AssertionFailure() << "more descriptors than the " << files_at_start_
                                           << " at first: " << fmt::format("{}", fmt::join(open_files(), " "));
    }
    return testing::AssertionSuccess();
}

}  // namespace uvif::test
