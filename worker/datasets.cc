#include "worker/datasets.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/digest/sha256.h"
#include "core/files/durable_file.h"

namespace bitstair::worker {
namespace {

namespace fs = std::filesystem;

constexpr char kDigestPrefix[] = "bitstair-dataset-v1\n";
// A file younger than this may change again without a new time stamp, so its digest is not remembered.
constexpr time_t kSettledSeconds = 2;

absl::StatusOr<std::string> RealPath(const std::string& what, const std::string& path) {
  char* resolved = realpath(path.c_str(), nullptr);
  if (resolved == nullptr) return absl::ErrnoToStatus(errno, absl::StrCat("cannot use ", what, " at ", path));
  std::string result = resolved;
  free(resolved);
  return result;
}

bool IsInside(const std::string& path, const std::string& folder) {
  return path == folder || absl::StartsWith(path, folder == "/" ? folder : folder + "/");
}

std::string Stamp(const struct stat& info) {
  return absl::StrCat(info.st_dev, ":", info.st_ino, ":", info.st_size, ":", info.st_mtim.tv_sec, ".", info.st_mtim.tv_nsec);
}

template <size_t size>
std::string Hex(const std::array<uint8_t, size>& bytes) {
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(bytes.data()), size));
}

// False, and nothing written, unless text is as many hex digits as bytes has room for.
template <size_t size>
bool FromHex(absl::string_view text, std::array<uint8_t, size>& bytes) {
  if (text.size() != 2 * size || !std::all_of(text.begin(), text.end(), [](char c) { return absl::ascii_isxdigit(static_cast<unsigned char>(c)); }))
    return false;
  const std::string raw = absl::HexStringToBytes(text);
  std::copy(raw.begin(), raw.end(), bytes.begin());
  return true;
}

// Messages that name a file are protobuf strings.
bool IsUtf8(absl::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const size_t length = lead < 0x80 ? 1 : lead >= 0xc2 && lead < 0xe0 ? 2 : lead >= 0xe0 && lead < 0xf0 ? 3 : lead >= 0xf0 && lead < 0xf5 ? 4 : 0;
    if (length == 0 || i + length > text.size()) return false;
    uint32_t point = length == 1 ? lead : lead & (0xffu >> (length + 1));
    for (size_t k = 1; k < length; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      if ((next & 0xc0) != 0x80) return false;
      point = point << 6 | (next & 0x3fu);
    }
    const bool too_long = (length == 3 && point < 0x800) || (length == 4 && point < 0x10000);
    if (too_long || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) return false;
    i += length;
  }
  return true;
}

std::array<uint8_t, 16> KeyOf(const std::string& path, const std::string& stamp) {
  std::array<uint8_t, 16> key{};
  FromHex(core::Sha256Hex(absl::StrCat(path, absl::string_view("\0", 1), stamp)).substr(0, 32), key);
  return key;
}

absl::Status CheckFolder(const std::string& flag, const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return absl::InvalidArgumentError(absl::StrCat(flag, ": cannot use ", path, ": ", std::string(strerror(errno))));
  if (!S_ISDIR(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(flag, ": ", path, " is not a folder"));
  return absl::OkStatus();
}

}  // namespace

Datasets::Datasets(DatasetOptions options) : options_(std::move(options)) {
  LoadCache();
}

absl::Status Datasets::Check() const {
  for (const auto& [name, path] : options_.named) {
    if (const absl::Status status = CheckFolder(absl::StrCat("--data ", name), path); !status.ok()) return status;
  }
  for (const std::string& root : options_.roots) {
    if (const absl::Status status = CheckFolder("--data-root", root); !status.ok()) return status;
  }
  return absl::OkStatus();
}

std::vector<std::string> Datasets::names() const {
  std::vector<std::string> result;
  for (const auto& entry : options_.named) result.push_back(entry.first);
  return result;
}

