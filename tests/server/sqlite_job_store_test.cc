#include "server/sqlite_job_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <future>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/digest/sha256.h"
#include "core/files/durable_file.h"
#include "tests/support/temporary_directory.h"

namespace bitstair::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::unique_ptr<SqliteJobStore> OpenOrDie(const std::string& path, SqliteJobStore::Options options = {}) {
  auto store = SqliteJobStore::Open(path, std::move(options));
  EXPECT_TRUE(store.ok()) << store.status();
  return store.ok() ? *std::move(store) : nullptr;
}

absl::StatusOr<int64_t> CommitAndWait(JobStore* store, StoreCommit commit) {
  std::promise<absl::StatusOr<int64_t>> done;
  store->Commit(std::move(commit), [&](absl::StatusOr<int64_t> revision) { done.set_value(std::move(revision)); });
  return done.get_future().get();
}

std::vector<std::string> Contents(JobStore* store) {
  std::vector<std::string> all;
  const auto revision = store->Load([&](StoreEntry entry) { all.push_back(absl::StrCat(entry.key, "=", entry.value, "@", entry.revision)); });
  EXPECT_TRUE(revision.ok()) << revision.status();
  return all;
}

TEST(SqliteJobStoreTest, CommitsAreOrderedAndSurviveAReopen) {
  testing::TemporaryDirectory dir;
  {
    auto store = OpenOrDie(dir / "jobs.db");
    const int64_t fence = *store->TakeFence();
    EXPECT_EQ(*CommitAndWait(store.get(), {.puts = {{"b", "1"}, {"a", ""}}, .fence = fence}), 1);
    EXPECT_EQ(*CommitAndWait(store.get(), {.puts = {{"b", std::string("\0x", 2)}, {"c", "3"}}, .deletes = {"a"}, .fence = fence}), 2);
    EXPECT_EQ(*CommitAndWait(store.get(), {}), 2) << "an empty commit is a barrier only";
  }
  auto store = OpenOrDie(dir / "jobs.db");
  EXPECT_THAT(Contents(store.get()), ElementsAre(std::string("b=\0x@2", 6), "c=3@2"));
  EXPECT_EQ(*CommitAndWait(store.get(), {.puts = {{"d", "4"}}, .fence = *store->TakeFence()}), 3);
}

