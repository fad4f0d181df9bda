#include "client/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

extern char** environ;

namespace bitstair::client {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr size_t kMaxReadyLine = 65536;
// From closing its ready pipe to its end, on a busy machine.
constexpr milliseconds kEndsSoon{10'000};

struct SpawnSettings {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  SpawnSettings() {
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
  }
  ~SpawnSettings() {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;
};

}  // namespace

UniqueFd& UniqueFd::operator=(UniqueFd&& other) noexcept {
  if (this != &other) {
    Close();
    std::swap(fd_, other.fd_);
  }
  return *this;
}

void UniqueFd::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

absl::StatusOr<bool> WaitReadable(int fd, milliseconds timeout, int interrupt) {
  const auto end = Clock::now() + timeout;
  while (true) {
    const auto left = std::chrono::duration_cast<milliseconds>(end - Clock::now());
    pollfd watched[2] = {{fd, POLLIN, 0}, {interrupt, POLLIN, 0}};  // a negative descriptor is ignored
    const int count = poll(watched, 2, static_cast<int>(std::clamp<int64_t>(left.count(), 0, 1'000'000)));
    if (count < 0 && errno != EINTR) return absl::ErrnoToStatus(errno, "poll");
    if (count > 0 && watched[1].revents != 0) return absl::CancelledError("interrupted");
    if (count > 0 && watched[0].revents != 0) return true;
    if (Clock::now() >= end) return false;
  }
}

absl::StatusOr<ChildProcess> ChildProcess::Start(const std::string& program, const std::vector<std::string>& arguments, const std::string& log) {
  ChildProcess child;
  child.program_ = program.substr(program.rfind('/') + 1);
  child.log_ = log;
  const UniqueFd log_fd(open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (log_fd.get() < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", log));
  struct stat info {};
  if (fstat(log_fd.get(), &info) == 0) child.log_start_ = info.st_size;
  int pipe_fds[2] = {-1, -1};
  if (pipe2(pipe_fds, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe");
  child.ready_ = UniqueFd(pipe_fds[0]);
  const UniqueFd write_end(pipe_fds[1]);

  SpawnSettings settings;
  posix_spawn_file_actions_addopen(&settings.actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&settings.actions, log_fd.get(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&settings.actions, log_fd.get(), STDERR_FILENO);
  posix_spawn_file_actions_adddup2(&settings.actions, write_end.get(), kReadyFd);
  posix_spawn_file_actions_addclosefrom_np(&settings.actions, kReadyFd + 1);
  sigset_t none;
  sigset_t all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&settings.attributes, &none);
  posix_spawnattr_setsigdefault(&settings.attributes, &all);
  posix_spawnattr_setflags(&settings.attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  std::vector<char*> argv{const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  if (const int error = posix_spawn(&child.pid_, program.c_str(), &settings.actions, &settings.attributes, argv.data(), environ); error != 0) {
    return absl::ErrnoToStatus(error, absl::StrCat("cannot start ", program));
  }
  child.pidfd_ = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, child.pid_, 0)));
  if (child.pidfd_.get() < 0) {
    const int error = errno;
    kill(child.pid_, SIGKILL);
    waitpid(child.pid_, nullptr, 0);
    return absl::ErrnoToStatus(error, "pidfd_open");
  }
  return child;
}

absl::StatusOr<std::string> ChildProcess::WaitReady(milliseconds timeout, int interrupt) {
  const auto end = Clock::now() + timeout;
  std::string line;
  while (line.empty() || line.back() != '\n') {
    const auto readable = WaitReadable(ready_.get(), std::chrono::duration_cast<milliseconds>(end - Clock::now()), interrupt);
    if (!readable.ok()) return readable.status();
    if (!*readable) return absl::DeadlineExceededError(absl::StrCat(program_, " did not become ready in ", timeout.count() / 1000, " s; see ", log_));
    char buffer[4096];
    const ssize_t got = read(ready_.get(), buffer, sizeof(buffer));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0 || line.size() > kMaxReadyLine) {
      WaitExit(kEndsSoon);
      const std::string text = absl::StrCat(program_, " did not start (", ExitText(), "): ", LogTail(), "(log: ", log_, ")");
      const bool refused = reaped_ && WIFEXITED(status_) && WEXITSTATUS(status_) == 2;
      return refused ? absl::FailedPreconditionError(text) : absl::UnavailableError(text);
    }
    line.append(buffer, static_cast<size_t>(got));
  }
  ready_.Close();
  return line;
}

bool ChildProcess::WaitExit(milliseconds timeout) {
  if (reaped_) return true;
  const auto readable = WaitReadable(pidfd_.get(), timeout);
  if (!readable.ok() || !*readable) return false;
  pid_t result;
  while ((result = waitpid(pid_, &status_, 0)) < 0 && errno == EINTR) {
  }
  reaped_ = true;
  return true;
}

std::string ChildProcess::ExitText() const {
  if (!reaped_) return "still running";
  if (WIFSIGNALED(status_)) return absl::StrCat("killed by signal ", WTERMSIG(status_));
  return absl::StrCat("exit status ", WEXITSTATUS(status_));
}

void ChildProcess::Kill(int signal) {
  if (!reaped_) syscall(SYS_pidfd_send_signal, pidfd_.get(), signal, nullptr, 0);
}

std::string ChildProcess::LogTail(size_t max_bytes) const {
  const UniqueFd fd(open(log_.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info {};
  if (fd.get() < 0 || fstat(fd.get(), &info) != 0) return "";
  const int64_t from = std::max<int64_t>(log_start_, info.st_size - static_cast<int64_t>(max_bytes));
  std::string text(static_cast<size_t>(std::max<int64_t>(0, info.st_size - from)), '\0');
  const ssize_t got = pread(fd.get(), text.data(), text.size(), from);
  text.resize(got > 0 ? static_cast<size_t>(got) : 0);
  return text;
}

}  // namespace bitstair::client
