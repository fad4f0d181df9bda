#include "client/child_process.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "client/embedded.h"

namespace bitstair::client {
namespace {

using std::chrono::milliseconds;
using testing::AllOf;
using testing::HasSubstr;

class ChildProcessTest : public testing::Test {
 protected:
  ChildProcessTest() : folder_(std::filesystem::temp_directory_path() / ("bitstair-child-test-" + std::to_string(getpid()))) {
    std::filesystem::create_directories(folder_);
  }
  ~ChildProcessTest() override { std::filesystem::remove_all(folder_); }

  ChildProcess Shell(const std::string& script) {
    auto child = ChildProcess::Start("/bin/sh", {"-c", script}, (folder_ / "log").string());
    EXPECT_TRUE(child.ok()) << child.status();
    return *std::move(child);
  }

  const std::filesystem::path folder_;
};

TEST_F(ChildProcessTest, HandsBackTheReadyLineAndTheExitStatus) {
  ChildProcess child = Shell("echo '{\"a\": 1}' >&3; exit 7");
  const auto line = child.WaitReady(milliseconds(10'000));
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(*line, "{\"a\": 1}\n");
  EXPECT_TRUE(child.WaitExit(milliseconds(10'000)));
  EXPECT_EQ(child.ExitText(), "exit status 7");
}

TEST_F(ChildProcessTest, QuotesTheLogOfAProgramThatRefuses) {
  Shell("echo earlier run >&2").WaitExit(milliseconds(10'000));
  ChildProcess refuses = Shell("echo the port is in use >&2; exit 2");
  const auto line = refuses.WaitReady(milliseconds(10'000));
  EXPECT_EQ(line.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(line.status().message()), AllOf(HasSubstr("exit status 2"), HasSubstr("the port is in use"), testing::Not(HasSubstr("earlier run"))));
  ChildProcess crashes = Shell("kill -9 $$");
  EXPECT_EQ(crashes.WaitReady(milliseconds(10'000)).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(crashes.ExitText(), "killed by signal 9");
}

TEST_F(ChildProcessTest, InheritsNothingElse) {
  const int leak = open("/dev/null", O_RDONLY);  // without O_CLOEXEC
  ASSERT_GE(leak, 0);
  ASSERT_EQ(dup2(leak, 77), 77);
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  sigaddset(&blocked, SIGINT);
  pthread_sigmask(SIG_BLOCK, &blocked, nullptr);
  signal(SIGUSR1, SIG_IGN);
  ChildProcess child =
      Shell("for fd in /proc/self/fd/*; do printf '%s ' ${fd##*/}; done; grep -E 'SigBlk|SigIgn' /proc/self/status; cut -d' ' -f6 /proc/$$/stat; echo x >&3");
  pthread_sigmask(SIG_UNBLOCK, &blocked, nullptr);
  signal(SIGUSR1, SIG_DFL);
  ASSERT_TRUE(child.WaitReady(milliseconds(10'000)).ok());
  ASSERT_TRUE(child.WaitExit(milliseconds(10'000)));
  close(leak);
  close(77);
  const std::string log = child.LogTail();
  EXPECT_THAT(log, HasSubstr("0 1 2 3 "));
  EXPECT_THAT(log, testing::Not(HasSubstr(" 77 ")));
  EXPECT_THAT(log, AllOf(HasSubstr("SigBlk:\t0000000000000000"), testing::ContainsRegex("SigIgn:\t[0-9a-f]{9}0000000\n")));
  EXPECT_THAT(log, HasSubstr(std::to_string(child.pid()) + "\n")) << "it leads a session of its own";
}

TEST_F(ChildProcessTest, WaitingEndsByTimeAndByInterrupt) {
  ChildProcess child = Shell("exec sleep 100");
  EXPECT_EQ(child.WaitReady(milliseconds(20)).status().code(), absl::StatusCode::kDeadlineExceeded);
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  ASSERT_EQ(write(pipe_fds[1], "x", 1), 1);
  EXPECT_EQ(child.WaitReady(milliseconds(10'000), pipe_fds[0]).status().code(), absl::StatusCode::kCancelled);
  EXPECT_FALSE(child.WaitExit(milliseconds(0)));
  child.Kill(SIGKILL);
  EXPECT_TRUE(child.WaitExit(milliseconds(10'000)));
  close(pipe_fds[0]);
  close(pipe_fds[1]);
}

TEST_F(ChildProcessTest, NamesAProgramThatIsNotThere) {
  const auto child = ChildProcess::Start("/nowhere/bitstair-server", {}, (folder_ / "log").string());
  EXPECT_THAT(std::string(child.status().message()), HasSubstr("/nowhere/bitstair-server"));
}

TEST(EmbeddedTest, StateDirectoryFollowsTheEnvironment) {
  setenv("HOME", "/home/x", 1);
  unsetenv("XDG_STATE_HOME");
  EXPECT_EQ(*DefaultStateDirectory(), "/home/x/.local/state/bitstair");
  setenv("XDG_STATE_HOME", "/s", 1);
  EXPECT_EQ(*DefaultStateDirectory(), "/s/bitstair");
  setenv("XDG_STATE_HOME", "relative", 1);
  EXPECT_EQ(*DefaultStateDirectory(), "/home/x/.local/state/bitstair") << "the XDG rules: a relative path is ignored";
  unsetenv("HOME");
  EXPECT_EQ(DefaultStateDirectory().status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace bitstair::client