TEST(SqliteJobStoreTest, APreconditionThatDoesNotHoldRefusesTheWholeCommit) {
  testing::TemporaryDirectory dir;
  auto store = OpenOrDie(dir / "jobs.db");
  const int64_t fence = *store->TakeFence();
  ASSERT_TRUE(CommitAndWait(store.get(), {.preconditions = {{"a", 0}}, .puts = {{"a", "1"}}, .fence = fence}).ok());
  EXPECT_EQ(CommitAndWait(store.get(), {.preconditions = {{"a", 0}}, .puts = {{"a", "2"}, {"b", "2"}}, .fence = fence}).status().code(),
            absl::StatusCode::kAborted);
  EXPECT_EQ(CommitAndWait(store.get(), {.preconditions = {{"a", 9}}, .puts = {{"a", "2"}}, .fence = fence}).status().code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(CommitAndWait(store.get(), {.preconditions = {{"a", 1}, {"b", 0}}, .deletes = {"a"}, .fence = fence}).ok());
  EXPECT_TRUE(CommitAndWait(store.get(), {.preconditions = {{"a", 0}}, .puts = {{"a", "3"}}, .fence = fence}).ok()) << "a deleted key does not exist";
  EXPECT_THAT(Contents(store.get()), ElementsAre("a=3@3"));
}

TEST(SqliteJobStoreTest, AnEarlierFenceIsRefused) {
  testing::TemporaryDirectory dir;
  auto store = OpenOrDie(dir / "jobs.db");
  const int64_t first = *store->TakeFence(), second = *store->TakeFence();
  EXPECT_LT(first, second);
  EXPECT_EQ(CommitAndWait(store.get(), {.puts = {{"a", "1"}}, .fence = first}).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(CommitAndWait(store.get(), {.puts = {{"a", "1"}}, .fence = second}).ok());
}

TEST(SqliteJobStoreTest, TooLargeACommitIsRefused) {
  testing::TemporaryDirectory dir;
  auto store = OpenOrDie(dir / "jobs.db");
  StoreCommit many;
  for (int i = 0; i < 101; ++i) many.puts.push_back({absl::StrCat(i), "x"});
  EXPECT_EQ(CommitAndWait(store.get(), many).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CommitAndWait(store.get(), {.puts = {{"a", std::string(2 << 20, 'x')}}}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Contents(store.get()).empty());
}

TEST(SqliteJobStoreTest, WaitingCommitsShareATransaction) {
  testing::TemporaryDirectory dir;
  std::atomic<int> transactions = 0, commits = 0;
  std::promise<void> release;
  SqliteJobStore::Options options;
  options.observer = [&, released = release.get_future().share()](double, size_t count) {
    ++transactions;
    commits += static_cast<int>(count);
    if (transactions == 1) released.wait();  // the others gather meanwhile
  };
  auto store = OpenOrDie(dir / "jobs.db", std::move(options));
  const int64_t fence = *store->TakeFence();
  std::vector<int64_t> revisions;
  std::promise<void> all;
  for (int i = 0; i < 100; ++i) {
    store->Commit({.puts = {{absl::StrFormat("%03d", i), "x"}}, .fence = fence}, [&](absl::StatusOr<int64_t> revision) {
      revisions.push_back(*revision);
      if (revisions.size() == 100) all.set_value();
    });
  }
  release.set_value();
  all.get_future().wait();
  for (int i = 0; i < 100; ++i) EXPECT_EQ(revisions[i], i + 1);
  EXPECT_EQ(commits, 100);
  EXPECT_LE(transactions, 100);
  store.reset();
  EXPECT_LT(transactions, 100) << "at least some were grouped";
}

TEST(SqliteJobStoreTest, WatchersSeeWhatCameBeforeAndWhatComesAfter) {
  testing::TemporaryDirectory dir;
  std::vector<std::string> seen;
  {
    auto store = OpenOrDie(dir / "jobs.db");
    const int64_t fence = *store->TakeFence();
    ASSERT_TRUE(CommitAndWait(store.get(), {.puts = {{"a", "1"}, {"b", "1"}}, .fence = fence}).ok());
    ASSERT_TRUE(CommitAndWait(store.get(), {.puts = {{"c", "2"}}, .deletes = {"a"}, .fence = fence}).ok());
    ASSERT_TRUE(
        store
            ->WatchFrom(1,
                        [&](const StoreChange& c) { seen.push_back(absl::StrCat(c.key, c.value.has_value() ? "=" + *c.value : " deleted", "@", c.revision)); })
            .ok());
    EXPECT_THAT(seen, ElementsAre("a deleted@2", "c=2@2"));
    ASSERT_TRUE(CommitAndWait(store.get(), {.puts = {{"d", "3"}}, .fence = fence}).ok());
    EXPECT_THAT(seen, ElementsAre("a deleted@2", "c=2@2", "d=3@3"));
    EXPECT_EQ(store->WatchFrom(99, [](const StoreChange&) {}).code(), absl::StatusCode::kOutOfRange);
  }
  auto store = OpenOrDie(dir / "jobs.db");
  EXPECT_EQ(store->WatchFrom(1, [](const StoreChange&) {}).code(), absl::StatusCode::kOutOfRange) << "compacted when the store was opened";
  EXPECT_TRUE(store->WatchFrom(3, [](const StoreChange&) {}).ok());
}

// A child commits and says so; it is killed at a random time. Whatever it said is there.
TEST(SqliteJobStoreTest, NothingThatWasConfirmedIsLostByAKill) {
  for (int round = 0; round < 3; ++round) {
    testing::TemporaryDirectory dir;
    int fds[2];
    ASSERT_EQ(pipe(fds), 0);
    const pid_t child = fork();
    if (child == 0) {
      close(fds[0]);
      auto store = SqliteJobStore::Open(dir / "jobs.db", {});
      if (!store.ok()) _exit(1);
      const int64_t fence = *(*store)->TakeFence();
      for (int64_t i = 0;; ++i) {
        (*store)->Commit({.puts = {{absl::StrFormat("%08d", i), "x"}, {absl::StrFormat("twin%08d", i), "x"}}, .fence = fence},
                         [fd = fds[1], i](absl::StatusOr<int64_t> revision) {
                           if (revision.ok() && write(fd, &i, sizeof(i)) != sizeof(i)) _exit(2);
                         });
        if (i % 16 == 0) CommitAndWait(store->get(), {}).IgnoreError();
      }
    }
    close(fds[1]);
    int64_t confirmed = -1, value = 0;
    while (confirmed < 40 * (round + 1) && read(fds[0], &value, sizeof(value)) == sizeof(value)) confirmed = value;
    kill(child, SIGKILL);
    while (read(fds[0], &value, sizeof(value)) == sizeof(value)) confirmed = value;
    waitpid(child, nullptr, 0);
    close(fds[0]);
    ASSERT_GE(confirmed, 40);
    auto store = OpenOrDie(dir / "jobs.db");
    int64_t plain = 0, twins = 0;
    ASSERT_TRUE(store->Load([&](StoreEntry entry) { ++(entry.key[0] == 't' ? twins : plain); }).ok());
    EXPECT_GT(plain, confirmed);
    EXPECT_EQ(plain, twins) << "commits are all or nothing";
  }
}

TEST(SqliteJobStoreTest, AStoreOfANewerVersionIsRefusedUnharmed) {
  testing::TemporaryDirectory dir;
  SqliteJobStore::Options newer;
  newer.schema.push_back("CREATE TABLE future(x);");
  {
    auto store = OpenOrDie(dir / "jobs.db", newer);
    ASSERT_TRUE(CommitAndWait(store.get(), {.puts = {{"a", "1"}}, .fence = *store->TakeFence()}).ok());
  }
  const std::string before = core::Sha256OfFile(dir / "jobs.db")->sha256;
  const auto store = SqliteJobStore::Open(dir / "jobs.db", {});
  ASSERT_EQ(store.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(store.status().message()), HasSubstr("schema 2; this program knows up to 1"));
  EXPECT_EQ(core::Sha256OfFile(dir / "jobs.db")->sha256, before);
  EXPECT_THAT(Contents(OpenOrDie(dir / "jobs.db", newer).get()), ElementsAre("a=1@1"));
}

TEST(SqliteJobStoreTest, AnUpgradeMakesABackupFirst) {
  testing::TemporaryDirectory dir;
  {
    auto store = OpenOrDie(dir / "jobs.db");
    ASSERT_TRUE(CommitAndWait(store.get(), {.puts = {{"a", "1"}}, .fence = *store->TakeFence()}).ok());
  }
  SqliteJobStore::Options newer;
  newer.schema.push_back("UPDATE entries SET value = X'32' WHERE key = CAST('a' AS BLOB);");
  EXPECT_THAT(Contents(OpenOrDie(dir / "jobs.db", newer).get()), ElementsAre("a=2@1"));
  EXPECT_THAT(Contents(OpenOrDie(dir / "jobs.db.v1.backup").get()), ElementsAre("a=1@1"));
}

TEST(SqliteJobStoreTest, AFailedUpgradeChangesNothing) {
  testing::TemporaryDirectory dir;
  {
    auto store = OpenOrDie(dir / "jobs.db");
    ASSERT_TRUE(CommitAndWait(store.get(), {.puts = {{"a", "1"}}, .fence = *store->TakeFence()}).ok());
  }
  SqliteJobStore::Options broken;
  broken.schema.push_back("DELETE FROM entries; DROP TABLE nothing_like_this;");
  EXPECT_FALSE(SqliteJobStore::Open(dir / "jobs.db", broken).ok());
  EXPECT_THAT(Contents(OpenOrDie(dir / "jobs.db").get()), ElementsAre("a=1@1"));
}

// A store as version 0.1.0 writes it: it must open for ever.
TEST(SqliteJobStoreTest, TheFirstReleasedVersionOpens) {
  testing::TemporaryDirectory dir;
  const auto sql = core::ReadFile(absl::StrCat(BITSTAIR_FIXTURES, "/store_v1.sql"));
  ASSERT_TRUE(sql.ok()) << sql.status();
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open((dir / "jobs.db").c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db, sql->c_str(), nullptr, nullptr, nullptr), SQLITE_OK) << sqlite3_errmsg(db);
  sqlite3_close(db);
  auto store = OpenOrDie(dir / "jobs.db");
  ASSERT_NE(store, nullptr);
  EXPECT_THAT(Contents(store.get()), ElementsAre("event/j/00000001=e@1", "job/j=r@2"));
  EXPECT_EQ(*CommitAndWait(store.get(), {.puts = {{"x", "y"}}, .fence = *store->TakeFence()}), 3);
}

TEST(SqliteJobStoreTest, FilesThatAreNoStoreAreNamed) {
  testing::TemporaryDirectory dir;
  std::ofstream(dir / "text.db") << std::string(10000, 'x');
  auto store = SqliteJobStore::Open(dir / "text.db", {});
  EXPECT_EQ(store.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(store.status().message()), HasSubstr("text.db"));

  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open((dir / "other.db").c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db, "CREATE TABLE t(x)", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(db);
  EXPECT_EQ(SqliteJobStore::Open(dir / "other.db", {}).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(SqliteJobStore::Open(dir / "no/such/folder.db", {}).ok());
}

TEST(SqliteJobStoreTest, DamageIsFoundWhenOpening) {
  testing::TemporaryDirectory dir;
  {
    auto store = OpenOrDie(dir / "jobs.db");
    const int64_t fence = *store->TakeFence();
    for (int i = 0; i < 200; ++i) store->Commit({.puts = {{absl::StrCat("k", i), std::string(500, 'v')}}, .fence = fence}, nullptr);
  }
  std::filesystem::resize_file(dir / "jobs.db", std::filesystem::file_size(dir / "jobs.db") / 2);
  EXPECT_EQ(SqliteJobStore::Open(dir / "jobs.db", {}).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace bitstair::server
