// The worker's side of its one stream to the coordinator (proto/bitstair/v1/fleet.proto tells the exchange), and the owner of all attempts here.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bitstair/v1/fleet.grpc.pb.h"
#include "worker/artifact_client.h"
#include "worker/attempt.h"
#include "worker/coordinator_stream.h"
#include "worker/datasets.h"
#include "worker/metrics.h"
#include "worker/outbox.h"

namespace bitstair::worker {

struct AgentOptions {
  std::string coordinator;                                // HOST:PORT
  std::shared_ptr<grpc::ChannelCredentials> credentials;  // null: without TLS
  std::string state_dir;                                  // locked by the caller
  std::string name;
  std::string hostname;                       // of the machine
  std::string subnet;                         // of data_address, "10.1.2.0/24"; empty: not known
  std::map<std::string, std::string> labels;  // what recipes can ask for
  std::vector<v1::Slot> slots;
  std::string numeric_profile;
  std::string data_address;
  std::string metrics_address;
  std::string trainer_program;
  std::string log_level = "info";
  bool embedded = false;  // leave after CoordinatorGoodbye
  DatasetOptions datasets;

  TrainerTiming trainer_timing;
  std::chrono::milliseconds first_backoff{200};
  std::chrono::milliseconds last_backoff{2'000};
  std::chrono::milliseconds refused_backoff{30'000};  // after the coordinator refused this worker's certificate
  std::chrono::milliseconds welcome_timeout{10'000};
  // How long a leaving worker may take in all: trainers stop, checkpoints are uploaded and committed, reports are sent.
  std::chrono::milliseconds leave_timeout{18'000};
  // How long sent events are kept for a coordinator that may not have written them yet.
  std::chrono::milliseconds keep_sent{30'000};
};

// All state lives on the io_context's one thread, where every function is called. It never gives up on its coordinator: it connects again with backoff, and
// trainers go on meanwhile, until lease + grace have passed on the monotonic clock; then it stops them, since the coordinator may have given their work away.
class Agent {
 public:
  // Makes what it needs in the state folder: worker_id (kept over restarts), attempts/ (emptied), artifacts/ (the cache).
  static absl::StatusOr<std::unique_ptr<Agent>> Create(boost::asio::io_context& io, AgentOptions options, WorkerMetrics* metrics);
  // After `left`; or whenever the io_context no longer runs.
  ~Agent();

  // Connects. `left` is called once, last, with the process's exit status: 0 after Leave, 1 when the coordinator says that this worker was replaced.
  void Start(std::function<void(int)> left);

  // Stops trainers gracefully, reports, says goodbye, leaves. Without a connection trainers are killed at once: nobody could take their checkpoints.
  // The second call kills in any case.
  void Leave(const std::string& reason);

 private:
  Agent(boost::asio::io_context& io, AgentOptions options, WorkerMetrics* metrics, std::string worker_id);

  void Connect();
  v1::WorkerMessage Hello() const;
  void OnMessage(const v1::CoordinatorMessage& message);
  void OnWelcome(const v1::WorkerWelcome& welcome);
  void OnClosed(const grpc::Status& status);
  void OnResolve(const v1::ResolveDataset& request);
  void OnAssign(const v1::AssignAttempt& assignment);
  void OnStop(const v1::StopAttempt& stop);
  void Heartbeat();
  void Changed();
  void Pump();
  void Collect();
  void LeaveStep();
  void Finish(int status);
  void KillAll(const std::string& reason);
  bool AllEnded() const;
  std::shared_ptr<Attempt> Find(const v1::AttemptId& id) const;

  boost::asio::io_context& io_;
  const AgentOptions options_;
  WorkerMetrics& metrics_;
  const std::string worker_id_;
  const std::string incarnation_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Fleet::Stub> stub_;
  Datasets datasets_;
  Outbox outbox_;
  boost::asio::thread_pool disk_{1};
  std::unique_ptr<ArtifactClient> artifacts_;
  std::unique_ptr<AttemptHost> host_;
  std::map<AttemptKey, std::shared_ptr<Attempt>> attempts_;
  std::map<std::string, int32_t> newest_generation_;  // by stage, of all assignments so far

  std::shared_ptr<CoordinatorStream> stream_;
  bool welcomed_ = false;
  bool replaced_ = false;
  std::chrono::milliseconds backoff_;
  std::chrono::milliseconds lease_{8'000};
  std::chrono::milliseconds grace_{30'000};
  std::string last_error_;
  boost::asio::steady_timer connect_timer_;  // the next try, or the welcome's deadline
  boost::asio::steady_timer heartbeat_timer_;
  boost::asio::steady_timer alone_timer_;  // lease + grace without a coordinator

  bool pump_posted_ = false;
  enum class Leaving { kNo, kStopping, kSaidGoodbye, kLeft };
  Leaving leaving_ = Leaving::kNo;
  boost::asio::steady_timer leave_timer_;
  std::function<void(int)> left_;
  // Handlers that other threads post hold this weakly.
  std::shared_ptr<Agent*> alive_;
};

}  // namespace bitstair::worker
