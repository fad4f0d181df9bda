// The default JobStore: one SQLite file, WAL, synchronous=FULL, one writer thread that puts waiting commits into one transaction (one fsync).
#pragma once

#include <sqlite3.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/job_store.h"

namespace bitstair::server {

class SqliteJobStore : public JobStore {
 public:
  // SQL that leads from schema version i to i + 1; the first makes an empty store. The schema version is the list's length.
  static const std::vector<std::string>& ReleasedSchema();

  struct Options {
    std::vector<std::string> schema = ReleasedSchema();
    // Called on the writer thread after each transaction: how long it took, and how many commits it held.
    std::function<void(double seconds, size_t commits)> observer;
  };

  // Opens or makes the store at `path`. A store of an older schema is copied to "PATH.vN.backup" first and then upgraded in one transaction.
  // Errors, each with the store unharmed: FAILED_PRECONDITION (written by a newer version; another program's database), DATA_LOSS (not a database, or damaged).
  static absl::StatusOr<std::unique_ptr<SqliteJobStore>> Open(const std::string& path, Options options);

  // Commits everything that waits, then closes.
  ~SqliteJobStore() override;

  absl::StatusOr<int64_t> TakeFence() override;
  void Commit(StoreCommit commit, CommitDone done) override;
  absl::StatusOr<int64_t> Load(const std::function<void(StoreEntry)>& entry) override;
  absl::Status WatchFrom(int64_t revision, std::function<void(const StoreChange&)> change) override;

 private:
  struct Waiting {
    StoreCommit commit;
    CommitDone done;
  };

  SqliteJobStore(std::string path, sqlite3* db, Options options);
  void WriterLoop();
  void CommitGroup(std::vector<Waiting> group);
  absl::StatusOr<int64_t> Apply(const StoreCommit& commit, std::vector<StoreChange>* changes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(db_mutex_);

  const std::string path_;
  const Options options_;

  absl::Mutex db_mutex_;  // the connection, held for whole transactions
  sqlite3* const db_ ABSL_PT_GUARDED_BY(db_mutex_);
  int64_t revision_ ABSL_GUARDED_BY(db_mutex_) = 0;
  int64_t fence_ ABSL_GUARDED_BY(db_mutex_) = 0;
  std::vector<std::function<void(const StoreChange&)>> watchers_ ABSL_GUARDED_BY(db_mutex_);

  absl::Mutex queue_mutex_;
  std::vector<Waiting> queue_ ABSL_GUARDED_BY(queue_mutex_);
  bool closing_ ABSL_GUARDED_BY(queue_mutex_) = false;
  std::thread writer_;
};

}  // namespace bitstair::server
