// The life of an embedded cluster with the real bitstair-server and a script in the worker's place, since a worker needs LibTorch's trainer beside it.
#include "client/embedded.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <future>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>

#include "client/client.h"
#include "server/daemon/daemon.h"

namespace bitstair::client {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using testing::AllOf;
using testing::HasSubstr;

// Ready at once, there as long as the process of --exit-with-pid.
constexpr char kFaithful[] = R"(#!/bin/sh
while [ $# -gt 0 ]; do [ "$1" = --exit-with-pid ] && pid=$2; shift; done
echo '{"slots": 2}' >&3
exec 3>&-
while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
)";
// Notes each start; leaves after a moment, which a worker never does by itself.
constexpr char kFaithless[] = R"(#!/bin/sh
while [ $# -gt 0 ]; do [ "$1" = --state-dir ] && state=$2; shift; done
echo x >>"$state.starts"
echo '{"slots": 2}' >&3
exit 5
)";

class EmbeddedClusterTest : public testing::Test {
 protected:
  EmbeddedClusterTest() : folder_(fs::temp_directory_path() / ("bitstair-embedded-test-" + std::to_string(getpid()))) {
    fs::create_directories(folder_ / "bin");
    fs::create_symlink(BITSTAIR_SERVER_PROGRAM, folder_ / "bin" / "bitstair-server");
    Worker(kFaithful);
    options_.state_dir = (folder_ / "state").string();
    options_.program_dir = (folder_ / "bin").string();
  }
  ~EmbeddedClusterTest() override { fs::remove_all(folder_); }

  void Worker(const std::string& script) const {
    const fs::path path = folder_ / "bin" / "bitstair-worker";
    std::ofstream(path) << script;
    fs::permissions(path, fs::perms::owner_all);
  }

  pid_t ServerPid() const {
    std::ifstream in(folder_ / "state" / "endpoint.json");
    return nlohmann::json::parse(in)["pid"].get<pid_t>();
  }

  bool StateIsFree() const { return daemon::DirectoryLock::Take(options_.state_dir).ok(); }

  const fs::path folder_;
  EmbeddedOptions options_;
};

TEST_F(EmbeddedClusterTest, ServesUntilItIsLeft) {
  auto cluster = EmbeddedCluster::Start(options_, -1);
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  EXPECT_FALSE((*cluster)->joined());
  EXPECT_TRUE(Client((*cluster)->address()).IsServing().ok());
  EXPECT_FALSE(StateIsFree());
  const pid_t server = ServerPid();
  (*cluster)->Leave(milliseconds(25'000), -1);
  EXPECT_TRUE(StateIsFree());
  EXPECT_NE(kill(server, 0), 0);
  EXPECT_FALSE(Client((*cluster)->address()).IsServing().ok());
}

TEST_F(EmbeddedClusterTest, ASecondClientSharesItAndTheLastOneEndsIt) {
  auto first = EmbeddedCluster::Start(options_, -1);
  ASSERT_TRUE(first.ok()) << first.status();
  auto second = EmbeddedCluster::Start(options_, -1);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_TRUE((*second)->joined());
  EXPECT_EQ((*first)->address(), (*second)->address());
  (*first)->Leave(milliseconds(25'000), -1);
  EXPECT_TRUE(Client((*second)->address()).IsServing().ok()) << "the second is still there";
  (*second)->Leave(milliseconds(25'000), -1);
  EXPECT_TRUE(StateIsFree());
}

TEST_F(EmbeddedClusterTest, ManyAtOnceStartOneCoordinator) {
  std::vector<std::future<std::string>> addresses;
  std::promise<void> all_here;
  const auto wait = all_here.get_future().share();
  std::atomic<int> here = 0;
  for (int i = 0; i < 4; ++i) {
    addresses.push_back(std::async(std::launch::async, [&, wait] {
      auto cluster = EmbeddedCluster::Start(options_, -1);
      if (++here == 4) all_here.set_value();
      wait.wait();
      if (!cluster.ok()) return cluster.status().ToString();
      (*cluster)->Leave(milliseconds(25'000), -1);
      return (*cluster)->address();
    }));
  }
  std::set<std::string> seen;
  for (auto& address : addresses) seen.insert(address.get());
  EXPECT_EQ(seen.size(), 1U) << testing::PrintToString(seen);
  EXPECT_TRUE(StateIsFree());
}

TEST_F(EmbeddedClusterTest, AWorkerThatEndsIsStartedAnewAFewTimes) {
  Worker(kFaithless);
  auto cluster = EmbeddedCluster::Start(options_, -1);
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  std::promise<std::string> lost;
  (*cluster)->OnLost([&](const std::string& why) { lost.set_value(why); });
  auto why = lost.get_future();
  ASSERT_EQ(why.wait_for(std::chrono::seconds(20)), std::future_status::ready);
  EXPECT_THAT(why.get(), AllOf(HasSubstr("bitstair-worker"), HasSubstr("exit status 5"), HasSubstr("worker.log")));
  EXPECT_EQ(fs::file_size(folder_ / "state" / "worker.starts"), 2U * 4) << "once and three times more";
  (*cluster)->Leave(milliseconds(25'000), -1);
  EXPECT_TRUE(StateIsFree());
}

TEST_F(EmbeddedClusterTest, ALostCoordinatorIsTold) {
  auto cluster = EmbeddedCluster::Start(options_, -1);
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  std::promise<std::string> lost;
  (*cluster)->OnLost([&](const std::string& why) { lost.set_value(why); });
  kill(ServerPid(), SIGKILL);
  auto why = lost.get_future();
  ASSERT_EQ(why.wait_for(std::chrono::seconds(20)), std::future_status::ready);
  EXPECT_THAT(why.get(), AllOf(HasSubstr("bitstair-server"), HasSubstr("killed by signal 9")));
  (*cluster)->Leave(milliseconds(25'000), -1);
  EXPECT_TRUE(StateIsFree());
  auto again = EmbeddedCluster::Start(options_, -1);
  EXPECT_TRUE(again.ok()) << "the stale endpoint and socket are in nobody's way: " << again.status();
}

TEST_F(EmbeddedClusterTest, AWorkerThatRefusesTakesTheCoordinatorWithIt) {
  Worker("#!/bin/sh\necho the data folder is not there >&2\nexit 2\n");
  const auto cluster = EmbeddedCluster::Start(options_, -1);
  EXPECT_EQ(cluster.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(cluster.status().message()), HasSubstr("the data folder is not there"));
  EXPECT_TRUE(StateIsFree());
}

TEST_F(EmbeddedClusterTest, AMissingProgramIsNamed) {
  fs::remove(folder_ / "bin" / "bitstair-server");
  EXPECT_THAT(std::string(EmbeddedCluster::Start(options_, -1).status().message()), HasSubstr("bin/bitstair-server"));
}

TEST_F(EmbeddedClusterTest, AnInterruptDuringTheStartLeavesNothing) {
  Worker("#!/bin/sh\nexec sleep 1000\n");  // never ready
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  std::thread interrupt([&] {
    while (!fs::exists(folder_ / "state" / "worker.log")) std::this_thread::yield();
    EXPECT_EQ(write(pipe_fds[1], "x", 1), 1);
  });
  EXPECT_EQ(EmbeddedCluster::Start(options_, pipe_fds[0]).status().code(), absl::StatusCode::kCancelled);
  interrupt.join();
  EXPECT_TRUE(StateIsFree());
  close(pipe_fds[0]);
  close(pipe_fds[1]);
}

}  // namespace
}  // namespace bitstair::client
