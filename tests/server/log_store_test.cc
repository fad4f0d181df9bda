#include "server/log_store.h"

#include <gtest/gtest.h>

#include "tests/support/temporary_directory.h"

namespace bitstair::server {
namespace {

TEST(LogStoreTest, ChunksMayComeTwice) {
  testing::TemporaryDirectory dir;
  LogStore logs(dir / "logs");
  const LogFile file{"job", "W4A4", 2, 1};
  EXPECT_EQ(logs.Read(file, 0, 100)->text, "") << "no log yet";
  ASSERT_TRUE(logs.Append(file, 0, "one\n").ok());
  ASSERT_TRUE(logs.Append(file, 4, "two\n").ok());
  ASSERT_TRUE(logs.Append(file, 0, "one\n").ok());
  EXPECT_EQ(logs.Read(file, 0, 100)->text, "one\ntwo\n");
  EXPECT_EQ(logs.Read(file, 4, 2)->text, "tw");
  EXPECT_EQ(logs.Read(file, 8, 100)->next_offset, 8);
  EXPECT_EQ(logs.Read({"job", "W4A4", 1, 1}, 0, 100)->text, "") << "each attempt has its own";
}

TEST(LogStoreTest, AGapIsSkipped) {
  testing::TemporaryDirectory dir;
  LogStore logs(dir / "logs");
  const LogFile file{"job", "W4A4", 1, 0};
  ASSERT_TRUE(logs.Append(file, 0, "begin\n").ok());
  ASSERT_TRUE(logs.Append(file, 100000, "end\n").ok());
  std::string text;
  int64_t offset = 0;
  while (true) {
    const auto chunk = logs.Read(file, offset, 64);
    ASSERT_TRUE(chunk.ok());
    if (chunk->text.empty()) break;
    text += chunk->text;
    offset = chunk->next_offset;
  }
  EXPECT_EQ(text, "begin\nend\n");
  EXPECT_EQ(offset, 100004);
}

TEST(LogStoreTest, TheSizeIsBounded) {
  testing::TemporaryDirectory dir;
  LogStore logs(dir / "logs");
  const LogFile file{"job", "W4A4", 1, 0};
  ASSERT_TRUE(logs.Append(file, LogStore::kMaxBytes - 2, "abcdef").ok());
  ASSERT_TRUE(logs.Append(file, LogStore::kMaxBytes + 7, "abcdef").ok());
  const auto chunk = logs.Read(file, LogStore::kMaxBytes - 2, 100);
  EXPECT_EQ(chunk->text, "ab");
  EXPECT_FALSE(logs.Append(file, -1, "x").ok());
}

}  // namespace
}  // namespace bitstair::server
