// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/program.hpp"
#include "control_client.hpp"
#include "netback/counters.hpp"
#include "netback/instance.hpp"
#include "xen/hypervisor.hpp"

namespace {

using nlohmann::json;
using namespace uvif;

struct Options {
    std::string control;
    std::string hypervisor;
    std::string vif;
    bool as_json = false;
    bool zeros = false;
};

/// A value for people: text without its quotes.
std::string plain(const json& value) {
    return value.is_string() ? value.get<std::string>() : value.dump(-1, ' ', false, json::error_handler_t::replace);
}

/// Columns as wide as their widest cell, two spaces apart.
void print_table(const std::vector<std::vector<std::string>>& rows) {
    std::vector<std::size_t> widths;
    for (const auto& row : rows) {
        widths.resize(std::max(widths.size(), row.size()));
        for (std::size_t i = 0; i < row.size(); ++i) {
            widths[i] = std::max(widths[i], row[i].size());
        }
    }
    for (const auto& row : rows) {
        std::string line;
        for (std::size_t i = 0; i < row.size(); ++i) {
            line += fmt::format("{:<{}}  ", row[i], widths[i]);
        }
        line.erase(line.find_last_not_of(' ') + 1);
        fmt::print("{}\n", line);
    }
}

void print_list(const json& vifs) {
    if (vifs.empty()) {
        fmt::print("no vifs: the toolstack has attached none to this backend\n");
        return;
    }
    std::vector<std::vector<std::string>> rows{{"VIF", "STATE", "FRONTEND", "QUEUES", "PORT", "INTERFACE", "MAC"}};
    for (const json& vif : vifs) {
        rows.push_back({plain(vif.at("name")), plain(vif.at("state")), plain(vif.at("frontend_state")),
                        plain(vif.at("queues")), plain(vif.at("port")), plain(vif.at("interface")),
                        plain(vif.at("mac"))});
    }
    print_table(rows);
    for (const json& vif : vifs) {
        if (const std::string error = plain(vif.at("error")); !error.empty()) {
            fmt::print("{}: {}\n", plain(vif.at("name")), error);
        }
    }
}

/// The sentence behind the name of a drop counter, in brackets; nothing for other counters.
std::string meaning(std::string_view counter) {
    const auto find = [counter](std::string_view prefix, const auto& names, const auto& sentences) -> std::string {
        if (!counter.starts_with(prefix)) {
            return "";
        }
        const auto found = std::ranges::find(names, counter.substr(prefix.size()));
        return found == names.end() ? ""
                                    : fmt::format(" ({})", sentences[static_cast<std::size_t>(found - names.begin())]);
    };
    const std::string tx = find("tx_drop_", netback::tx_drop_names, netback::tx_drop_sentences);
    return tx.empty() ? find("rx_drop_", netback::rx_drop_names, netback::rx_drop_sentences) : tx;
}

void print_counters(const json& counters, bool zeros) {
    for (const auto& [name, value] : counters.items()) {
        if (zeros || value != 0) {
            fmt::print("{}: {}{}\n", name, plain(value), meaning(name));
        }
    }
}

void print_vif(const json& vif) {
    for (const auto& [name, value] : vif.items()) {
        if (!value.is_structured() && plain(value) != "") {
            fmt::print("{}: {}\n", name, plain(value));
        }
    }
    std::vector<std::vector<std::string>> rows{
        {"QUEUE", "WORKER", "TX-PACKETS", "TX-BYTES", "TX-EVENTS", "RX-PACKETS", "RX-BYTES", "RX-EVENTS", "DROPS"}};
    for (const json& queue : vif.at("queue_statistics")) {
        const std::size_t number = rows.size() - 1;
        std::vector<std::string> row{std::to_string(number), plain(vif.at("workers").at(number))};
        for (const char* name :
             {"tx_packets", "tx_bytes", "tx_notifications", "rx_packets", "rx_bytes", "rx_notifications"}) {
            row.push_back(plain(queue.at(name)));
        }
        row.push_back(
            std::to_string(queue.at("tx_drops").get<std::uint64_t>() + queue.at("rx_drops").get<std::uint64_t>()));
        rows.push_back(std::move(row));
    }
    if (rows.size() > 1) {
        print_table(rows);
    }
}

Result<json> ask(const Options& options, const std::string& command) {
    std::string hypervisor = options.hypervisor;
    if (const char* set = std::getenv("UVIF_HYPERVISOR"); hypervisor.empty() && set != nullptr) {
        hypervisor = set;
    }
    if (!hypervisor.empty()) {
        if (auto checked = xen::check_hypervisor(hypervisor); !checked) {
            return propagate(checked);
        }
    }
    auto client = tools::ControlClient::connect(options.control.empty() ? netback::Instance::control_path(hypervisor)
                                                                        : options.control);
    if (!client) {
        return propagate(client);
    }
    json request{{"command", command}};
    if (!options.vif.empty()) {
        request["vif"] = options.vif;
    }
    return client->request(request);
}

Result<void> run(const Options& options, const std::string& command) {
    auto answer = ask(options, command);
    if (!answer) {
        return propagate(answer);
    }
    if (options.as_json) {
        fmt::print("{}\n", answer->dump(2, ' ', false, json::error_handler_t::replace));
    } else if (command == "list") {
        print_list(*answer);
    } else if (command == "show") {
        print_vif(*answer);
    } else if (command == "stats") {
        if (answer->at("queues") == 0) {
            fmt::print("{} is {} and has no queues: counters begin with a connection\n", options.vif,
                       answer->at("state").get<std::string>());
        } else {
            print_counters(answer->at("statistics"), options.zeros);
        }
    } else {
        print_counters(*answer, true);
    }
    return {};
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app("Shows what a running uvif-netback serves", "uvif-ctl");
    app.require_subcommand(1);
    app.fallthrough();
    Options options;
    app.add_option("--control", options.control, "path of the daemon's control socket");
    app.add_option("--hypervisor", options.hypervisor,
                   "real, or emulated:SOCKET as the daemon was given it, to find its control socket; "
                   "default: $UVIF_HYPERVISOR, else real Xen");
    app.add_flag("-J,--json", options.as_json, "print the daemon's answer as JSON");
    app.add_subcommand("list", "the vifs, one a line");
    const CLI::Validator is_name(
        [](const std::string& name) {
            return name.empty() || name.size() > 64 ? "no vif has such a name: `uvif-ctl list` shows those there are"
                                                    : "";
        },
        "");
    const auto add_vif = [&](CLI::App& command) {
        command.add_option("VIF", options.vif, "name, as `list` shows it")->required()->check(is_name);
    };
    add_vif(*app.add_subcommand("show", "one vif and its queues"));
    CLI::App* stats = app.add_subcommand("stats", "the counters of one vif, all queues together");
    add_vif(*stats);
    stats->add_flag("-a,--all", options.zeros, "also counters that are 0");
    app.add_subcommand("version",
                       "version, hypervisor and event loop of the daemon, how many queues it serves and its memory");
    return cli::run(app, argc, argv, [&]() -> Result<void> {
        try {
            return run(options, app.get_subcommands().front()->get_name());
        } catch (const json::exception& error) {
            // A daemon of another version, whose answers lack what this one looks for.
            return fail(EPROTO, fmt::format("the daemon's answer is not understood ({}); use -J", error.what()));
        }
    });
}
