// The program bitstair-server itself: ready line, exit codes, refused starts that harm nothing, signals, the clients' socket, a kill.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sqlite3.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "bitstair/v1/jobs.grpc.pb.h"
#include "core/digest/sha256.h"
#include "tests/support/job_specs.h"
#include "tests/support/temporary_directory.h"

namespace bitstair::testing {
namespace {

using ::testing::HasSubstr;

// A started server. Its stderr goes to a file.
class ServerProgram {
 public:
  ServerProgram(const std::string& state_dir, std::vector<std::string> arguments, const std::string& stderr_path) : stderr_path_(stderr_path) {
    int fds[2];
    EXPECT_EQ(pipe(fds), 0);
    std::vector<std::string> words = {BITSTAIR_SERVER, "--state-dir", state_dir, "--ready-fd", absl::StrCat(fds[1])};
    if (std::find(arguments.begin(), arguments.end(), "--listen") == arguments.end()) words.insert(words.end(), {"--listen", "127.0.0.1:0"});
    if (std::find(arguments.begin(), arguments.end(), "--metrics-listen") == arguments.end()) words.insert(words.end(), {"--metrics-listen", "127.0.0.1:0"});
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (auto& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_ = fork();
    if (pid_ == 0) {
      const int error = open(stderr_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      dup2(error, 2);
      close(fds[0]);
      execv(argv[0], argv.data());
      _exit(127);
    }
    close(fds[1]);
    ready_fd_ = fds[0];
  }
  ~ServerProgram() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    close(ready_fd_);
  }

  // The ready line, or null if the program ended without one. Waits 20 s at most.
  nlohmann::json Ready() {
    std::string line;
    char c;
    pollfd waiting = {ready_fd_, POLLIN, 0};
    while (poll(&waiting, 1, 20000) > 0 && read(ready_fd_, &c, 1) == 1 && c != '\n') line += c;
    return nlohmann::json::parse(line, nullptr, false);
  }

  void Signal(int signal) { kill(pid_, signal); }

  // Exit status; -signal; -1000 if it does not end within 30 s.
  int Wait() {
    const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
    pollfd waiting = {pidfd, POLLIN, 0};
    const bool ended = poll(&waiting, 1, 30000) > 0;
    close(pidfd);
    if (!ended) return -1000;
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  std::string Stderr() const {
    std::ifstream in(stderr_path_);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }

 private:
  const std::string stderr_path_;
  pid_t pid_ = -1;
  int ready_fd_ = -1;
};

class ServerProgramTest : public ::testing::Test {
 protected:
  ServerProgramTest() { std::filesystem::create_directory(state_); }
  std::unique_ptr<ServerProgram> Start(std::vector<std::string> arguments = {}) {
    return std::make_unique<ServerProgram>(state_, std::move(arguments), dir_ / absl::StrCat("stderr", count_++));
  }

  static std::unique_ptr<v1::Jobs::Stub> Connect(const nlohmann::json& ready) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return v1::Jobs::NewStub(grpc::CreateCustomChannel(ready.at("address").get<std::string>(), grpc::InsecureChannelCredentials(), arguments));
  }

  int ConnectLifeline() {
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    strncpy(address.sun_path, (state_ + "/clients.sock").c_str(), sizeof(address.sun_path) - 1);
    EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0) << strerror(errno);
    return fd;
  }

