// What the coordinator exports for Prometheus. Names: bitstair_*, base units, _total on counters. docs/metrics.md lists them; a test compares the two.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "bitstair/v1/fleet.pb.h"
#include "bitstair/v1/job.pb.h"

namespace bitstair::server {

// Gauges of one stage as one job sees it, labels {job, stage}. In the order of server/metrics.cc.
enum class StageGauge : uint8_t {
  kWeightBits,
  kActivationBits,
  kEpoch,
  kEpochs,
  kLoss,
  kTrainTop1,
  kImagesPerSecond,
  kSecondsLeft,
  kAllReduceBytes,
  kTestTop1,
  kTestTop5,
  kTeacherTop1,
  kHintDistance,
  kClipped,
  kMemory,
  kCheckpointTime,
  kCheckpointBytes,
};
inline constexpr int kStageGauges = 17;

// Thread-safe. Every state and cause is exported from the start, as 0.
class Metrics {
 public:
  // At most this many jobs have series of their own; the others show in the counts only.
  static constexpr size_t kMaxLabelledJobs = 200;
  // At most this many queues have; those that come later are "other" together.
  static constexpr size_t kMaxLabelledQueues = 50;

  explicit Metrics(const std::string& version);

  std::shared_ptr<prometheus::Registry> registry() const { return registry_; }

  void CountRpc(const std::string& method, const absl::Status& status);
  // From a unary call's arrival to its answer.
  void ObserveRpc(const std::string& method, double seconds);
  void ObserveCommit(double seconds, size_t commits);
  // One decision of the scheduler.
  void ObserveDecision(double seconds);
  // From a stage's being ready to its start; from a job's creation to the first start of a stage of its own.
  void ObserveQueueWait(double seconds);
  void ObserveTimeToStart(double seconds);
  void CountAttempt();
  void CountFailure(v1::ExitCause cause);
  void CountGate(bool reached);
  // |predicted - taken| / taken of a stage's seconds.
  void ObserveEstimateError(double share);

  struct Counts {
    std::map<v1::JobState, int> jobs;
    std::map<v1::StageState, int> stages;
    std::map<v1::WorkerState, int> workers;
    std::map<std::string, int> waiting;  // ready stages by what they wait for
    struct Queue {
      double slots = 0;  // held
      int jobs = 0;      // with a running stage
      int waiting = 0;   // stages
    };
    std::map<std::string, Queue> queues;
    int free_slots = 0;
    int busy_slots = 0;
    int cordoned_workers = 0;
    int64_t disk_size_bytes = 0, disk_free_bytes = 0;
  };
  void SetCounts(const Counts& counts);

  // Series of one stage of a job that has not ended.
  void SetStage(const std::string& job, const std::string& stage, const v1::StageSpec& spec);
  void SetProgress(const std::string& job, const std::string& stage, const v1::StageProgress& progress);
  void SetEpoch(const std::string& job, const std::string& stage, const v1::EpochResult& result);
  void SetCheckpoint(const std::string& job, const std::string& stage, const v1::Checkpoint& checkpoint);
  void RemoveJob(const std::string& job);

 private:
  struct StageSeries {
    std::array<prometheus::Gauge*, kStageGauges> gauges{};  // null: not set yet
    std::map<std::string, prometheus::Gauge*> step_seconds;
  };
  // Null: too many jobs have series already.
  StageSeries* SeriesOf(const std::string& job, const std::string& stage) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Set(const std::string& job, const std::string& stage, const std::vector<std::pair<StageGauge, double>>& values) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::shared_ptr<prometheus::Registry> registry_ = std::make_shared<prometheus::Registry>();
  prometheus::Family<prometheus::Counter>& rpcs_;
  prometheus::Family<prometheus::Histogram>& rpc_seconds_;
  prometheus::Family<prometheus::Counter>& failures_;
  prometheus::Counter& attempts_;
  prometheus::Family<prometheus::Counter>& gates_;
  prometheus::Counter& commits_;
  prometheus::Histogram& commit_seconds_;
  prometheus::Histogram& decision_seconds_;
  prometheus::Histogram& queue_wait_;
  prometheus::Histogram& time_to_start_;
  prometheus::Histogram& estimate_error_;
  prometheus::Family<prometheus::Gauge>& jobs_;
  prometheus::Family<prometheus::Gauge>& stages_;
  prometheus::Family<prometheus::Gauge>& waiting_;
  prometheus::Family<prometheus::Gauge>& queue_slots_;
  prometheus::Family<prometheus::Gauge>& queue_jobs_;
  prometheus::Family<prometheus::Gauge>& queue_waiting_;
  prometheus::Family<prometheus::Gauge>& workers_;
  prometheus::Gauge& cordoned_;
  prometheus::Family<prometheus::Gauge>& slots_;
  prometheus::Gauge& disk_size_;
  prometheus::Gauge& disk_free_;
  std::vector<prometheus::Family<prometheus::Gauge>*> stage_gauges_;
  prometheus::Family<prometheus::Gauge>& stage_step_seconds_;

  absl::Mutex mutex_;
  std::map<std::string, std::map<std::string, StageSeries>> series_ ABSL_GUARDED_BY(mutex_);  // job -> stage
  std::set<std::string> labelled_queues_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bitstair::server