absl::StatusOr<std::string> Datasets::Locate(const v1::DataSpec& data) const {
  if (!data.name().empty()) {
    const auto found = options_.named.find(data.name());
    if (found == options_.named.end()) return absl::UnavailableError(absl::StrCat("data set \"", data.name(), "\" is not offered (--data NAME=PATH)"));
    return RealPath("data", found->second);
  }
  return LocateInRoots("data", data.path());
}

absl::StatusOr<std::string> Datasets::LocateInRoots(const std::string& what, const std::string& path) const {
  if (path.empty() || path[0] != '/') return absl::InvalidArgumentError(absl::StrCat(what, " path \"", path, "\" is not absolute"));
  if (path.find('\0') != std::string::npos) return absl::InvalidArgumentError(absl::StrCat("the ", what, " path has a NUL character"));
  // Whether a path outside the roots exists is not told.
  const std::string refusal = absl::StrCat(what, " path ", path, " is outside the allowed roots (",
                                           options_.roots.empty() ? "none is allowed; see --data-root" : absl::StrJoin(options_.roots, ", "), ")");
  const absl::StatusOr<std::string> real = RealPath(what, path);
  const std::string candidate = real.ok() ? *real : fs::path(path).lexically_normal().string();
  for (const std::string& root : options_.roots) {
    const absl::StatusOr<std::string> real_root = RealPath(what, root);
    if (IsInside(candidate, real_root.ok() ? *real_root : root) || (!real.ok() && IsInside(candidate, fs::path(root).lexically_normal().string()))) return real;
  }
  const std::string as_written = fs::path(path).lexically_normal().string();
  for (const std::string& root : options_.roots) {
    if (!IsInside(as_written, fs::path(root).lexically_normal().string())) continue;
    return absl::PermissionDeniedError(absl::StrCat(what, " path ", path, " leads out of the allowed roots (", absl::StrJoin(options_.roots, ", "), ")"));
  }
  return absl::UnavailableError(refusal);
}

absl::StatusOr<ResolvedDataset> Datasets::ResolveWeights(const std::string& path) {
  const absl::StatusOr<std::string> real = LocateInRoots("weights", path);
  if (!real.ok()) return real.status();
  if (!IsUtf8(*real)) return absl::InvalidArgumentError(absl::StrCat("a file's name is not UTF-8: ", absl::CHexEscape(*real)));
  struct stat info {};
  if (stat(real->c_str(), &info) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot look at ", *real));
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(*real, " is not a regular file"));
  const std::lock_guard<std::mutex> lock(mutex_);
  std::string size;
  const absl::StatusOr<std::string> digest = FileDigest(*real, &size);
  SaveCache();
  if (!digest.ok()) return digest.status();
  return ResolvedDataset{*real, *digest};
}

