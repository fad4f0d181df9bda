#include "core/files/durable_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "absl/strings/str_cat.h"

namespace bitstair::core {
namespace {

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

absl::Status Error(absl::string_view what, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot ", what, " ", path));
}

absl::Status SyncFolderOf(const std::string& path) {
  std::string folder = std::filesystem::path(path).parent_path().string();
  if (folder.empty()) folder = ".";
  const Fd fd(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0 || fsync(fd.get()) != 0) return Error("sync folder", folder);
  return absl::OkStatus();
}

absl::Status RenameAndSync(const std::string& temporary, const std::string& path) {
  if (rename(temporary.c_str(), path.c_str()) != 0) return Error("rename to", path);
  return SyncFolderOf(path);
}

}  // namespace

absl::Status WriteFileDurably(const std::string& path, absl::string_view bytes) {
  static std::atomic<int> counter{0};
  const std::string temporary = absl::StrCat(path, ".", getpid(), ".", counter++, ".tmp");
  {
    const Fd fd(open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (fd.get() < 0) return Error("create", temporary);
    while (!bytes.empty()) {
      const ssize_t put = write(fd.get(), bytes.data(), bytes.size());
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) {
        const absl::Status status = Error("write", temporary);
        unlink(temporary.c_str());
        return status;
      }
      bytes.remove_prefix(static_cast<size_t>(put));
    }
    if (fsync(fd.get()) != 0) {
      const absl::Status status = Error("sync", temporary);
      unlink(temporary.c_str());
      return status;
    }
  }
  const absl::Status status = RenameAndSync(temporary, path);
  if (!status.ok()) unlink(temporary.c_str());
  return status;
}

absl::Status PublishFile(const std::string& temporary, const std::string& path) {
  {
    const Fd fd(open(temporary.c_str(), O_RDONLY | O_CLOEXEC));
    if (fd.get() < 0 || fsync(fd.get()) != 0) return Error("sync", temporary);
  }
  return RenameAndSync(temporary, path);
}

absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes) {
  const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return Error("open", path);
  std::string bytes;
  std::string buffer(1 << 16, '\0');
  while (true) {
    const ssize_t got = read(fd.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Error("read", path);
    if (got == 0) return bytes;
    if (bytes.size() + static_cast<size_t>(got) > max_bytes) return absl::OutOfRangeError(absl::StrCat(path, " is longer than ", max_bytes, " bytes"));
    bytes.append(buffer.data(), static_cast<size_t>(got));
  }
}

absl::Status MakeWritableDirectory(const std::string& path) {
  std::filesystem::path made;
  for (const auto& part : std::filesystem::path(path)) {
    made /= part;
    if (mkdir(made.c_str(), 0700) != 0 && errno != EEXIST) return Error("make folder", made.string());
  }
  if (access(path.c_str(), W_OK | X_OK) != 0) return Error("write to folder", path);
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return Error("look at", path);
  if (!S_ISDIR(info.st_mode)) return absl::FailedPreconditionError(absl::StrCat(path, " is not a folder"));
  return absl::OkStatus();
}

Disk DiskOf(const std::string& path) {
  struct statvfs info {};
  if (statvfs(path.c_str(), &info) != 0) return {};
  const auto block = static_cast<int64_t>(info.f_frsize);
  return {block * static_cast<int64_t>(info.f_blocks), block * static_cast<int64_t>(info.f_bavail)};
}

}  // namespace bitstair::core
