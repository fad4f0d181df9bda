// One attempt at a stage, as far as it runs on this worker: its ranks here, from the assignment to the last report.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>

#include "bitstair/v1/fleet.pb.h"
#include "worker/artifact_client.h"
#include "worker/datasets.h"
#include "worker/metrics.h"
#include "worker/outbox.h"
#include "worker/trainer_process.h"

namespace bitstair::worker {

// What all attempts of a worker share. Borrowed; outlives them.
struct AttemptHost {
  boost::asio::io_context& io;
  boost::asio::thread_pool& disk;  // for work that reads whole data sets
  Datasets& datasets;
  ArtifactClient& artifacts;
  WorkerMetrics& metrics;
  Outbox& outbox;
  std::string attempts_dir;
  std::string trainer_program;
  std::vector<std::string> trainer_arguments;
  std::string data_address;
  std::vector<v1::Slot> slots;
  TrainerTiming timing;
  // Something was put into the outbox, a trainer came or went, or an attempt ended. Called on the io thread from within attempts: it may only post.
  std::function<void()> changed;
};

// The exchange (proto/bitstair/v1/trainer.proto):
//   a) the data set is found and its digest compared with the plan's; checkpoints to start from are fetched;
//   b) one trainer per rank starts and gets `start`; rank 0's rendezvous goes to the other ranks here and, through the coordinator, elsewhere;
//   c) what trainers say is put into the outbox; rank 0's checkpoints are uploaded, only the newest where they come faster than they leave;
//   d) the first rank that ends without having finished ends the others here at once (PEER_LOST);
//   e) each rank's end is reported once; rank 0's after its checkpoint's upload, which at most kUploadGrace is waited for where the rank did not end well.
// Lives on the io thread.
class Attempt : public std::enable_shared_from_this<Attempt> {
 public:
  Attempt(AttemptHost& host, v1::AssignAttempt assignment);
  ~Attempt();

  void Start();
  void OnRendezvous(const std::string& address);

  // graceful: checkpoint first, SIGKILL later; else SIGKILL now. Every rank reports STOPPED with this reason unless it ended otherwise.
  void Stop(bool graceful, const std::string& reason);

  // The coordinator no longer knows this attempt: kills without a report. ended() holds at once.
  void Abandon();

  // Every rank's end has been put into the outbox.
  bool ended() const { return ended_; }
  const v1::AttemptId& id() const { return assignment_.attempt(); }
  std::vector<int> ranks() const;
  // Slots with a living trainer.
  int busy_slots() const;

 private:
  struct Rank {
    int slot = 0;
    std::shared_ptr<TrainerProcess> process;
    std::optional<TrainerExit> exit;
    bool reported = false;
  };
  struct PendingUpload {
    std::string path;
    v1::Checkpoint checkpoint;
  };

  bool IsAsPlanned(const char* what, const absl::StatusOr<ResolvedDataset>& resolved, const std::string& digest);
  void FindWeights();
  void FetchCheckpoints();
  void StartTrainers();
  absl::Status StartRank(int number, Rank& rank);
  void FailAll(v1::ExitCause cause, const std::string& message);
  void OnMessage(int number, const v1::FromTrainer& message);
  void OnExit(int number, const TrainerExit& exit);
  void EndGang(const std::string& why);
  void QueueUpload(const v1::TrainerCheckpoint& message);
  void StartUpload();
  void ReportExits();
  void SendEvent(v1::WorkerMessage message);
  std::string FolderPath() const;

  AttemptHost& host_;
  const v1::AssignAttempt assignment_;
  const std::string folder_;
  std::map<int, Rank> ranks_;
  boost::asio::steady_timer upload_grace_;

  std::string data_path_;
  std::string weights_path_;
  std::string resume_path_;
  std::string parent_path_;
  std::string rendezvous_address_;
  std::optional<uint64_t> fetch_;
  bool trainers_started_ = false;
  bool stop_requested_ = false;
  std::string stop_reason_;
  bool gang_broken_ = false;
  bool ended_ = false;

  std::optional<uint64_t> upload_;
  PendingUpload uploading_;
  std::optional<PendingUpload> next_upload_;
  bool upload_grace_running_ = false;
  bool upload_grace_over_ = false;
};

}  // namespace bitstair::worker