absl::StatusOr<ResolvedDataset> Datasets::Resolve(const v1::DataSpec& data) {
  absl::StatusOr<std::string> located = Locate(data);
  if (!located.ok()) return located.status();
  const std::string folder = *located;
  std::vector<std::string> allowed{folder};
  for (const std::string& root : options_.roots) {
    if (absl::StatusOr<std::string> real = RealPath("data", root); real.ok()) allowed.push_back(*real);
  }
  const bool named = !data.name().empty();  // its owner chose the folder, and so where its links lead

  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<std::string> files;  // relative paths
  std::error_code error;
  fs::recursive_directory_iterator walk(folder, error);
  for (; !error && walk != fs::recursive_directory_iterator(); walk.increment(error)) {
    const std::string path = walk->path().string();
    if (!IsUtf8(path)) return absl::InvalidArgumentError(absl::StrCat("a file's name is not UTF-8: ", absl::CHexEscape(path)));
    std::error_code unknown;
    bool is_folder = walk->is_directory(unknown), is_file = walk->is_regular_file(unknown);  // as the folder tells it, without a look at the file
    if (walk->is_symlink(unknown)) {
      struct stat info {};
      if (stat(path.c_str(), &info) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot look at ", path));
      const absl::StatusOr<std::string> real = RealPath("data", path);
      if (!real.ok()) return real.status();
      bool inside = named;
      for (const std::string& root : allowed) inside = inside || IsInside(*real, root);
      if (!inside) return absl::PermissionDeniedError(absl::StrCat(path, " is a symbolic link to ", *real, ", outside the allowed roots"));
      if (S_ISDIR(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(path, " is a symbolic link to a folder; only links to files are followed"));
      is_folder = false;
      is_file = S_ISREG(info.st_mode);
    }
    if (is_folder) continue;
    if (!is_file) return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
    files.push_back(path.substr(folder == "/" ? 1 : folder.size() + 1));
  }
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot list data folder ", folder));
  if (files.empty()) return absl::NotFoundError(absl::StrCat("data folder ", folder, " has no files"));

  std::sort(files.begin(), files.end());  // by bytes

  core::Sha256 whole;
  whole.Update(kDigestPrefix);
  for (const std::string& relative : files) {
    std::string size;
    const absl::StatusOr<std::string> digest =
        cancelled_ ? absl::CancelledError("the worker is leaving") : FileDigest(absl::StrCat(folder, "/", relative), &size);
    if (!digest.ok()) {
      SaveCache();  // hours may have gone into it
      return digest.status();
    }
    whole.Update(relative + '\0' + size + '\0' + *digest + '\n');
  }
  SaveCache();
  return ResolvedDataset{folder, whole.HexDigest()};
}

absl::StatusOr<std::string> Datasets::FileDigest(const std::string& path, std::string* size) {
  struct stat before {};
  if (stat(path.c_str(), &before) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot look at ", path));
  *size = absl::StrCat(before.st_size);
  const std::string stamp = Stamp(before);
  RememberedFile file{.key = KeyOf(path, stamp), .sha256 = {}};
  const auto found = std::lower_bound(remembered_.begin(), remembered_.end(), file);
  if (found != remembered_.end() && found->key == file.key) return Hex(found->sha256);
  const absl::StatusOr<core::FileDigest> digest = core::Sha256OfFile(path);
  if (!digest.ok()) return digest.status();
  struct stat after {};
  if (stat(path.c_str(), &after) != 0 || Stamp(after) != stamp || digest->size_bytes != before.st_size) {
    return absl::AbortedError(absl::StrCat(path, " changed while it was being read"));
  }
  if (time(nullptr) - before.st_mtim.tv_sec > kSettledSeconds) {
    FromHex(digest->sha256, file.sha256);
    new_files_.push_back(file);
  }
  return digest->sha256;
}

// One line per file: digest and key. A damaged line is passed over: the file is only read again.
void Datasets::LoadCache() {
  if (options_.cache_file.empty()) return;
  const absl::StatusOr<std::string> text = core::ReadFile(options_.cache_file);
  if (!text.ok()) return;
  for (const absl::string_view line : absl::StrSplit(*text, '\n')) {
    RememberedFile file{};
    const size_t space = line.find(' ');
    if (space == absl::string_view::npos || !FromHex(line.substr(0, space), file.sha256) || !FromHex(line.substr(space + 1), file.key)) continue;
    remembered_.push_back(file);
  }
  std::sort(remembered_.begin(), remembered_.end());
}

void Datasets::SaveCache() {
  if (new_files_.empty()) return;
  remembered_.insert(remembered_.end(), new_files_.begin(), new_files_.end());
  new_files_.clear();
  std::sort(remembered_.begin(), remembered_.end());
  if (options_.cache_file.empty()) return;
  std::string text;
  for (const RememberedFile& file : remembered_) absl::StrAppend(&text, Hex(file.sha256), " ", Hex(file.key), "\n");
  if (const absl::Status status = core::WriteFileDurably(options_.cache_file, text); !status.ok()) {
    spdlog::warn("cannot remember the digests of data files: {}", std::string(status.message()));
  }
}

}  // namespace bitstair::worker
