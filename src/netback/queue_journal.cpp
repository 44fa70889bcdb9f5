// SPDX-License-Identifier: MIT
#include "netback/queue_journal.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "runtime/describe_error.hpp"
#include "runtime/limits.hpp"
#include "runtime/printable.hpp"
#include "runtime/unique_fd.hpp"
#include "xen/store_path.hpp"

namespace uvif::netback {
namespace {

using Line = std::array<char, 512>;

std::string name_of(const VifId& vif) {
    return fmt::format("vif{}.{}", std::to_underlying(vif.domain), vif.handle);
}

/// The number is that of the file's layout.
constexpr std::string_view what_it_is = "uvif-netback journal 1:";

Line first_line(const QueueIdentity& identity) {
    const std::string text =
        fmt::format("{} {} queue {} of guest {}, rings {} and {}, event channels {} and {}\n", what_it_is,
                    name_of(identity.vif), identity.queue, printable(identity.guest, 64),
                    std::to_underlying(identity.keys.tx_ring), std::to_underlying(identity.keys.rx_ring),
                    std::to_underlying(identity.keys.tx_event), std::to_underlying(identity.keys.rx_event));
    Line line{};
    std::copy_n(text.begin(), std::min(text.size(), line.size() - 1), line.begin());
    return line;
}

std::string_view text_of(const Line& line) {
    const std::string_view whole(line.data(), line.size());
    return whole.substr(0, whole.find_first_of(std::string_view("\n\0", 2)));
}

}  // namespace

QueueJournal::~QueueJournal() {
    ::munmap(sheet_, sizeof(Sheet));
}

Result<std::unique_ptr<QueueJournal>> QueueJournal::map(int fd, bool inherited) {
    // Populated: the first packets do not wait for its pages.
    void* const at = ::mmap(nullptr, sizeof(Sheet), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (at == MAP_FAILED) {
        return fail(errno, describe_error(errno));
    }
    return std::unique_ptr<QueueJournal>(new QueueJournal(static_cast<Sheet*>(at), inherited));
}

Result<JournalFolder> JournalFolder::open(std::string path) {
    int error = ::mkdir(path.c_str(), 0700) == 0 || errno == EEXIST ? 0 : errno;
    if (error == 0) {
        const UniqueFd folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        error = folder && ::faccessat(folder.get(), ".", R_OK | W_OK | X_OK, AT_EACCESS) == 0 ? 0 : errno;
    }
    if (error != 0) {
        return fail(error, fmt::format("cannot use {} as the folder for the journals of vifs: {}; run as root, remove "
                                       "what stands there, or make the folder around it writable",
                                       path, describe_error(error)));
    }
    return JournalFolder(std::move(path));
}

std::string JournalFolder::path_of(const VifId& vif, std::uint32_t queue) const {
    return fmt::format("{}/{}-{}", path_, name_of(vif), queue);
}

Result<std::unique_ptr<QueueJournal>> JournalFolder::create(const QueueIdentity& identity) const {
    const std::string path = path_of(identity.vif, identity.queue);
    ::unlink(path.c_str());
    const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    // Taken now, or a full file system would end the daemon with a signal at some packet.
    const int error = !fd ? errno : ::posix_fallocate(fd.get(), 0, sizeof(QueueJournal::Sheet));
    if (error != 0) {
        ::unlink(path.c_str());
        return fail(error, fmt::format("cannot make the journal {}: {}", path, describe_error(error)));
    }
    auto journal = QueueJournal::map(fd.get(), false);
    if (!journal) {
        ::unlink(path.c_str());
        return fail(journal.error().code, fmt::format("cannot map the journal {}: {}", path, journal.error().message));
    }
    // QueuePair begins both before it consumes anything; until then they say that nothing is owed of rings at 0.
    (*journal)->sheet_->identity = first_line(identity);
    return journal;
}

Result<std::unique_ptr<QueueJournal>> JournalFolder::inherit(const QueueIdentity& identity) const {
    const std::string path = path_of(identity.vif, identity.queue);
    const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    if (!fd) {
        return fail(errno, fmt::format("cannot open the journal {}: {}", path, describe_error(errno)));
    }
    struct stat file{};
    if (::fstat(fd.get(), &file) != 0 || !S_ISREG(file.st_mode) || file.st_size != sizeof(QueueJournal::Sheet)) {
        return fail(EINVAL, fmt::format("{} is no journal of this version: it is no file of {} octets", path,
                                        sizeof(QueueJournal::Sheet)));
    }
    auto journal = QueueJournal::map(fd.get(), true);
    if (!journal) {
        return fail(journal.error().code, fmt::format("cannot map the journal {}: {}", path, journal.error().message));
    }
    const Line expected = first_line(identity);
    const Line& found = (*journal)->sheet_->identity;
    if (!text_of(found).starts_with(what_it_is)) {
        return fail(EINVAL,
                    fmt::format("{} is no journal of this version: it does not begin with \"{}\"", path, what_it_is));
    }
    if (found != expected) {
        return fail(ESTALE, fmt::format("{} is another connection's journal, \"{}\", not \"{}\"", path,
                                        printable(text_of(found), 256), text_of(expected)));
    }
    return journal;
}

void JournalFolder::remove(const VifId& vif) const noexcept {
    for (std::uint32_t queue = 0; queue < limits::queues_per_vif; ++queue) {
        ::unlink(path_of(vif, queue).c_str());
    }
}

std::vector<VifId> JournalFolder::vifs() const {
    std::vector<VifId> vifs;
    DIR* const folder = ::opendir(path_.c_str());
    for (const dirent* entry = nullptr; folder != nullptr && (entry = ::readdir(folder)) != nullptr;) {
        const std::string_view name = entry->d_name;
        const std::size_t dot = name.find('.');
        const std::size_t dash = name.find('-');
        if (!name.starts_with("vif") || dot == std::string_view::npos || dash == std::string_view::npos || dash < dot) {
            continue;
        }
        const auto domain = xen::parse_decimal(name.substr(3, dot - 3), 0xffff);
        const auto handle = xen::parse_decimal(name.substr(dot + 1, dash - dot - 1));
        if (domain && handle) {
            vifs.push_back({xen::DomainId{static_cast<std::uint16_t>(*domain)}, *handle});
        }
    }
    if (folder != nullptr) {
        ::closedir(folder);
    }
    return vifs;
}

}  // namespace uvif::netback
