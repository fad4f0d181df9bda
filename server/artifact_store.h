// Blobs addressed by the SHA-256 of their bytes, in a folder:  DIR/sha256/ab/abcd...  whole ones, DIR/partial/abcd...  uploads that are not whole,
// DIR/damaged/abcd...  blobs whose bytes changed on the disk: they count as absent, so that the next upload brings them back.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "bitstair/v1/artifacts.pb.h"
#include "core/digest/sha256.h"

namespace bitstair::server {

// A file of the store.
struct StoredBlob {
  std::string sha256;
  int64_t size_bytes = 0;
  absl::Time modified;
  bool whole = true;  // else an upload that is not
};

// Thread-safe. Calls that name a blob refuse anything but 64 lower-case hex digits with INVALID_ARGUMENT.
class ArtifactStore {
 public:
  static constexpr int64_t kMaxBytes = int64_t{64} << 30;

  static absl::StatusOr<std::unique_ptr<ArtifactStore>> Open(const std::string& directory);

  // One upload under way; the blob's only one. What was appended stays for a later resume if it is destroyed before Finish.
  class Upload {
   public:
    ~Upload();
    // OUT_OF_RANGE beyond the announced size; RESOURCE_EXHAUSTED when the disk is full.
    absl::Status Append(absl::string_view bytes);
    // Checks size and digest, makes the blob durable. OUT_OF_RANGE: bytes are missing (the upload can be resumed). DATA_LOSS: other bytes than announced (it
    // cannot).
    absl::Status Finish();

   private:
    friend class ArtifactStore;
    Upload(ArtifactStore* store, std::string sha256, int64_t size) : store_(store), sha256_(std::move(sha256)), size_(size) {}
    ArtifactStore* const store_;
    const std::string sha256_;
    const int64_t size_;
    int64_t received_ = 0;
    int fd_ = -1;
    core::Sha256 digest_;
  };

  // Starts or resumes at `offset`, which is at most the bytes held (GetArtifact's received_bytes); reads these once more for the digest.
  // Null if the blob is whole already. ABORTED: another upload of it is under way. Must not outlive the store.
  absl::StatusOr<std::unique_ptr<Upload>> BeginUpload(const std::string& sha256, int64_t size_bytes, int64_t offset);

  // NOT_FOUND if nothing of it is held. Counts as a use. Reads a whole blob that was not checked yet, or that changed since.
  absl::StatusOr<v1::Artifact> Find(const std::string& sha256);
  bool IsWhole(const std::string& sha256);

  // Up to max_bytes from `offset`; empty at the end. NOT_FOUND, OUT_OF_RANGE.
  absl::StatusOr<std::string> Read(const std::string& sha256, int64_t offset, size_t max_bytes);

  const std::string& directory() const { return directory_; }

  // All files of the store, whole and not, as they lie there; their bytes are not read. From any thread.
  absl::StatusOr<std::vector<StoredBlob>> List() const;

  // Deletes a blob, whole or not, unless it was used after `unless_used_since` or is being uploaded. Returns whether it is gone.
  bool Remove(const std::string& sha256, absl::Time unless_used_since);

 private:
  explicit ArtifactStore(std::string directory) : directory_(std::move(directory)) {}
  std::string WholePath(const std::string& sha256) const;
  std::string PartialPath(const std::string& sha256) const;
  // Its size if it is whole and its bytes have that digest, else -1 (a damaged one is put aside).
  int64_t CheckedSize(const std::string& sha256);

  // Of a file whose digest was checked: it is read again once one of these differs.
  struct Version {
    uint64_t inode = 0;
    int64_t size = 0;
    int64_t modified_nanoseconds = 0;
    bool operator==(const Version&) const = default;
  };
  static bool LookAt(const std::string& path, Version* version);

  const std::string directory_;
  absl::Mutex mutex_;
  std::set<std::string> uploading_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, absl::Time> used_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, Version> checked_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bitstair::server
