// What every long-running program of ours does at its start and end: listen addresses, logging, the ready pipe.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bitstair::daemon {

struct HostPort {
  std::string host;  // without brackets
  int port = 0;      // 0: any free one
};

// "127.0.0.1:7420", "localhost:0", "[::1]:7420". INVALID_ARGUMENT names what is wrong.
absl::StatusOr<HostPort> ParseHostPort(absl::string_view text);
std::string ToString(const HostPort& address);

// True for 127.0.0.0/8, ::1 and "localhost".
bool IsLoopback(const HostPort& address);

// PERMISSION_DENIED with a way out if the address is not loopback and `insecure` was not given. `remedy`: what else would do, "--tls-cert and --tls-key".
absl::Status CheckListenAddress(const HostPort& address, bool insecure, const std::string& remedy = "");

// Writes one line to the descriptor that the starter passed as --ready-fd and closes it. fd < 0: nothing.
void SignalReady(int fd, const std::string& json_line);

// spdlog to stderr: "2026-01-02T03:04:05.678Z info  server  text". level: trace, debug, info, warn, error.
absl::Status SetUpLogging(const std::string& program, const std::string& level);

// An exclusive lock on DIR/lock, held as long as the object lives. FAILED_PRECONDITION if another process holds it.
class DirectoryLock {
 public:
  static absl::StatusOr<DirectoryLock> Take(const std::string& directory);
  DirectoryLock(DirectoryLock&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  DirectoryLock& operator=(DirectoryLock&&) = delete;
  ~DirectoryLock();

 private:
  explicit DirectoryLock(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace bitstair::daemon
