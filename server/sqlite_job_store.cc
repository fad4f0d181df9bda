#include "server/sqlite_job_store.h"

#include <sys/stat.h>

#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/files/durable_file.h"

namespace bitstair::server {
namespace {

constexpr int kApplicationId = 0x42535431;  // "BST1", in the file's header

absl::Status SqlError(sqlite3* db, const std::string& path, absl::string_view what) {
  const std::string message = absl::StrCat(what, " ", path, ": ", sqlite3_errmsg(db));
  switch (sqlite3_errcode(db) & 0xff) {
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
      return absl::DataLossError(message);
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(message);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return absl::UnavailableError(message);
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_READONLY:
      return absl::PermissionDeniedError(message);
    default:
      return absl::InternalError(message);
  }
}

class Statement {
 public:
  Statement(sqlite3* db, const char* sql) { sqlite3_prepare_v2(db, sql, -1, &statement_, nullptr); }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  Statement& Bind(int index, const std::string& text) {
    // An empty value is not a deleted one: bind_blob would make a null pointer NULL, bind_zeroblob does not.
    if (text.empty()) {
      sqlite3_bind_zeroblob(statement_, index, 0);
    } else {
      sqlite3_bind_blob64(statement_, index, text.data(), text.size(), SQLITE_TRANSIENT);
    }
    return *this;
  }
  Statement& Bind(int index, int64_t value) {
    sqlite3_bind_int64(statement_, index, value);
    return *this;
  }
  int Step() { return statement_ == nullptr ? SQLITE_ERROR : sqlite3_step(statement_); }
  int64_t Int(int column) { return sqlite3_column_int64(statement_, column); }
  bool IsNull(int column) { return sqlite3_column_type(statement_, column) == SQLITE_NULL; }
  std::string Bytes(int column) {
    const void* data = sqlite3_column_blob(statement_, column);
    return data == nullptr ? "" : std::string(static_cast<const char*>(data), sqlite3_column_bytes(statement_, column));
  }

 private:
  sqlite3_stmt* statement_ = nullptr;
};

absl::Status Execute(sqlite3* db, const std::string& path, const std::string& sql) {
  if (sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK) return SqlError(db, path, "cannot write to");
  return absl::OkStatus();
}

absl::StatusOr<int64_t> QueryInt(sqlite3* db, const std::string& path, const char* sql) {
  Statement statement(db, sql);
  if (statement.Step() != SQLITE_ROW) return SqlError(db, path, "cannot read");
  return statement.Int(0);
}

// Reads the schema version without writing; 0 for a store that is not there or empty.
absl::StatusOr<int64_t> CheckExisting(const std::string& path, int64_t known_version) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0 || info.st_size == 0) return 0;
  sqlite3* db = nullptr;
  const int opened = sqlite3_open_v2(path.c_str(), &db, SQLITE_OPEN_READONLY, nullptr);
  const auto close = absl::MakeCleanup([&] { sqlite3_close(db); });
  if (opened != SQLITE_OK) return SqlError(db, path, "cannot open");
  const auto version = QueryInt(db, path, "PRAGMA user_version");
  if (!version.ok()) return version.status();
  const auto id = QueryInt(db, path, "PRAGMA application_id");
  if (!id.ok()) return id.status();
  const auto tables = QueryInt(db, path, "SELECT count(*) FROM sqlite_master");
  if (!tables.ok()) return tables.status();
  if (*id != kApplicationId && (*id != 0 || *tables > 0)) return absl::FailedPreconditionError(absl::StrCat(path, " is a database of another program"));
  if (*version > known_version) {
    return absl::FailedPreconditionError(absl::StrCat(path, " was written by a newer version of Bitstair (schema ", *version, "; this program knows up to ",
                                                      known_version, "). Use that version, or another state folder"));
  }
  return version;
}

absl::Status BackUp(sqlite3* db, const std::string& path, const std::string& backup_path) {
  const std::string temporary = backup_path + ".tmp";
  remove(temporary.c_str());
  sqlite3* target = nullptr;
  if (sqlite3_open(temporary.c_str(), &target) != SQLITE_OK) {
    const absl::Status status = SqlError(target, temporary, "cannot write the backup");
    sqlite3_close(target);
    return status;
  }
  sqlite3_backup* backup = sqlite3_backup_init(target, "main", db, "main");
  const int stepped = backup == nullptr ? SQLITE_ERROR : sqlite3_backup_step(backup, -1);
  sqlite3_backup_finish(backup);
  absl::Status status = stepped == SQLITE_DONE ? absl::OkStatus() : SqlError(target, temporary, absl::StrCat("cannot back up ", path, " to"));
  sqlite3_close(target);
  return status.ok() ? core::PublishFile(temporary, backup_path) : status;
}

}  // namespace

