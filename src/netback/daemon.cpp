// SPDX-License-Identifier: MIT
#include "netback/daemon.hpp"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "netback/fetch_choice.hpp"
#include "runtime/clock.hpp"
#include "runtime/limits.hpp"
#include "runtime/log.hpp"

namespace uvif::netback {
namespace {

const std::string backend_folder = "backend/vif";
constexpr std::string_view frontend_token = "f";

/// A store that went away says so only when asked; so it is asked now and then.
constexpr std::int64_t ping_interval_ns = 5 * ns_per_s;

/// "DOMID/HANDLE" and whatever follows after a slash.
std::optional<VifId> parse_id(std::string_view text) {
    const std::size_t first = text.find('/');
    if (first == std::string_view::npos) {
        return std::nullopt;
    }
    const std::string_view rest = text.substr(first + 1);
    const auto domain = xen::parse_decimal(text.substr(0, first), xen::first_reserved_domain_id - 1U);
    const auto handle = xen::parse_decimal(rest.substr(0, rest.find('/')));
    if (!domain || !handle) {
        return std::nullopt;
    }
    return VifId{xen::DomainId{static_cast<std::uint16_t>(*domain)}, *handle};
}

std::string id_text(const VifId& id) {
    return fmt::format("{}/{}", std::to_underlying(id.domain), id.handle);
}

// Keys of a frontend's folder that may change while it is connected.
constexpr const char* state_key = "/state";
constexpr const char* groups_key = "/request-multicast-control";

std::string frontend_watch(const VifId& id) {
    return fmt::format("{}{}", frontend_token, id_text(id));
}

/// Memory of this process that is there and not only reserved; 0 where that cannot be told.
std::size_t resident_kib() {
    std::ifstream statm("/proc/self/statm");
    std::size_t reserved = 0;
    std::size_t resident = 0;
    statm >> reserved >> resident;
    return resident * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)) / 1024;
}

}  // namespace

Result<std::unique_ptr<Daemon>> Daemon::create(xen::Hypervisor& hypervisor, const Settings& settings,
                                               const std::string& control_path) {
    std::unique_ptr<Daemon> daemon(new Daemon(hypervisor, settings));
    if (auto opened = daemon->open(control_path); !opened) {
        return propagate(opened);
    }
    return daemon;
}

Result<void> Daemon::open(const std::string& control_path) {
    if (auto ours = hypervisor_.check_no_other_netback(); !ours) {
        return ours;
    }
    auto journals = JournalFolder::open(settings_.journals);
    if (!journals) {
        return propagate(journals);
    }
    journals_.emplace(std::move(*journals));
    auto loop = Loop::create(settings_.loop);
    if (!loop) {
        return propagate(loop);
    }
    loop_ = std::move(*loop);
    auto mailbox = Mailbox::create();
    if (!mailbox) {
        return propagate(mailbox);
    }
    mailbox_ = std::move(*mailbox);
    mailbox_handler_.mailbox = mailbox_.get();
    auto store = hypervisor_.open_store();
    if (!store) {
        return propagate(store);
    }
    store_ = std::move(*store);
    if (auto watched = store_->watch(backend_folder, "b"); !watched) {
        return watched;
    }
    tunnel_.patient_until_ns = monotonic_ns() + limits::vxlan_busy_ns;
    auto grants = hypervisor_.open_grant_table();
    if (!grants) {
        return propagate(grants);
    }
    grants_ = std::move(*grants);
    auto events = hypervisor_.open_event_channels();
    if (!events) {
        return propagate(events);
    }
    events_ = std::move(*events);
    event_handler_.daemon = this;
    if (auto added = loop_->add(events_->fd(), EPOLLIN, event_handler_); !added) {
        return added;
    }
    settings_.fetch_choice = choose_fetch(hypervisor_, *store_, settings_.fetch);
    if (!settings_.fetch_choice.empty()) {
        log(LogLevel::info, "strategy auto: {}", settings_.fetch_choice);
    }
    for (unsigned i = 0; i < settings_.workers; ++i) {
        auto worker = Worker::create(hypervisor_, {.loop = settings_.loop, .spin_ns = settings_.spin_ns});
        if (!worker) {
            return propagate(worker);
        }
        workers_.push_back(std::move(*worker));
        workers_.back()->start();
    }
    if (auto added = loop_->add(mailbox_->fd(), EPOLLIN, mailbox_handler_); !added) {
        return added;
    }
    if (auto added = loop_->add(store_->fd(), EPOLLIN, store_handler_); !added) {
        return added;
    }
    if (!control_path.empty()) {
        auto control =
            ControlServer::listen(*loop_, control_path, [this](const std::string& request) { return answer(request); });
        if (!control) {
            return propagate(control);
        }
        control_ = std::move(*control);
    }
    return {};
}

