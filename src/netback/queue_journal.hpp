// SPDX-License-Identifier: MIT
//
// Theory of operation
//
// The journals of a queue's two rings (ring/journal.hpp) lie in a file that outlives the daemon: in a folder beside its
// control socket, on a file system that is memory. It is written to by plain stores through a mapping: no system call,
// and nothing to flush, since a process that is killed takes none of its stores with it. (A host that crashes takes
// guests, rings and file alike.)
//
// The life of a file is the connection's. It is made before the first request is consumed, and taken away before the
// backend leaves Connected, and once more before it offers InitWait. A frontend connects after InitWait only, so a
// file that is there when a daemon finds a guest connected is of this connection, unless somebody put it there. That is
// not all it has to show: its first line names the vif, the guest's UUID, both ring references and both channels, which
// must be those of the guest; its size must be right, and what it says must be possible beside the ring's own indices.
// A file that is refused is not used for anything. The vif is then closed, and its guest has to connect again, because
// nobody can tell which of the requests in its rings are requests.
//
// When two daemons follow each other, the second reads a journal after it has bound the event channels. That fails as
// long as the first one lives, so nobody writes to it any more.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "netback/identity.hpp"
#include "ring/back_ring.hpp"
#include "uvif/error.hpp"

namespace uvif::netback {

/// One file, mapped. Removing it is JournalFolder's.
class QueueJournal {
public:
    QueueJournal(const QueueJournal&) = delete;
    QueueJournal& operator=(const QueueJournal&) = delete;
    ~QueueJournal();

    /// It was there already: what it says is to be recovered.
    [[nodiscard]] bool inherited() const noexcept { return inherited_; }
    [[nodiscard]] ring::TxBackRing::Journal& tx() noexcept { return sheet_->tx; }
    [[nodiscard]] ring::RxBackRing::Journal& rx() noexcept { return sheet_->rx; }

private:
    friend class JournalFolder;
    /// The whole of a file.
    struct Sheet {
        std::array<char, 512> identity;
        ring::TxBackRing::Journal tx;
        ring::RxBackRing::Journal rx;
    };

    QueueJournal(Sheet* sheet, bool inherited) noexcept : sheet_(sheet), inherited_(inherited) {}
    static Result<std::unique_ptr<QueueJournal>> map(int fd, bool inherited);

    Sheet* sheet_;
    bool inherited_;
};

/// Where a daemon's journals are. Thread rule: one thread.
class JournalFolder {
public:
    /// Makes it, for its owner alone, when it is not there. The error names the remedy.
    static Result<JournalFolder> open(std::string path);

    /// A new file in place of what is there.
    Result<std::unique_ptr<QueueJournal>> create(const QueueIdentity& identity) const;
    /// The last daemon's. ENOENT: there is none; ESTALE: of another connection; EINVAL: no journal.
    Result<std::unique_ptr<QueueJournal>> inherit(const QueueIdentity& identity) const;

    /// All files of a vif.
    void remove(const VifId& vif) const noexcept;
    /// The vifs that there are files of.
    [[nodiscard]] std::vector<VifId> vifs() const;

private:
    explicit JournalFolder(std::string path) : path_(std::move(path)) {}
    [[nodiscard]] std::string path_of(const VifId& vif, std::uint32_t queue) const;

    std::string path_;
};

}  // namespace uvif::netback