const std::vector<std::string>& SqliteJobStore::ReleasedSchema() {
  // A row whose value is NULL is a deleted key, kept for watchers until the store is next opened.
  static const auto* const schema = new std::vector<std::string>{
      "CREATE TABLE entries(key BLOB PRIMARY KEY, value BLOB, revision INTEGER NOT NULL) WITHOUT ROWID;"
      "CREATE INDEX entries_by_revision ON entries(revision);"
      "CREATE TABLE meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
      "INSERT INTO meta VALUES('revision', 0), ('fence', 0), ('compacted', 0);"};
  return *schema;
}

absl::StatusOr<std::unique_ptr<SqliteJobStore>> SqliteJobStore::Open(const std::string& path, Options options) {
  const auto known = static_cast<int64_t>(options.schema.size());
  const auto version = CheckExisting(path, known);
  if (!version.ok()) return version.status();
  sqlite3* db = nullptr;
  const int opened = sqlite3_open_v2(path.c_str(), &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, nullptr);
  auto close = absl::MakeCleanup([&] { sqlite3_close(db); });
  if (opened != SQLITE_OK) return SqlError(db, path, "cannot open");
  sqlite3_busy_timeout(db, 5000);
  if (auto s = Execute(db, path, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"); !s.ok()) return s;
  if (*version > 0) {
    Statement check(db, "PRAGMA quick_check(1)");
    if (check.Step() != SQLITE_ROW) return SqlError(db, path, "cannot read");
    if (check.Bytes(0) != "ok") return absl::DataLossError(absl::StrCat(path, " is damaged: ", check.Bytes(0)));
  }
  if (*version < known) {
    if (*version > 0) {
      if (auto s = BackUp(db, path, absl::StrCat(path, ".v", *version, ".backup")); !s.ok()) return s;
    }
    std::string sql = "BEGIN IMMEDIATE;";
    for (int64_t i = *version; i < known; ++i) sql += options.schema[i];
    absl::StrAppend(&sql, "PRAGMA application_id=", kApplicationId, ";PRAGMA user_version=", known, ";COMMIT;");
    if (auto s = Execute(db, path, sql); !s.ok()) return s;
  }
  if (auto s = Execute(db, path,
                       "BEGIN IMMEDIATE; DELETE FROM entries WHERE value IS NULL;"
                       "UPDATE meta SET value = (SELECT value FROM meta WHERE name = 'revision') WHERE name = 'compacted'; COMMIT;");
      !s.ok()) {
    return s;
  }
  const auto revision = QueryInt(db, path, "SELECT value FROM meta WHERE name = 'revision'");
  if (!revision.ok()) return revision.status();
  const auto fence = QueryInt(db, path, "SELECT value FROM meta WHERE name = 'fence'");
  if (!fence.ok()) return fence.status();
  std::move(close).Cancel();
  auto store = std::unique_ptr<SqliteJobStore>(new SqliteJobStore(path, db, std::move(options)));
  {
    absl::MutexLock lock(&store->db_mutex_);
    store->revision_ = *revision;
    store->fence_ = *fence;
  }
  store->writer_ = std::thread([raw = store.get()] { raw->WriterLoop(); });
  return store;
}

SqliteJobStore::SqliteJobStore(std::string path, sqlite3* db, Options options) : path_(std::move(path)), options_(std::move(options)), db_(db) {}

SqliteJobStore::~SqliteJobStore() {
  {
    absl::MutexLock lock(&queue_mutex_);
    closing_ = true;
  }
  if (writer_.joinable()) writer_.join();
  absl::MutexLock lock(&db_mutex_);
  sqlite3_close(db_);
}

absl::StatusOr<int64_t> SqliteJobStore::TakeFence() {
  absl::MutexLock lock(&db_mutex_);
  if (auto s = Execute(db_, path_, absl::StrCat("UPDATE meta SET value = ", fence_ + 1, " WHERE name = 'fence'")); !s.ok()) return s;
  return ++fence_;
}

void SqliteJobStore::Commit(StoreCommit commit, CommitDone done) {
  absl::MutexLock lock(&queue_mutex_);
  queue_.push_back({std::move(commit), std::move(done)});
}

void SqliteJobStore::WriterLoop() {
  while (true) {
    std::vector<Waiting> group;
    {
      absl::MutexLock lock(&queue_mutex_);
      const auto something = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(queue_mutex_) { return closing_ || !queue_.empty(); };
      queue_mutex_.Await(absl::Condition(&something));
      if (queue_.empty()) return;
      group.swap(queue_);
    }
    CommitGroup(std::move(group));
  }
}

absl::StatusOr<int64_t> SqliteJobStore::Apply(const StoreCommit& commit, std::vector<StoreChange>* changes) {
  size_t bytes = 0;
  for (const auto& put : commit.puts) bytes += put.key.size() + put.value.size();
  if (commit.puts.size() + commit.deletes.size() + commit.preconditions.size() > kMaxOperations || bytes > kMaxCommitBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a commit of ", commit.puts.size() + commit.deletes.size(), " operations and ", bytes, " bytes is too large"));
  }
  if (commit.puts.empty() && commit.deletes.empty()) return revision_;
  if (commit.fence != fence_) {
    return absl::FailedPreconditionError(absl::StrCat("another coordinator has taken over ", path_, " (fence ", fence_, ", ours is ", commit.fence, ")"));
  }
  for (const auto& wanted : commit.preconditions) {
    Statement find(db_, "SELECT revision FROM entries WHERE key = ? AND value IS NOT NULL");
    const int step = find.Bind(1, wanted.key).Step();
    if (step != SQLITE_ROW && step != SQLITE_DONE) return SqlError(db_, path_, "cannot read");
    const int64_t found = step == SQLITE_ROW ? find.Int(0) : 0;
    if (found != wanted.revision) return absl::AbortedError(absl::StrCat(wanted.key, " has revision ", found, ", not ", wanted.revision));
  }
  const int64_t revision = revision_ + 1;
  for (const auto& put : commit.puts) {
    Statement write(db_, "INSERT OR REPLACE INTO entries VALUES(?, ?, ?)");
    if (write.Bind(1, put.key).Bind(2, put.value).Bind(3, revision).Step() != SQLITE_DONE) return SqlError(db_, path_, "cannot write to");
    changes->push_back({revision, put.key, put.value});
  }
  for (const auto& key : commit.deletes) {
    Statement erase(db_, "UPDATE entries SET value = NULL, revision = ? WHERE key = ?");
    if (erase.Bind(1, revision).Bind(2, key).Step() != SQLITE_DONE) return SqlError(db_, path_, "cannot write to");
    changes->push_back({revision, key, std::nullopt});
  }
  revision_ = revision;
  return revision;
}

void SqliteJobStore::CommitGroup(std::vector<Waiting> group) {
  const absl::Time start = absl::Now();
  std::vector<absl::StatusOr<int64_t>> results;
  {
    absl::MutexLock lock(&db_mutex_);
    std::vector<StoreChange> changes;
    const int64_t before = revision_;
    absl::Status status = Execute(db_, path_, "BEGIN IMMEDIATE");
    for (const auto& waiting : group) {
      if (!status.ok()) break;
      results.push_back(Apply(waiting.commit, &changes));
      const auto code = results.back().status().code();
      // Refused commits wrote nothing; a failing storage takes the whole group with it.
      const bool refused = code == absl::StatusCode::kAborted || code == absl::StatusCode::kFailedPrecondition || code == absl::StatusCode::kInvalidArgument;
      if (!results.back().ok() && !refused) status = results.back().status();
    }
    if (status.ok() && revision_ != before) status = Execute(db_, path_, absl::StrCat("UPDATE meta SET value = ", revision_, " WHERE name = 'revision'"));
    if (status.ok()) status = Execute(db_, path_, "COMMIT");
    if (!status.ok()) {
      sqlite3_exec(db_, "ROLLBACK", nullptr, nullptr, nullptr);
      revision_ = before;
      changes.clear();
      results.assign(group.size(), status);
    }
    for (const auto& change : changes) {
      for (const auto& watcher : watchers_) watcher(change);
    }
  }
  if (options_.observer) options_.observer(absl::ToDoubleSeconds(absl::Now() - start), group.size());
  for (size_t i = 0; i < group.size(); ++i) {
    if (group[i].done) group[i].done(std::move(results[i]));
  }
}

absl::StatusOr<int64_t> SqliteJobStore::Load(const std::function<void(StoreEntry)>& entry) {
  absl::MutexLock lock(&db_mutex_);
  Statement all(db_, "SELECT key, value, revision FROM entries WHERE value IS NOT NULL ORDER BY key");
  int step;
  while ((step = all.Step()) == SQLITE_ROW) entry({all.Bytes(0), all.Bytes(1), all.Int(2)});
  if (step != SQLITE_DONE) return SqlError(db_, path_, "cannot read");
  return revision_;
}

absl::Status SqliteJobStore::WatchFrom(int64_t revision, std::function<void(const StoreChange&)> change) {
  absl::MutexLock lock(&db_mutex_);
  const auto compacted = QueryInt(db_, path_, "SELECT value FROM meta WHERE name = 'compacted'");
  if (!compacted.ok()) return compacted.status();
  if (revision < *compacted || revision > revision_) {
    return absl::OutOfRangeError(absl::StrCat("changes are known from revision ", *compacted, " to ", revision_, ", not from ", revision));
  }
  Statement since(db_, "SELECT revision, key, value FROM entries WHERE revision > ? ORDER BY revision, key");
  since.Bind(1, revision);
  int step;
  while ((step = since.Step()) == SQLITE_ROW) {
    change({since.Int(0), since.Bytes(1), since.IsNull(2) ? std::nullopt : std::optional<std::string>(since.Bytes(2))});
  }
  if (step != SQLITE_DONE) return SqlError(db_, path_, "cannot read");
  watchers_.push_back(std::move(change));
  return absl::OkStatus();
}

}  // namespace bitstair::server