Daemon::~Daemon() {
    control_.reset();
    vifs_.clear();  // before the workers that their queues live on
    workers_.clear();
}

Result<void> Daemon::run(const std::function<void()>& on_alive) {
    log(LogLevel::info, "serving {} with {} worker{} on {} ({})", backend_folder, workers_.size(),
        workers_.size() == 1 ? "" : "s", loop_->name(), hypervisor_.description());
    clear_journals();
    while (!stopping_) {
        read_watches();
        if (std::exchange(rescan_, false)) {
            rescan();
        }
        evaluate_overdue();
        evaluate_dirty();
        serve_control_rings();
        if (control_) {
            control_->sweep();
        }
        const std::int64_t now = monotonic_ns();
        const bool due = pinged_ns_ == 0 || now - pinged_ns_ >= ping_interval_ns;
        if (due && store_lost()) {
            return fail(ENOTCONN,
                        "the connection to xenstore is lost: the vifs stay as they are; start again once "
                        "xenstored (or uvif-machine) runs");
        }
        if (due) {
            switching_.age();
            for (const auto& [id, vif] : vifs_) {
                vif->follow_bridge();
                vif->age_grants();
            }
            pinged_ns_ = now;
            on_alive();
        }
        loop_->wait(dirty_.empty() && control_due_.empty() && !rescan_ && !stopping_ ? sleep_ns() : 0);
    }
    return {};
}

void Daemon::read_watches() {
    for (unsigned i = 0; i < limits::watch_events_per_look; ++i) {
        const auto event = store_->next_event();
        if (!event) {
            return;
        }
        mark(*event);
    }
}

void Daemon::mark(const xen::WatchEvent& event) {
    std::optional<VifId> id;
    if (event.token.starts_with(frontend_token)) {
        id = parse_id(std::string_view(event.token).substr(frontend_token.size()));
    } else if (event.path.size() > backend_folder.size()) {
        id = parse_id(std::string_view(event.path).substr(backend_folder.size() + 1));
    }
    if (id && vifs_.contains(*id)) {
        dirty_.insert(*id);
    } else {
        rescan_ = true;
    }
}

/// Makes a vif for every device that is new in our folder, and has those that are not there any more look.
void Daemon::rescan() {
    for (const auto& [id, vif] : vifs_) {
        dirty_.insert(id);
    }
    const auto domains = store_->list(backend_folder);
    if (!domains) {
        return;  // no vif was ever attached
    }
    for (const std::string& domain : *domains) {
        discover(domain);
    }
}

void Daemon::discover(std::string_view domain) {
    const auto handles = store_->list(fmt::format("{}/{}", backend_folder, domain));
    if (!handles) {
        return;
    }
    for (const std::string& handle : *handles) {
        const auto id = parse_id(fmt::format("{}/{}", domain, handle));
        if (!id || vifs_.contains(*id) || hypervisor_.other_netback_serves(id->domain, id->handle)) {
            continue;
        }
        const Surroundings around{*store_,
                                  workers_,
                                  settings_,
                                  switching_,
                                  tunnel_,
                                  *grants_,
                                  *events_,
                                  *journals_,
                                  static_budget_,
                                  [this](VifId found, std::uint64_t connection, Rogue reason) {
                                      mailbox_->post([this, found, connection, reason] {
                                          if (const auto vif = vifs_.find(found); vif != vifs_.end()) {
                                              vif->second->found_rogue(connection, reason);
                                              dirty_.insert(found);
                                          }
                                      });
                                  },
                                  [this](VifId found, std::uint64_t connection, bool stalled) {
                                      mailbox_->post([this, found, connection, stalled] {
                                          if (const auto vif = vifs_.find(found); vif != vifs_.end()) {
                                              vif->second->found_stalled(connection, stalled);
                                          }
                                      });
                                  }};
        vifs_.emplace(*id, std::make_unique<Vif>(around, *id));
        dirty_.insert(*id);
    }
}

/// Of vifs that went while no daemon ran.
void Daemon::clear_journals() {
    for (const VifId& id : journals_->vifs()) {
        const auto state = store_->read(fmt::format("{}/{}/state", backend_folder, id_text(id)));
        if (!state && state.error().code == ENOENT) {
            journals_->remove(id);
        }
    }
}

void Daemon::evaluate_overdue() {
    const std::int64_t now = monotonic_ns();
    for (const auto& [id, vif] : vifs_) {
        if (const auto deadline = vif->deadline_ns(); deadline && *deadline <= now) {
            dirty_.insert(id);
        }
    }
}

