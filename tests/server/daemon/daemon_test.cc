#include "server/daemon/daemon.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <optional>

namespace bitstair::daemon {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

TEST(DaemonTest, AddressesAreReadAndWritten) {
  for (const char* text : {"127.0.0.1:7420", "localhost:0", "[::1]:65535", "[fe80::1]:80", "host.example:1"}) {
    const auto address = ParseHostPort(text);
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_EQ(ToString(*address), text);
  }
  EXPECT_EQ(ParseHostPort("[::1]:7")->host, "::1");
  EXPECT_EQ(ParseHostPort("127.0.0.1:7420")->port, 7420);
}

TEST(DaemonTest, WhatIsNoAddressIsNamed) {
  for (const char* text : {"", "host", ":80", "host:", "host:http", "host:-1", "host:65536", "host:99999999999", "::1:80", "[::1:80", "[]:80", "[::1]x:80"}) {
    const auto address = ParseHostPort(text);
    EXPECT_TRUE(absl::IsInvalidArgument(address.status())) << text;
    EXPECT_THAT(std::string(address.status().message()), HasSubstr(std::string("\"") + text + "\""));
  }
}

TEST(DaemonTest, OnlyLoopbackIsLoopback) {
  for (const char* host : {"127.0.0.1", "127.255.0.9", "localhost", "::1"}) EXPECT_TRUE(IsLoopback({host, 1})) << host;
  for (const char* host : {"0.0.0.0", "128.0.0.1", "10.0.0.1", "::", "::2", "localhost.example", "127.0.0.1.example", "127", ""})
    EXPECT_FALSE(IsLoopback({host, 1})) << host;
}

TEST(DaemonTest, OtherAddressesNeedAWord) {
  EXPECT_TRUE(CheckListenAddress({"127.0.0.1", 80}, false).ok());
  const absl::Status refused = CheckListenAddress({"0.0.0.0", 80}, false);
  EXPECT_TRUE(absl::IsPermissionDenied(refused));
  EXPECT_THAT(std::string(refused.message()), testing::AllOf(HasSubstr("0.0.0.0:80"), HasSubstr("--insecure")));
  EXPECT_TRUE(CheckListenAddress({"0.0.0.0", 80}, true).ok());
}

TEST(DaemonTest, TheReadyPipeGetsOneLineAndItsEnd) {
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  SignalReady(pipe_fds[1], "{\"pid\":1}");
  char buffer[64];
  ASSERT_EQ(read(pipe_fds[0], buffer, sizeof(buffer)), 10);
  EXPECT_EQ(std::string(buffer, 10), "{\"pid\":1}\n");
  EXPECT_EQ(read(pipe_fds[0], buffer, sizeof(buffer)), 0) << "closed";
  close(pipe_fds[0]);
  SignalReady(-1, "nobody asked");
}

TEST(DaemonTest, AStarterThatIsGoneDoesNotMatter) {
  signal(SIGPIPE, SIG_IGN);
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  close(pipe_fds[0]);
  SignalReady(pipe_fds[1], "line");
  EXPECT_EQ(fcntl(pipe_fds[1], F_GETFD), -1) << "closed all the same";
  signal(SIGPIPE, SIG_DFL);
}

class DirectoryLockTest : public testing::Test {
 protected:
  DirectoryLockTest() {
    std::string pattern = testing::TempDir() + "daemon-XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~DirectoryLockTest() override { std::filesystem::remove_all(folder_); }
  std::string folder_;
};

TEST_F(DirectoryLockTest, OneHolderAtATime) {
  {
    const auto lock = DirectoryLock::Take(folder_);
    ASSERT_TRUE(lock.ok()) << lock.status();
    const auto second = DirectoryLock::Take(folder_);
    EXPECT_TRUE(absl::IsFailedPrecondition(second.status()));
    EXPECT_THAT(std::string(second.status().message()), HasSubstr(folder_));
  }
  EXPECT_TRUE(DirectoryLock::Take(folder_).ok()) << "free again";
}

TEST_F(DirectoryLockTest, MovingItKeepsIt) {
  std::optional<DirectoryLock> kept;
  {
    auto lock = DirectoryLock::Take(folder_);
    ASSERT_TRUE(lock.ok());
    kept.emplace(*std::move(lock));
  }
  EXPECT_FALSE(DirectoryLock::Take(folder_).ok());
  kept.reset();
  EXPECT_TRUE(DirectoryLock::Take(folder_).ok());
}

TEST_F(DirectoryLockTest, AMissingFolderIsNamed) {
  const auto lock = DirectoryLock::Take(folder_ + "/none");
  EXPECT_TRUE(absl::IsNotFound(lock.status()));
  EXPECT_THAT(std::string(lock.status().message()), HasSubstr(folder_ + "/none"));
}

TEST(LoggingTest, LinesGoToStderrWithTimeLevelAndProgram) {
  testing::internal::CaptureStderr();
  ASSERT_TRUE(SetUpLogging("tester", "info").ok());
  spdlog::debug("not this");
  spdlog::info("but this");
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_THAT(text, MatchesRegex("[0-9]+-[0-9]+-[0-9]+T[0-9]+:[0-9]+:[0-9.]+Z info +tester  but this\n"));
}

TEST(LoggingTest, AnUnknownLevelIsNamed) {
  EXPECT_THAT(std::string(SetUpLogging("tester", "loud").message()), HasSubstr("\"loud\""));
  EXPECT_THAT(std::string(SetUpLogging("tester", "").message()), HasSubstr("\"\""));
  for (const char* level : {"trace", "debug", "info", "warn", "error", "off"}) EXPECT_TRUE(SetUpLogging("tester", level).ok()) << level;
}

}  // namespace
}  // namespace bitstair::daemon
