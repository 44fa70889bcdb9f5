// SPDX-License-Identifier: MIT
//
// Theory of operation
//
// The control thread: it watches our backend folder in the store (and of each vif its frontend's state), keeps a Vif
// for every device in it, and answers the control socket. A watch event is never data: it marks a vif as dirty, and
// dirty vifs look at the store again. So a guest that writes a watched key a million times costs a set of
// bounded size (XSA-349).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "netback/control_server.hpp"
#include "netback/queue_journal.hpp"
#include "netback/settings.hpp"
#include "netback/vif.hpp"
#include "runtime/limits.hpp"
#include "runtime/loop.hpp"
#include "runtime/mailbox.hpp"
#include "runtime/worker.hpp"
#include "xen/hypervisor.hpp"

namespace uvif::netback {

class Daemon {
public:
    /// Opens everything that can fail; nothing is served before run(). `control_path` may be empty: no control socket.
    static Result<std::unique_ptr<Daemon>> create(xen::Hypervisor& hypervisor, const Settings& settings,
                                                  const std::string& control_path);
    Daemon(const Daemon&) = delete;
    Daemon& operator=(const Daemon&) = delete;
    ~Daemon();

    /// Serves until stop(), or until the store is lost (an error). `on_alive` is called when every vif that was there
    /// at the beginning has been looked at, and every few seconds from then on.
    Result<void> run(const std::function<void()>& on_alive = [] {});
    /// From the control thread, for example a handler of the loop.
    void stop() noexcept { stopping_ = true; }
    [[nodiscard]] Loop& loop() noexcept { return *loop_; }

private:
    Daemon(xen::Hypervisor& hypervisor, const Settings& settings) : settings_(settings), hypervisor_(hypervisor) {}
    Result<void> open(const std::string& control_path);
    void read_watches();
    void mark(const xen::WatchEvent& event);
    void rescan();
    void discover(std::string_view domain);
    void clear_journals();
    void evaluate_dirty();
    void evaluate_overdue();
    [[nodiscard]] std::int64_t sleep_ns() const noexcept;
    [[nodiscard]] bool store_lost() noexcept;

    [[nodiscard]] std::string answer(const std::string& request);
    [[nodiscard]] nlohmann::json execute(const nlohmann::json& request);
    void serve_control_rings();
    [[nodiscard]] const Vif* find(std::string_view name) const;

    /// Something in the store changed. It is enough that this ends the sleep: run() looks every time.
    struct StoreHandler final : ReadyHandler {
        void on_ready(std::uint32_t /*events*/) noexcept override {}
    };
    struct MailboxHandler final : ReadyHandler {
        Mailbox* mailbox = nullptr;
        void on_ready(std::uint32_t /*events*/) noexcept override { mailbox->drain(); }
    };

    /// Of control rings.
    struct EventHandler final : ReadyHandler {
        Daemon* daemon = nullptr;
        void on_ready(std::uint32_t events) noexcept override;
    };

    Settings settings_;
    bool stopping_ = false;
    xen::Hypervisor& hypervisor_;
    std::unique_ptr<Loop> loop_;
    std::unique_ptr<Mailbox> mailbox_;
    std::unique_ptr<xen::Store> store_;
    StoreHandler store_handler_;
    MailboxHandler mailbox_handler_;
    std::unique_ptr<xen::GrantTable> grants_;
    std::unique_ptr<xen::EventChannels> events_;
    EventHandler event_handler_;
    PageBudget static_budget_{limits::static_grants};
    std::set<VifId> control_due_;  ///< vifs with requests on their control rings
    std::vector<std::unique_ptr<Worker>> workers_;
    Switching switching_;
    TunnelPlace tunnel_;
    std::optional<JournalFolder> journals_;  ///< from open() on
    std::map<VifId, std::unique_ptr<Vif>> vifs_;
    std::map<VifId, std::string> watched_;  ///< the frontend's folder of each vif, of which keys are watched
    std::set<VifId> dirty_;
    bool rescan_ = true;
    std::int64_t pinged_ns_ = 0;
    std::unique_ptr<ControlServer> control_;
};

}  // namespace uvif::netback
