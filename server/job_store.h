// Where jobs are durable. The coordinator holds all state in memory and reads from there; the store is for durability and takeover.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace bitstair::server {

// Keys are ordered bytes; values are bitstair.store.v1 messages:
//   job/ID -> JobRecord        stage/ID/NAME -> StageRecord
//   epoch/ID/NAME/00000001 -> EpochRecord        event/ID/00000001 -> EventRecord
//   worker/ID -> WorkerRecord
struct StoreEntry {
  std::string key;
  std::string value;
  int64_t revision = 0;  // of the commit that wrote it
};

struct StorePut {
  std::string key;
  std::string value;
};

// The entry must have exactly this revision; 0: it must not exist.
struct StorePrecondition {
  std::string key;
  int64_t revision = 0;
};

struct StoreCommit {
  std::vector<StorePrecondition> preconditions;
  std::vector<StorePut> puts;
  std::vector<std::string> deletes;
  int64_t fence = 0;  // from TakeFence
};

struct StoreChange {
  int64_t revision = 0;
  std::string key;
  std::optional<std::string> value;  // absent: deleted
};

class JobStore {
 public:
  // At most this many preconditions, puts and deletes together, and this many bytes of keys and values, in one commit.
  static constexpr size_t kMaxOperations = 100;
  static constexpr size_t kMaxCommitBytes = 1 << 20;

  using CommitDone = std::function<void(absl::StatusOr<int64_t> revision)>;

  virtual ~JobStore() = default;

  // Makes the caller the store's one writer: commits under an earlier fence fail from now on.
  virtual absl::StatusOr<int64_t> TakeFence() = 0;

  // All or nothing, durable before `done` is called with the commit's revision (each commit's is higher than the one before).
  // A commit without puts and deletes changes no revision; it is done after all commits before it. Commits take effect in the order of the calls.
  // Errors: ABORTED (a precondition does not hold), FAILED_PRECONDITION (fence), INVALID_ARGUMENT (limits), others from the storage; nothing was changed.
  // Thread-safe, does not block. `done` runs on a thread of the store and must not block or call back into the store other than Commit.
  virtual void Commit(StoreCommit commit, CommitDone done) = 0;

  // Calls `entry` for each entry in key order, on the caller's thread. Returns the store's revision.
  virtual absl::StatusOr<int64_t> Load(const std::function<void(StoreEntry)>& entry) = 0;

  // Calls `change` for every change after `revision`, in order: those so far before the call returns, later ones from a thread of the store until it is
  // destroyed. Several changes of one key before the call may show as the last one. OUT_OF_RANGE if `revision` was compacted.
  virtual absl::Status WatchFrom(int64_t revision, std::function<void(const StoreChange&)> change) = 0;
};

}  // namespace bitstair::server
