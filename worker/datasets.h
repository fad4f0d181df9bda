// The data sets that this worker offers, the files of weights inside its roots, and their digests.
#pragma once

#include <array>
#include <atomic>
#include <compare>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bitstair/v1/job.pb.h"

namespace bitstair::worker {

struct DatasetOptions {
  // Name -> folder, as `--data NAME=PATH` gives them.
  std::map<std::string, std::string> named;
  // A recipe's plain path must lie inside one of these folders.
  std::vector<std::string> roots;
  // Digests of files are remembered here, by path, device, inode, size and modification time. Empty: not at all.
  std::string cache_file;
};

struct ResolvedDataset {
  std::string path;    // absolute, symbolic links resolved
  std::string digest;  // 64 hex digits
};

// Thread-safe; Resolve may read many gigabytes, so it is called off the strand. A file that it has seen takes 48 bytes of memory: 62 MB for ImageNet.
class Datasets {
 public:
  explicit Datasets(DatasetOptions options);

  // INVALID_ARGUMENT, naming flag and path, where an offered folder or a root is missing.
  absl::Status Check() const;

  std::vector<std::string> names() const;

  // Where the data lies. UNAVAILABLE: this worker does not offer it (unknown name, or a path outside the roots). PERMISSION_DENIED: a path inside a root that
  // leads out of it by a link. Another error: it is offered, and faulty.
  absl::StatusOr<std::string> Locate(const v1::DataSpec& data) const;

  // Locates, then computes the digest: SHA-256 of "bitstair-dataset-v1\n" and, for each file in byte order of its relative path, path, NUL, size in decimal,
  // NUL, SHA-256 of its bytes in hex, newline. Symbolic links to files count as the files; one that leads out of the roots, a special file, a name that is not
  // UTF-8, an empty folder or a file that changes meanwhile is an error that names it.
  absl::StatusOr<ResolvedDataset> Resolve(const v1::DataSpec& data);

  // The same for one file of weights, given by its path: absolute, and inside a root. The digest is SHA-256 of its bytes. Errors as by Resolve.
  absl::StatusOr<ResolvedDataset> ResolveWeights(const std::string& path);

  // Makes Resolve, now and later, end with CANCELLED at the next file.
  void Cancel() { cancelled_ = true; }

 private:
  struct RememberedFile {
    std::array<uint8_t, 16> key;  // of SHA-256 of path and stamp (device, inode, size, modification time), so that paths need not be kept
    std::array<uint8_t, 32> sha256;
    std::strong_ordering operator<=>(const RememberedFile& other) const { return key <=> other.key; }
  };
  // Symbolic links resolved. `what`: "data", for messages.
  absl::StatusOr<std::string> LocateInRoots(const std::string& what, const std::string& path) const;
  absl::StatusOr<std::string> FileDigest(const std::string& path, std::string* size);
  void LoadCache();
  void SaveCache();

  const DatasetOptions options_;
  std::atomic<bool> cancelled_{false};
  std::mutex mutex_;                        // held over a whole Resolve: one reader of the disk at a time
  std::vector<RememberedFile> remembered_;  // sorted
  std::vector<RememberedFile> new_files_;   // not yet among them
};

}  // namespace bitstair::worker
