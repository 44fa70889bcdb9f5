// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "cli/options.hpp"
#include "cli/program.hpp"
#include "xen/emulated/admin.hpp"
#include "xen/emulated/local_store.hpp"
#include "xen/emulated/server.hpp"
#include "xen/emulated/store_core.hpp"
#include "xen/emulated/store_server.hpp"
#include "xen/emulated/toolstack.hpp"
#include "xen/xenstore_client.hpp"

// Theory of operation
// -------------------
// One program with two roles. `start` is the emulated host: it serves the hypervisor and the store in a directory
// until it is told to stop. All other commands are the toolstack, what xl is to Xen: they ask the host for domains
// over DIR/admin and write the store over dom0's socket, as any program of dom0 could.

namespace {

using namespace uvif;
using namespace uvif::xen;

struct Options {
    std::string directory;
    MachineConfig machine;
    int ready_fd = -1;
    std::string name;
    bool driver_domain = false;
    std::uint16_t domain = 0;
    std::string vif;
    unsigned devid = 0;
    bool json = false;
};

void warn(const Error& error) {
    fmt::print(stderr, "uvif-machine: {}\n", error.message);
}

Result<UniqueFd> lock_directory(const std::string& directory) {
    if (::mkdir(directory.c_str(), S_IRWXU) != 0 && errno != EEXIST) {
        return fail(errno, fmt::format("cannot make the directory {}: {}", directory, std::strerror(errno)));
    }
    UniqueFd lock(::open((directory + "/lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, S_IRUSR | S_IWUSR));
    if (!lock) {
        return fail(errno, fmt::format("cannot use the directory {}: {}", directory, std::strerror(errno)));
    }
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
        return fail(EBUSY, fmt::format("a machine runs in {} already: stop it with `uvif-machine stop {}`, or choose "
                                       "another directory",
                                       directory, directory));
    }
    return lock;
}

/// A descriptor that becomes readable when the user wants an end.
Result<UniqueFd> termination() {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    UniqueFd fd(::sigprocmask(SIG_BLOCK, &signals, nullptr) == 0 ? ::signalfd(-1, &signals, SFD_CLOEXEC) : -1);
    if (!fd) {
        return fail(errno, fmt::format("cannot wait for signals: {}", std::strerror(errno)));
    }
    return fd;
}

/// Every handle of every client is two descriptors here, so the usual 1024 are soon gone.
void allow_many_files() {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        ::setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/// Sockets that a machine left behind which was killed. Only those: the directory may be one of the user's.
void remove_stale_sockets(const std::string& directory) {
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
        if (entry.is_socket(ignored) && entry.path().filename().string().starts_with("dom")) {
            std::filesystem::remove(entry.path(), ignored);
        }
    }
}

Result<void> start(const Options& options) {
    auto lock = lock_directory(options.directory);
    if (!lock) {
        return propagate(lock);
    }
    remove_stale_sockets(options.directory);
    auto stop_fd = termination();
    if (!stop_fd) {
        return propagate(stop_fd);
    }
    std::signal(SIGPIPE, SIG_IGN);
    allow_many_files();
    auto machine = Machine::create(options.machine);
    if (!machine) {
        return propagate(machine);
    }
    StoreCore store;
    auto dom0_store = LocalStore::open(store, DomainId{0});
    if (!dom0_store) {
        return propagate(dom0_store);
    }
    if (auto written = Toolstack(**dom0_store).write_dom0(); !written) {
        return written;
    }
    auto store_server = StoreServer::create(store);
    if (!store_server) {
        return propagate(store_server);
    }
    auto server = Server::create(**machine, store, **store_server, options.directory);
    if (!server) {
        return propagate(server);
    }
    if (auto told = cli::tell_ready(options.ready_fd, "ready\n"); !told) {
        return told;
    }
    return (*server)->run(stop_fd->get());
}

/// The two ways into a running machine that every toolstack command needs.
struct Connections {
    Admin admin;
    std::unique_ptr<Store> store;
    Toolstack toolstack;

    static Result<std::unique_ptr<Connections>> open(const std::string& directory) {
        auto admin = Admin::connect(directory);
        if (!admin) {
            return propagate(admin);
        }
        const std::string socket = store_socket(directory, DomainId{0});
        auto store = open_libxenstore(socket);
        if (!store) {
            return propagate(store);
        }
        return std::make_unique<Connections>(std::move(*admin), std::move(*store), socket);
    }

    Connections(Admin to_machine, std::unique_ptr<Store> to_store, const std::string& socket)
        : admin(std::move(to_machine)), store(std::move(to_store)), toolstack(*store, socket, Toolstack::Limits{}) {}
};

Result<void> create(const Options& options, Connections& host) {
    auto domains = host.admin.list();
    if (!domains) {
        return propagate(domains);
    }
    for (const DomainStatus& known : *domains) {
        if (!options.name.empty() && host.toolstack.name_of(known.domain) == options.name) {
            return fail(EEXIST,
                        fmt::format("domain {} is named {} already", std::to_underlying(known.domain), options.name));
        }
    }
    auto domain = host.admin.create_domain();
    if (!domain) {
        return propagate(domain);
    }
    const std::string name = options.name.empty() ? fmt::format("dom{}", std::to_underlying(*domain)) : options.name;
    if (auto written = host.toolstack.write_domain(*domain, name, options.driver_domain); !written) {
        [[maybe_unused]] const auto undone = host.admin.destroy_domain(*domain);
        return written;
    }
    fmt::print("{}\n", std::to_underlying(*domain));
    return {};
}

Result<void> destroy(const Options& options, Connections& host) {
    const auto domain = static_cast<DomainId>(options.domain);
    if (domain == dom0) {
        return fail(EPERM, "domain 0 cannot be destroyed: stop the machine instead");
    }
    auto vifs = host.toolstack.list_vifs(domain);
    if (!vifs) {
        return propagate(vifs);
    }
    for (const VifStatus& vif : *vifs) {
        // As xl: a backend that does not answer does not keep the domain alive.
        if (auto closed = host.toolstack.destroy_vif(domain, vif.devid); !closed) {
            warn(closed.error());
        }
    }
    if (auto destroyed = host.admin.destroy_domain(domain); !destroyed) {
        return destroyed;
    }
    return host.toolstack.remove_domain(domain);
}

Result<void> attach(const Options& options, Connections& host) {
    auto spec = VifSpec::parse(options.vif);
    if (!spec) {
        return propagate(spec);
    }
    auto devid = host.toolstack.attach_vif(static_cast<DomainId>(options.domain), *spec);
    if (!devid) {
        return propagate(devid);
    }
    fmt::print("{}\n", *devid);
    return {};
}

Result<void> detach(const Options& options, Connections& host) {
    return host.toolstack.detach_vif(static_cast<DomainId>(options.domain), options.devid);
}

Result<nlohmann::json> describe(Connections& host) {
    auto domains = host.admin.list();
    if (!domains) {
        return propagate(domains);
    }
    nlohmann::json listing = nlohmann::json::array();
    for (const auto& [domain, usage] : *domains) {
        auto vifs = host.toolstack.list_vifs(domain);
        if (!vifs) {
            return propagate(vifs);
        }
        nlohmann::json entries = nlohmann::json::array();
        for (const VifStatus& vif : *vifs) {
            entries.push_back({{"devid", vif.devid},
                               {"backend", std::to_underlying(vif.backend)},
                               {"mac", vif.mac},
                               {"frontend_state", vif.frontend_state},
                               {"backend_state", vif.backend_state}});
        }
        listing.push_back({{"domain", std::to_underlying(domain)},
                           {"name", host.toolstack.name_of(domain)},
                           {"grants_in_use", usage.grants_in_use},
                           {"grants_held", usage.grants_held},
                           {"ports_unbound", usage.ports_unbound},
                           {"ports_interdomain", usage.ports_interdomain},
                           {"pages_shared", usage.pages_shared},
                           {"pages_deferred", usage.pages_deferred},
                           {"handles", usage.handles},
                           {"vifs", std::move(entries)}});
    }
    return listing;
}

Result<void> list(const Options& options, Connections& host) {
    auto listing = describe(host);
    if (!listing) {
        return propagate(listing);
    }
    if (options.json) {
        fmt::print("{}\n", listing->dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
        return {};
    }
    fmt::print("{:>6} {:20} {:>7} {:>6} {:>6} {:>6} {:>6}\n", "DOMAIN", "NAME", "HANDLES", "PORTS", "SHARED", "IN-USE",
               "HELD");
    for (const auto& domain : *listing) {
        const auto count = [&domain](const char* key) { return domain.at(key).get<unsigned>(); };
        fmt::print("{:>6} {:20} {:>7} {:>6} {:>6} {:>6} {:>6}\n", count("domain"), domain.at("name").get<std::string>(),
                   count("handles"), count("ports_unbound") + count("ports_interdomain"),
                   count("pages_shared") + count("pages_deferred"), count("grants_in_use"), count("grants_held"));
        for (const auto& vif : domain.at("vifs")) {
            fmt::print("       vif {} of domain {}: mac {}, frontend state {}, backend state {}\n",
                       vif.at("devid").get<unsigned>(), vif.at("backend").get<unsigned>(),
                       vif.at("mac").get<std::string>(), vif.at("frontend_state").get<unsigned>(),
                       vif.at("backend_state").get<unsigned>());
        }
    }
    return {};
}

Result<void> stop(const Options&, Connections& host) {
    return host.admin.stop();
}

using Command = Result<void> (*)(const Options&, Connections&);

Result<void> run(const Options& options, Command command) {
    if (command == nullptr) {
        return start(options);
    }
    auto host = Connections::open(options.directory);
    return host ? command(options, **host) : propagate(host);
}

/// A name is a node's value, a line of `list`, and a word in scripts.
std::string object_to_name(const std::string& name) {
    const bool fits = !name.empty() && name.size() <= 64 && name.find('/') == std::string::npos &&
                      std::ranges::all_of(name, [](char c) { return c > ' ' && c <= '~'; });
    return fits ? "" : "a name has 1 to 64 printable characters, none of them a space or a slash";
}

CLI::App* add_command(CLI::App& app, Options& options, const char* name, const char* description) {
    CLI::App* command = app.add_subcommand(name, description);
    const auto object = [](const std::string& path) { return path.empty() ? "the path of a directory is needed" : ""; };
    command->add_option("DIR", options.directory, "directory of the machine")
        ->required()
        ->check(CLI::Validator(object, ""));
    return command;
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app{"An emulated Xen host: hypervisor, xenstore, and the toolstack's commands", "uvif-machine"};
    app.require_subcommand(1);
    Options options;

    CLI::App* start_command = add_command(app, options, "start", "run a machine in DIR, in the foreground");
    start_command->add_flag("--charged", options.machine.charged,
                            "let every grant operation and notification cost a real system call");
    start_command
        ->add_option("--gntalloc-limit", options.machine.gntalloc_limit, "pages that a domain can share at a time")
        ->check(cli::whole_number(0, UINT32_MAX))
        ->capture_default_str();
    cli::add_ready_fd(*start_command, options.ready_fd, "descriptor to write a line to once the machine serves");

    std::vector<std::pair<CLI::App*, Command>> commands{{start_command, nullptr}};
    CLI::App* create_command = add_command(app, options, "create", "make a domain and print its id");
    create_command->add_option("--name", options.name, "name of the domain")->check(CLI::Validator(object_to_name, ""));
    create_command->add_flag("--driver-domain", options.driver_domain, "the domain is to serve backends");
    commands.emplace_back(create_command, create);

    commands.emplace_back(add_command(app, options, "destroy", "close a domain's vifs and end it"), destroy);
    commands.emplace_back(add_command(app, options, "attach", "give a domain a vif and print its device id"), attach);
    commands.emplace_back(add_command(app, options, "detach", "take a vif away from a domain"), detach);
    for (const auto& [command, function] : commands) {
        if (function == destroy || function == attach || function == detach) {
            command->add_option("DOMID", options.domain, "the domain")
                ->required()
                ->check(cli::whole_number(0, first_reserved_domain_id - 1));
        }
        if (function == attach) {
            command->add_option("VIF", options.vif, "key=value,... as in xl's vif list");
        }
        if (function == detach) {
            command->add_option("DEVID", options.devid, "the vif")->required()->check(cli::whole_number(0, UINT32_MAX));
        }
    }
    commands.emplace_back(add_command(app, options, "list", "show domains, vifs, and what is in use"), list);
    commands.back().first->add_flag("-J,--json", options.json, "print JSON");
    commands.emplace_back(add_command(app, options, "stop", "end the machine"), stop);

    return cli::run(app, argc, argv, [&] {
        const auto chosen = std::ranges::find_if(commands, [](const auto& entry) { return entry.first->parsed(); });
        return run(options, chosen->second);
    });
}
