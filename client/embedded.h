// A coordinator and a worker of one's own on loopback, as `bitstair run` has them. The same programs as a cluster; docs/adr/0003 tells how they end.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "client/child_process.h"

namespace bitstair::client {

struct EmbeddedOptions {
  std::string state_dir;          // made if absent
  std::string program_dir;        // where bitstair-server and bitstair-worker are
  int slots = 0;                  // 0: the worker's default
  std::vector<std::string> data;  // NAME=PATH
  std::vector<std::string> data_roots;
  std::string log_level = "info";
  std::function<void(const std::string&)> note;  // progress for people; may be called from the constructor's thread only
};

// $XDG_STATE_HOME/bitstair, else ~/.local/state/bitstair. FAILED_PRECONDITION if neither variable is set.
absl::StatusOr<std::string> DefaultStateDirectory();

// The folder of the running program.
absl::StatusOr<std::string> ProgramDirectory();

// This process's share in an embedded cluster: it started it, or it joined one that another `run` on the same state folder had started. The programs leave when
// the last share is gone, however that comes. All functions from one thread, except what OnLost says.
class EmbeddedCluster {
 public:
  // Starts or joins. interrupt_fd: CANCELLED as soon as it is readable. FAILED_PRECONDITION: the state folder cannot be used, or a program refused to start;
  // UNAVAILABLE: it failed. Whatever was started is gone again after an error.
  static absl::StatusOr<std::unique_ptr<EmbeddedCluster>> Start(const EmbeddedOptions& options, int interrupt_fd);
  // Kills what it started unless Leave has been called or others use it.
  ~EmbeddedCluster();
  EmbeddedCluster(const EmbeddedCluster&) = delete;
  EmbeddedCluster& operator=(const EmbeddedCluster&) = delete;

  const std::string& address() const { return address_; }
  bool joined() const { return !server_.has_value(); }

  // `callback(why)` is called once, from another thread, if the coordinator ends unasked, or the worker does so again and again (it is started anew a few
  // times).
  void OnLost(std::function<void(const std::string&)> callback);

  // Gives the share up and waits until the programs have left, unless others use them. Kills them after `patience`, or at once when `hurry_fd` (< 0: none) is
  // readable.
  void Leave(std::chrono::milliseconds patience, int hurry_fd);

 private:
  explicit EmbeddedCluster(EmbeddedOptions options) : options_(std::move(options)) {}

  enum class Found { kFree, kJoined, kRetry };
  absl::Status TakeShare();
  absl::StatusOr<Found> TryJoin();
  absl::Status StartServer(int interrupt_fd);
  absl::StatusOr<ChildProcess> StartWorker() const;
  absl::Status ConnectLifeline();
  bool OthersAreHere();
  void Supervise();

  const EmbeddedOptions options_;
  std::string address_;
  UniqueFd share_;     // shared lock on STATE/clients.lock: tells others, and Leave, that somebody is here
  UniqueFd lifeline_;  // the server leaves when the last of these closes
  UniqueFd server_pidfd_;
  std::optional<ChildProcess> server_;
  absl::Mutex mutex_;
  std::optional<ChildProcess> worker_ ABSL_GUARDED_BY(mutex_);
  std::function<void(const std::string&)> on_lost_ ABSL_GUARDED_BY(mutex_);
  std::string lost_ ABSL_GUARDED_BY(mutex_);
  UniqueFd stop_supervising_;
  std::thread supervisor_;
};

}  // namespace bitstair::client
