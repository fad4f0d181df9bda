#include "server/log_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "core/files/durable_file.h"

namespace bitstair::server {

std::string LogStore::PathOf(const LogFile& file) const {
  return absl::StrCat(directory_, "/", file.job_id, "/", file.stage, "/", file.generation, ".", file.rank, ".log");
}

absl::Status LogStore::Append(const LogFile& file, int64_t offset, absl::string_view text) {
  if (offset < 0) return absl::InvalidArgumentError(absl::StrCat("log offset ", offset, " is negative"));
  if (offset >= kMaxBytes) return absl::OkStatus();
  text = text.substr(0, static_cast<size_t>(kMaxBytes - offset));
  const std::string path = PathOf(file);
  int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 && errno == ENOENT) {
    if (auto s = core::MakeWritableDirectory(path.substr(0, path.rfind('/'))); !s.ok()) return s;
    fd = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  }
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", path));
  const auto close_fd = absl::MakeCleanup([fd] { close(fd); });
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t put = pwrite(fd, text.data() + done, text.size() - done, offset + static_cast<int64_t>(done));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", path));
    done += static_cast<size_t>(put);
  }
  return absl::OkStatus();
}

absl::StatusOr<LogStore::Chunk> LogStore::Read(const LogFile& file, int64_t offset, size_t max_bytes) const {
  Chunk chunk;
  chunk.next_offset = offset;
  const std::string path = PathOf(file);
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT) return chunk;
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
  const auto close_fd = absl::MakeCleanup([fd] { close(fd); });
  while (chunk.text.empty()) {
    std::string bytes(max_bytes, '\0');
    const ssize_t got = pread(fd, bytes.data(), bytes.size(), chunk.next_offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
    if (got == 0) break;
    bytes.resize(static_cast<size_t>(got));
    chunk.next_offset += got;
    bytes.erase(std::remove(bytes.begin(), bytes.end(), '\0'), bytes.end());  // a gap reads as zeros
    chunk.text = std::move(bytes);
  }
  return chunk;
}

}  // namespace bitstair::server
