#include "core/files/durable_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>

namespace bitstair::core {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr uid_t kNobody = 65534;

class DurableFileTest : public testing::Test {
 protected:
  DurableFileTest() {
    std::string pattern = testing::TempDir() + "durable-file-XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~DurableFileTest() override {
    chmod((folder_ + "/closed").c_str(), 0700);
    fs::remove_all(folder_);
  }
  int FilesIn(const std::string& folder) { return static_cast<int>(std::distance(fs::directory_iterator(folder), fs::directory_iterator())); }

  // Runs the check as a user who is bound by permissions, which root is not. True if it passed.
  static bool AsOrdinaryUser(const std::function<bool()>& check) {
    if (geteuid() != 0) return check();
    const pid_t child = fork();
    if (child == 0) {
      if (setgid(kNobody) != 0 || setuid(kNobody) != 0) _exit(3);
      _exit(check() ? 0 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }

  std::string folder_;
};

TEST_F(DurableFileTest, WhatWasWrittenIsRead) {
  const std::string path = folder_ + "/file";
  const std::string bytes("some\0bytes\n", 11);
  ASSERT_TRUE(WriteFileDurably(path, bytes).ok());
  EXPECT_EQ(*ReadFile(path), bytes);
  ASSERT_TRUE(WriteFileDurably(path, "").ok());
  EXPECT_EQ(*ReadFile(path), "");
  const std::string large(5'000'000, 'x');
  ASSERT_TRUE(WriteFileDurably(path, large).ok());
  EXPECT_EQ(*ReadFile(path), large);
  EXPECT_EQ(FilesIn(folder_), 1) << "no temporary file stays";
}

TEST_F(DurableFileTest, AnOpenReaderKeepsTheOldFileWhole) {
  const std::string path = folder_ + "/file";
  ASSERT_TRUE(WriteFileDurably(path, "old bytes").ok());
  std::ifstream reader(path);
  ASSERT_TRUE(WriteFileDurably(path, "new").ok());
  std::string text;
  std::getline(reader, text);
  EXPECT_EQ(text, "old bytes");
  EXPECT_EQ(*ReadFile(path), "new");
}

TEST_F(DurableFileTest, AFileThatCannotBeWrittenIsNamedAndLeavesNothing) {
  const absl::Status missing = WriteFileDurably(folder_ + "/none/file", "x");
  EXPECT_TRUE(absl::IsNotFound(missing)) << missing;
  EXPECT_THAT(std::string(missing.message()), HasSubstr(folder_ + "/none/file"));
  fs::create_directory(folder_ + "/folder");
  const absl::Status is_folder = WriteFileDurably(folder_ + "/folder", "x");
  EXPECT_FALSE(is_folder.ok());
  EXPECT_THAT(std::string(is_folder.message()), HasSubstr(folder_ + "/folder"));
  EXPECT_EQ(FilesIn(folder_), 1) << "only the folder";
}

TEST_F(DurableFileTest, PublishRenamesAWholeFile) {
  std::ofstream(folder_ + "/temporary") << "bytes";
  ASSERT_TRUE(PublishFile(folder_ + "/temporary", folder_ + "/final").ok());
  EXPECT_EQ(*ReadFile(folder_ + "/final"), "bytes");
  EXPECT_FALSE(fs::exists(folder_ + "/temporary"));
  EXPECT_TRUE(absl::IsNotFound(PublishFile(folder_ + "/temporary", folder_ + "/final")));
  EXPECT_EQ(*ReadFile(folder_ + "/final"), "bytes");
  std::ofstream(folder_ + "/temporary") << "more";
  EXPECT_FALSE(PublishFile(folder_ + "/temporary", folder_ + "/none/final").ok());
  EXPECT_TRUE(fs::exists(folder_ + "/temporary")) << "it is the caller's";
}

TEST_F(DurableFileTest, ReadingHasALimit) {
  ASSERT_TRUE(WriteFileDurably(folder_ + "/file", "12345").ok());
  EXPECT_EQ(*ReadFile(folder_ + "/file", 5), "12345");
  const auto longer = ReadFile(folder_ + "/file", 4);
  EXPECT_TRUE(absl::IsOutOfRange(longer.status()));
  EXPECT_THAT(std::string(longer.status().message()), HasSubstr(folder_ + "/file"));
  EXPECT_TRUE(absl::IsNotFound(ReadFile(folder_ + "/none").status()));
  EXPECT_THAT(std::string(ReadFile(folder_).status().message()), HasSubstr(folder_)) << "a folder is no file";
}

TEST_F(DurableFileTest, FoldersAreMadeWithTheirParentsForTheirOwnerAlone) {
  const std::string path = folder_ + "/a/b/c";
  ASSERT_TRUE(MakeWritableDirectory(path).ok());
  ASSERT_TRUE(MakeWritableDirectory(path).ok()) << "twice is once";
  ASSERT_TRUE(MakeWritableDirectory(path + "/").ok());
  struct stat info {};
  ASSERT_EQ(stat((folder_ + "/a").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
}

TEST_F(DurableFileTest, AFolderThatCannotBeMadeIsNamed) {
  std::ofstream(folder_ + "/file") << "x";
  for (const std::string& path : {folder_ + "/file", folder_ + "/file/below", std::string("/proc/bitstair"), std::string("")}) {
    const absl::Status status = MakeWritableDirectory(path);
    EXPECT_FALSE(status.ok()) << path;
    EXPECT_THAT(std::string(status.message()), HasSubstr(path));
  }
}

TEST_F(DurableFileTest, AnUnwritableFolderIsRefused) {
  const std::string closed = folder_ + "/closed";
  fs::create_directory(closed);
  chmod(folder_.c_str(), 0755);
  chmod(closed.c_str(), 0555);
  EXPECT_TRUE(AsOrdinaryUser([&] {
    const absl::Status status = MakeWritableDirectory(closed);
    return absl::IsPermissionDenied(status) && status.message().find(closed) != absl::string_view::npos;
  }));
  EXPECT_TRUE(AsOrdinaryUser([&] { return absl::IsPermissionDenied(MakeWritableDirectory(closed + "/below")); }));
  EXPECT_TRUE(AsOrdinaryUser([&] { return absl::IsPermissionDenied(WriteFileDurably(closed + "/file", "x")); }));
  EXPECT_EQ(FilesIn(closed), 0);
}

}  // namespace
}  // namespace bitstair::core
