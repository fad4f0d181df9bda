#include "server/artifact_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/files/durable_file.h"

namespace bitstair::server {
namespace {

int64_t FileSize(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) ? info.st_size : -1;
}

absl::Status CheckName(const std::string& sha256) {
  if (core::IsSha256Hex(sha256)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("\"", sha256.substr(0, 80), "\" is not a SHA-256 (64 lower-case hex digits)"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ArtifactStore>> ArtifactStore::Open(const std::string& directory) {
  for (const char* part : {"/sha256", "/partial", "/damaged"}) {
    if (auto s = core::MakeWritableDirectory(directory + part); !s.ok()) return s;
  }
  return std::unique_ptr<ArtifactStore>(new ArtifactStore(directory));
}

std::string ArtifactStore::WholePath(const std::string& sha256) const {
  return absl::StrCat(directory_, "/sha256/", sha256.substr(0, 2), "/", sha256);
}
std::string ArtifactStore::PartialPath(const std::string& sha256) const {
  return absl::StrCat(directory_, "/partial/", sha256);
}

bool ArtifactStore::LookAt(const std::string& path, Version* version) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return false;
  *version = {.inode = info.st_ino, .size = info.st_size, .modified_nanoseconds = info.st_mtim.tv_sec * 1'000'000'000 + info.st_mtim.tv_nsec};
  return true;
}

int64_t ArtifactStore::CheckedSize(const std::string& sha256) {
  const std::string path = WholePath(sha256);
  Version version;
  if (!LookAt(path, &version)) return -1;
  {
    absl::MutexLock lock(&mutex_);
    const auto checked = checked_.find(sha256);
    if (checked != checked_.end() && checked->second == version) return version.size;
  }
  const absl::StatusOr<core::FileDigest> digest = core::Sha256OfFile(path);
  if (!digest.ok()) return -1;
  if (digest->sha256 != sha256) {
    spdlog::error("artifact {} is damaged (its bytes have SHA-256 {}); put aside in {}/damaged", sha256, digest->sha256, directory_);
    if (rename(path.c_str(), absl::StrCat(directory_, "/damaged/", sha256).c_str()) != 0) unlink(path.c_str());
    return -1;
  }
  absl::MutexLock lock(&mutex_);
  checked_[sha256] = version;
  return version.size;
}

ArtifactStore::Upload::~Upload() {
  if (fd_ >= 0) close(fd_);
  absl::MutexLock lock(&store_->mutex_);
  store_->uploading_.erase(sha256_);
}

absl::Status ArtifactStore::Upload::Append(absl::string_view bytes) {
  if (static_cast<int64_t>(bytes.size()) > size_ - received_) {
    return absl::OutOfRangeError(absl::StrCat("artifact ", sha256_, " has more than the ", size_, " bytes announced"));
  }
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t put = pwrite(fd_, bytes.data() + done, bytes.size() - done, received_ + static_cast<int64_t>(done));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0 && (errno == ENOSPC || errno == EDQUOT)) return absl::ResourceExhaustedError(absl::StrCat("no space left for artifact ", sha256_));
    if (put < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot write artifact ", sha256_));
    done += static_cast<size_t>(put);
  }
  digest_.Update(bytes);
  received_ += static_cast<int64_t>(bytes.size());
  return absl::OkStatus();
}

absl::Status ArtifactStore::Upload::Finish() {
  if (received_ < size_) return absl::OutOfRangeError(absl::StrCat("artifact ", sha256_, " ended after ", received_, " of ", size_, " bytes"));
  const std::string found = digest_.HexDigest();
  const std::string partial = store_->PartialPath(sha256_);
  if (found != sha256_) {
    unlink(partial.c_str());
    return absl::DataLossError(absl::StrCat("artifact ", sha256_, " arrived with other bytes: their SHA-256 is ", found));
  }
  const std::string whole = store_->WholePath(sha256_);
  if (auto s = core::MakeWritableDirectory(whole.substr(0, whole.rfind('/'))); !s.ok()) return s;
  {
    absl::MutexLock lock(&store_->mutex_);
    store_->used_[sha256_] = absl::Now();
  }
  if (auto s = core::PublishFile(partial, whole); !s.ok()) return s;
  Version version;
  if (LookAt(whole, &version)) {
    absl::MutexLock lock(&store_->mutex_);
    store_->checked_[sha256_] = version;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ArtifactStore::Upload>> ArtifactStore::BeginUpload(const std::string& sha256, int64_t size_bytes, int64_t offset) {
  if (auto s = CheckName(sha256); !s.ok()) return s;
  if (size_bytes < 0 || size_bytes > kMaxBytes) return absl::InvalidArgumentError(absl::StrCat("size_bytes is ", size_bytes, "; must be 0 to ", kMaxBytes));
  if (IsWhole(sha256)) return nullptr;
  {
    absl::MutexLock lock(&mutex_);
    if (!uploading_.insert(sha256).second) return absl::AbortedError(absl::StrCat("another upload of artifact ", sha256, " is under way"));
  }
  std::unique_ptr<Upload> upload(new Upload(this, sha256, size_bytes));
  const std::string path = PartialPath(sha256);
  const int64_t held = std::max<int64_t>(0, FileSize(path));
  if (offset < 0 || offset > held || offset > size_bytes) {
    return absl::OutOfRangeError(absl::StrCat("offset is ", offset, ", but ", held, " bytes of artifact ", sha256, " are held"));
  }
  upload->fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (upload->fd_ < 0 || ftruncate(upload->fd_, offset) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", path));
  std::string buffer(1 << 20, '\0');
  while (upload->received_ < offset) {
    const size_t wanted = std::min<int64_t>(static_cast<int64_t>(buffer.size()), offset - upload->received_);
    const ssize_t got = pread(upload->fd_, buffer.data(), wanted, upload->received_);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return absl::ErrnoToStatus(got < 0 ? errno : EIO, absl::StrCat("cannot read ", path));
    upload->digest_.Update(absl::string_view(buffer.data(), static_cast<size_t>(got)));
    upload->received_ += got;
  }
  return upload;
}

absl::StatusOr<v1::Artifact> ArtifactStore::Find(const std::string& sha256) {
  if (auto s = CheckName(sha256); !s.ok()) return s;
  v1::Artifact artifact;
  artifact.set_sha256(sha256);
  if (const int64_t size = CheckedSize(sha256); size >= 0) {
    absl::MutexLock lock(&mutex_);
    used_[sha256] = absl::Now();
    artifact.set_size_bytes(size);
    artifact.set_received_bytes(size);
    artifact.set_complete(true);
    return artifact;
  }
  const int64_t held = FileSize(PartialPath(sha256));
  if (held < 0) return absl::NotFoundError(absl::StrCat("no artifact ", sha256));
  artifact.set_received_bytes(held);
  return artifact;
}

bool ArtifactStore::IsWhole(const std::string& sha256) {
  return core::IsSha256Hex(sha256) && CheckedSize(sha256) >= 0;
}

absl::StatusOr<std::string> ArtifactStore::Read(const std::string& sha256, int64_t offset, size_t max_bytes) {
  if (auto s = CheckName(sha256); !s.ok()) return s;
  if (offset == 0 && CheckedSize(sha256) < 0) return absl::NotFoundError(absl::StrCat("no whole artifact ", sha256));
  const std::string path = WholePath(sha256);
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return errno == ENOENT ? absl::NotFoundError(absl::StrCat("no whole artifact ", sha256)) : absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
  }
  const auto close_fd = absl::MakeCleanup([fd] { close(fd); });
  struct stat info {};
  if (fstat(fd, &info) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
  if (offset < 0 || offset > info.st_size)
    return absl::OutOfRangeError(absl::StrCat("offset ", offset, " is outside artifact ", sha256, " of ", info.st_size, " bytes"));
  std::string bytes(std::min<int64_t>(static_cast<int64_t>(max_bytes), info.st_size - offset), '\0');
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = pread(fd, bytes.data() + done, bytes.size() - done, offset + static_cast<int64_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return absl::ErrnoToStatus(got < 0 ? errno : EIO, absl::StrCat("cannot read ", path));
    done += static_cast<size_t>(got);
  }
  return bytes;
}

bool ArtifactStore::Remove(const std::string& sha256, absl::Time unless_used_since) {
  if (!core::IsSha256Hex(sha256)) return false;
  absl::MutexLock lock(&mutex_);
  const auto used = used_.find(sha256);
  if (used != used_.end() && used->second > unless_used_since) return false;
  if (used != used_.end()) used_.erase(used);
  if (uploading_.count(sha256) > 0) return false;
  checked_.erase(sha256);
  const auto remove = [](const std::string& path) { return unlink(path.c_str()) == 0 || errno == ENOENT; };
  return remove(WholePath(sha256)) && remove(PartialPath(sha256));
}

absl::StatusOr<std::vector<StoredBlob>> ArtifactStore::List() const {
  namespace fs = std::filesystem;
  std::vector<StoredBlob> blobs;
  std::error_code error;
  for (const auto& [folder, whole] : {std::make_pair("sha256", true), std::make_pair("partial", false)}) {
    for (fs::recursive_directory_iterator it(directory_ + "/" + folder, error), end; !error && it != end; it.increment(error)) {
      struct stat info {};
      // One that has gone meanwhile is not there.
      if (!core::IsSha256Hex(it->path().filename().string()) || stat(it->path().c_str(), &info) != 0 || !S_ISREG(info.st_mode)) continue;
      blobs.push_back({it->path().filename().string(), info.st_size, absl::TimeFromTimespec(info.st_mtim), whole});
    }
    if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot read ", directory_, "/", folder));
  }
  return blobs;
}

}  // namespace bitstair::server