  TemporaryDirectory dir_;
  const std::string state_ = dir_ / "state";
  int count_ = 0;
};

TEST_F(ServerProgramTest, TheReadyLineIsAlsoTheEndpointFile) {
  auto server = Start();
  const nlohmann::json ready = server->Ready();
  ASSERT_TRUE(ready.is_object()) << server->Stderr();
  EXPECT_EQ(ready["state_dir"], state_);
  std::ifstream endpoint(state_ + "/endpoint.json");
  EXPECT_EQ(nlohmann::json::parse(endpoint, nullptr, false), ready);
  server->Signal(SIGTERM);
  EXPECT_EQ(server->Wait(), 0);
  EXPECT_FALSE(std::filesystem::exists(state_ + "/endpoint.json"));
}

TEST_F(ServerProgramTest, RefusedStartsExitWith2AndSayWhy) {
  auto running = Start();
  const nlohmann::json ready = running->Ready();
  ASSERT_TRUE(ready.is_object());
  const std::string other = dir_ / "other";
  struct Case {
    std::string state;
    std::vector<std::string> arguments;
    std::string message;
  };
  std::ofstream(dir_ / "file") << "x";
  const std::vector<Case> cases = {
      {state_, {}, "is in use by another process"},
      {other, {"--listen", ready["address"]}, "the port is in use"},
      {other, {"--metrics-listen", ready["metrics_address"]}, "the port is in use"},
      {other, {"--listen", "127.0.0.1"}, "--listen: \"127.0.0.1\" is not HOST:PORT"},
      {other, {"--listen", "0.0.0.0:0"}, "--insecure"},
      {other, {"--log-level", "loud"}, "log level \"loud\""},
      {other, {"--no-such-flag"}, "--no-such-flag"},
      {other, {"--lease-seconds", "0"}, "lease-seconds"},
      {other, {"--resize-interval-seconds", "-1"}, "resize-interval-seconds"},
      {other, {"--queue", "vision"}, "--queue vision: no name, or nothing about it; it is written like"},
      {other, {"--queue", "vision:slots=-1"}, "\"slots=-1\" is not weight=, slots= or jobs= and a number of 0 or more"},
      {other, {"--queue", "vision:weight=-2"}, "weight"},
      {other, {"--queue", "v:jobs=1", "--queue", "v:jobs=2"}, "the queue is given twice"},
      {dir_ / "file", {}, "file"},
      {"/proc/bitstair", {}, "/proc/bitstair"},
  };
  for (const auto& c : cases) {
    ServerProgram server(c.state, c.arguments, dir_ / "refused");
    EXPECT_FALSE(server.Ready().is_object()) << c.message;
    EXPECT_EQ(server.Wait(), 2) << c.message;
    EXPECT_THAT(server.Stderr(), HasSubstr(c.message));
  }
  running->Signal(SIGINT);
  EXPECT_EQ(running->Wait(), 0) << "unharmed";
}

TEST_F(ServerProgramTest, StateThatCannotBeReadIsRefusedAndLeftAlone) {
  ASSERT_TRUE(Start()->Ready().is_object());
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open((state_ + "/jobs.db").c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db, "PRAGMA user_version=99; PRAGMA wal_checkpoint(TRUNCATE)", nullptr, nullptr, nullptr), SQLITE_OK) << sqlite3_errmsg(db);
  sqlite3_close(db);
  const std::string before = core::Sha256OfFile(state_ + "/jobs.db")->sha256;
  auto newer = Start();
  EXPECT_EQ(newer->Wait(), 2);
  EXPECT_THAT(newer->Stderr(), HasSubstr("newer version"));
  EXPECT_EQ(core::Sha256OfFile(state_ + "/jobs.db")->sha256, before);

  std::ofstream(state_ + "/jobs.db", std::ios::trunc) << std::string(5000, 'x');
  auto garbage = Start();
  EXPECT_EQ(garbage->Wait(), 2);
  EXPECT_THAT(garbage->Stderr(), HasSubstr("jobs.db"));
  EXPECT_EQ(std::filesystem::file_size(state_ + "/jobs.db"), 5000u);
}

TEST_F(ServerProgramTest, AnAnsweredJobSurvivesAKill) {
  auto server = Start();
  auto stub = Connect(server->Ready());
  v1::CreateJobRequest request;
  *request.mutable_spec() = SmallSpec();
  std::vector<std::string> names;
  for (int i = 0; i < 5; ++i) {
    v1::Job job;
    grpc::ClientContext context;
    const grpc::Status status = stub->CreateJob(&context, request, &job);
    ASSERT_TRUE(status.ok()) << status.error_message();
    names.insert(names.begin(), job.name());
  }
  server->Signal(SIGKILL);
  EXPECT_EQ(server->Wait(), -SIGKILL);
  auto again = Start();
  stub = Connect(again->Ready());
  v1::ListJobsResponse list;
  grpc::ClientContext context;
  ASSERT_TRUE(stub->ListJobs(&context, {}, &list).ok());
  std::vector<std::string> listed;
  for (const auto& job : list.jobs()) listed.push_back(job.name());
  EXPECT_EQ(listed, names);
}

TEST_F(ServerProgramTest, AnEmbeddedServerLeavesWithItsLastClient) {
  auto server = Start({"--embedded"});
  ASSERT_TRUE(server->Ready().is_object()) << server->Stderr();
  const int first = ConnectLifeline(), second = ConnectLifeline();
  close(first);
  const int third = ConnectLifeline();
  close(second);
  close(third);
  EXPECT_EQ(server->Wait(), 0);
  EXPECT_THAT(server->Stderr(), HasSubstr("no client is left"));
  EXPECT_FALSE(std::filesystem::exists(state_ + "/clients.sock"));
  EXPECT_FALSE(std::filesystem::exists(state_ + "/endpoint.json"));
}

TEST_F(ServerProgramTest, AnEmbeddedServerNeedsAPathThatFitsASocket) {
  const std::string deep = dir_ / std::string(100, 'd');
  ServerProgram server(deep, {"--embedded"}, dir_ / "deep");
  EXPECT_EQ(server.Wait(), 2);
  EXPECT_THAT(server.Stderr(), HasSubstr("too long for a unix socket"));
}

TEST_F(ServerProgramTest, HelpAndVersion) {
  EXPECT_EQ(std::system(absl::StrCat(BITSTAIR_SERVER, " --help | grep -q Examples").c_str()), 0);
  EXPECT_EQ(std::system(absl::StrCat(BITSTAIR_SERVER, " --version | grep -q '^bitstair-server [0-9]'").c_str()), 0);
}

}  // namespace
}  // namespace bitstair::testing
