#include "tests/worker/worker_process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <sstream>

extern char** environ;

namespace bitstair::worker {
namespace {

using Clock = std::chrono::steady_clock;

template <typename Condition>
bool Poll(std::chrono::seconds patience, const Condition& condition) {
  const auto deadline = Clock::now() + patience;
  while (!condition()) {
    if (Clock::now() > deadline) return false;
    usleep(5'000);
  }
  return true;
}

}  // namespace

WorkerProcess::WorkerProcess(std::vector<std::string> arguments) {
  char pattern[] = "/tmp/bitstair-worker-errors-XXXXXX";
  const int errors = mkostemp(pattern, O_CLOEXEC);
  errors_path_ = pattern;
  int ready[2];
  if (pipe2(ready, O_CLOEXEC) != 0) abort();
  ready_fd_ = ready[0];
  arguments.insert(arguments.begin(), WORKER_PROGRAM);
  arguments.insert(arguments.end(), {"--trainer", FAKE_TRAINER, "--ready-fd", "3"});
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, errors, 2);
  posix_spawn_file_actions_adddup2(&actions, ready[1], 3);
  posix_spawn(&pid_, WORKER_PROGRAM, &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(errors);
  close(ready[1]);
}

WorkerProcess::~WorkerProcess() {
  if (!reaped_ && pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  close(ready_fd_);
  unlink(errors_path_.c_str());
}

std::string WorkerProcess::WaitForReady() {
  std::string line;
  const auto deadline = Clock::now() + std::chrono::seconds(10);
  while (line.find('\n') == std::string::npos && Clock::now() < deadline) {
    pollfd entry{ready_fd_, POLLIN, 0};
    if (poll(&entry, 1, 100) <= 0) continue;
    char buffer[512];
    const ssize_t got = read(ready_fd_, buffer, sizeof(buffer));
    if (got <= 0) return "";
    line.append(buffer, static_cast<size_t>(got));
  }
  return line;
}

void WorkerProcess::Signal(int number) {
  kill(pid_, number);
}

std::optional<int> WorkerProcess::WaitForExit() {
  int status = 0;
  if (!Poll(std::chrono::seconds(20), [&] { return waitpid(pid_, &status, WNOHANG) == pid_; })) return std::nullopt;
  reaped_ = true;
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

std::string WorkerProcess::Errors() const {
  std::stringstream text;
  text << std::ifstream(errors_path_).rdbuf();
  return text.str();
}

bool IsRunning(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string number, name, state;
  return static_cast<bool>(file >> number >> name >> state) && state != "Z" && state != "X";
}

bool WaitUntilGone(pid_t pid) {
  return Poll(std::chrono::seconds(10), [pid] { return !IsRunning(pid); });
}

std::string HttpGetMetrics(const std::string& host_port) {
  const size_t colon = host_port.rfind(':');
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(std::stoi(host_port.substr(colon + 1))));
  inet_pton(AF_INET, host_port.substr(0, colon).c_str(), &address.sin_addr);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  std::string text;
  const std::string request = "GET /metrics HTTP/1.0\r\nHost: x\r\n\r\n";
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 && write(fd, request.data(), request.size()) > 0) {
    char buffer[4096];
    ssize_t got = 0;
    while ((got = read(fd, buffer, sizeof(buffer))) > 0) text.append(buffer, static_cast<size_t>(got));
  }
  close(fd);
  const size_t body = text.find("\r\n\r\n");
  return body == std::string::npos ? "" : text.substr(body + 4);
}

}  // namespace bitstair::worker