void Daemon::evaluate_dirty() {
    for (const VifId& id : std::exchange(dirty_, {})) {
        const auto found = vifs_.find(id);
        if (found == vifs_.end()) {
            continue;
        }
        const bool stays = found->second->evaluate();
        auto watched = watched_.find(id);
        const std::string folder = stays ? found->second->frontend() : "";
        if (watched != watched_.end() && watched->second != folder) {
            (void)store_->unwatch(watched->second + state_key, frontend_watch(id));
            (void)store_->unwatch(watched->second + groups_key, frontend_watch(id));
            watched_.erase(watched);
            watched = watched_.end();
        }
        // A watch fires at once, so that what changed since evaluate() looked is not missed.
        if (!folder.empty() && watched == watched_.end() && store_->watch(folder + state_key, frontend_watch(id))) {
            // Without this one, what the guest asks for is seen when it next changes its state.
            (void)store_->watch(folder + groups_key, frontend_watch(id));
            watched_.emplace(id, folder);
        }
        if (!stays) {
            vifs_.erase(found);
        }
    }
}

/// Unmasked first and looked at afterwards, so that none is missed.
void Daemon::EventHandler::on_ready(std::uint32_t /*events*/) noexcept {
    std::array<xen::EventPort, 64> ports;
    const auto pending = std::span(ports).first(daemon->events_->pending(ports));
    daemon->events_->unmask(pending);
    for (const auto& [id, vif] : daemon->vifs_) {
        if (const auto port = vif->control_port(); port && std::ranges::find(pending, *port) != pending.end()) {
            daemon->control_due_.insert(id);
        }
    }
}

/// A while each; those that have more get their turn when the others have had theirs.
void Daemon::serve_control_rings() {
    for (const VifId& id : std::exchange(control_due_, {})) {
        const auto found = vifs_.find(id);
        if (found == vifs_.end()) {
            continue;
        }
        if (found->second->serve_control()) {
            control_due_.insert(id);
        }
        if (found->second->broken()) {
            dirty_.insert(id);
        }
    }
}

std::int64_t Daemon::sleep_ns() const noexcept {
    const std::int64_t now = monotonic_ns();
    std::int64_t until = pinged_ns_ + ping_interval_ns;
    for (const auto& [id, vif] : vifs_) {
        if (const auto deadline = vif->deadline_ns()) {
            until = std::min(until, *deadline);
        }
    }
    return std::max<std::int64_t>(0, until - now);
}

bool Daemon::store_lost() noexcept {
    const auto answer = store_->read("domid");
    return !answer && answer.error().code != ENOENT && answer.error().code != EACCES;
}

const Vif* Daemon::find(std::string_view name) const {
    for (const auto& [id, vif] : vifs_) {
        if (vif->name() == name) {
            return vif.get();
        }
    }
    return nullptr;
}

std::string Daemon::answer(const std::string& request) {
    nlohmann::json reply;
    try {
        reply["result"] = execute(nlohmann::json::parse(request));
        reply["ok"] = true;
    } catch (const nlohmann::json::exception&) {
        reply["ok"] = false;
        reply["error"] = "a request is one JSON object a line, such as {\"command\": \"show\", \"vif\": \"vif1.0\"}";
    } catch (const std::exception& error) {
        reply["ok"] = false;
        reply["error"] = error.what();
    }
    return reply.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

/// Errors leave as exceptions: the JSON library throws them anyway, and answer() makes replies of all.
nlohmann::json Daemon::execute(const nlohmann::json& request) {
    const auto command = request.at("command").get<std::string>();
    if (command == "list") {
        nlohmann::json all = nlohmann::json::array();
        for (const auto& [id, vif] : vifs_) {
            all.push_back(vif->describe());
        }
        return all;
    }
    if (command == "version") {
        std::size_t queues = 0;
        for (const auto& worker : workers_) {
            queues += worker->load;
        }
        return {{"version", UVIF_VERSION},       {"hypervisor", hypervisor_.description()},
                {"loop", loop_->name()},         {"workers", workers_.size()},
                {"vifs", vifs_.size()},          {"queues", queues},
                {"resident_kib", resident_kib()}};
    }
    if (command != "show" && command != "stats") {
        throw std::invalid_argument(fmt::format(
            "there is no command '{}': the commands are list, show, stats and version", printable(command)));
    }
    const auto name = request.at("vif").get<std::string>();
    const Vif* vif = find(name);
    if (vif == nullptr) {
        throw std::invalid_argument(
            fmt::format("there is no vif '{}': `uvif-ctl list` shows those there are", printable(name)));
    }
    nlohmann::json json = vif->describe();
    QueueStatistics sum;
    nlohmann::json queues = nlohmann::json::array();
    for (const QueueStatistics& queue : vif->statistics()) {
        sum += queue;
        queues.push_back(to_json(queue));
    }
    json["statistics"] = to_json(sum);
    if (command == "show") {
        json["queue_statistics"] = queues;
    }
    return json;
}

}  // namespace uvif::netback
