// The real bitstair-worker as a child of the test, and what tests ask about processes.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

namespace bitstair::worker {

class WorkerProcess {
 public:
  // Starts WORKER_PROGRAM with these arguments, --trainer FAKE_TRAINER and a ready pipe.
  explicit WorkerProcess(std::vector<std::string> arguments);
  // SIGKILL if it still runs.
  ~WorkerProcess();
  WorkerProcess(const WorkerProcess&) = delete;
  WorkerProcess& operator=(const WorkerProcess&) = delete;

  pid_t pid() const { return pid_; }
  // The line of JSON; empty if the worker ended without it or 10 s passed.
  std::string WaitForReady();
  void Signal(int number);
  // Exit status, 128 + number for a signal; nothing after 20 s.
  std::optional<int> WaitForExit();
  // What it wrote to stderr; read after its exit.
  std::string Errors() const;

 private:
  pid_t pid_ = -1;
  bool reaped_ = false;
  int ready_fd_ = -1;
  std::string errors_path_;
};

// Polls until no process with this id runs (a zombie does not run). False after 10 s.
bool WaitUntilGone(pid_t pid);
bool IsRunning(pid_t pid);

// GET /metrics. Empty if it fails.
std::string HttpGetMetrics(const std::string& host_port);

}  // namespace bitstair::worker
