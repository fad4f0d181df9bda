// A program of ours, started by the client and watched by a pidfd.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace bitstair::client {

// A descriptor that closes itself.
class UniqueFd {
 public:
  explicit UniqueFd(int fd = -1) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  UniqueFd& operator=(UniqueFd&& other) noexcept;
  ~UniqueFd() { Close(); }

  int get() const { return fd_; }
  void Close();

 private:
  int fd_;
};

// True once `fd` is readable; false after `timeout`. `interrupt` >= 0: CANCELLED as soon as that one is readable.
absl::StatusOr<bool> WaitReadable(int fd, std::chrono::milliseconds timeout, int interrupt = -1);

// One child in a session of its own, so that the terminal's Ctrl-C does not reach it. It inherits stdin from /dev/null, stdout and stderr to a log file,
// descriptor 3 as its ready pipe, and nothing else; signals are unblocked and at their defaults. The destructor does not end it.
class ChildProcess {
 public:
  // The ready pipe's number in the child, for `--ready-fd`.
  static constexpr int kReadyFd = 3;

  // arguments: without the program's own name. log: opened for appending, made if absent.
  static absl::StatusOr<ChildProcess> Start(const std::string& program, const std::vector<std::string>& arguments, const std::string& log);

  ChildProcess(ChildProcess&&) = default;
  ChildProcess& operator=(ChildProcess&&) = default;

  pid_t pid() const { return pid_; }
  int pidfd() const { return pidfd_.get(); }

  // The one line that the child writes when it is ready. FAILED_PRECONDITION if it exits first with status 2 (it refused; its message is quoted from the log),
  // UNAVAILABLE if it ends in another way, DEADLINE_EXCEEDED, or CANCELLED once `interrupt` is readable.
  absl::StatusOr<std::string> WaitReady(std::chrono::milliseconds timeout, int interrupt = -1);

  // True once it has ended (and is reaped). timeout 0 only looks.
  bool WaitExit(std::chrono::milliseconds timeout);
  // "exit status 2", "killed by signal 9"; after WaitExit was true.
  std::string ExitText() const;
  void Kill(int signal);
  // What it has written to its log since it started, at most the last `max_bytes`.
  std::string LogTail(size_t max_bytes = 2000) const;

 private:
  ChildProcess() = default;

  std::string program_;
  std::string log_;
  int64_t log_start_ = 0;
  pid_t pid_ = -1;
  UniqueFd pidfd_;
  UniqueFd ready_;
  bool reaped_ = false;
  int status_ = 0;
};

}  // namespace bitstair::client
