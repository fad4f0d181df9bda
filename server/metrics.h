// What the coordinator exports for Prometheus. Names: bitstair_*, base units, _total on counters.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "bitstair/v1/fleet.pb.h"
#include "bitstair/v1/job.pb.h"

namespace bitstair::server {

// Thread-safe. Every state and cause is exported from the start, as 0.
class Metrics {
 public:
  // At most this many jobs have series of their own; the others show in the counts only.
  static constexpr size_t kMaxLabelledJobs = 200;

  explicit Metrics(const std::string& version);

  std::shared_ptr<prometheus::Registry> registry() const { return registry_; }

  void CountRpc(const std::string& method, const absl::Status& status);
  void ObserveCommit(double seconds, size_t commits);
  void CountAttempt();
  void CountFailure(v1::ExitCause cause);
  // |predicted - taken| / taken of a stage's seconds.
  void ObserveEstimateError(double share);

  struct Counts {
    std::map<v1::JobState, int> jobs;
    std::map<v1::StageState, int> stages;
    std::map<v1::WorkerState, int> workers;
    int free_slots = 0;
    int busy_slots = 0;
  };
  void SetCounts(const Counts& counts);

  // Series of one running stage.
  void SetProgress(const std::string& job, const std::string& stage, const v1::StageProgress& progress);
  void SetTestAccuracy(const std::string& job, const std::string& stage, const v1::EpochResult& result);
  void RemoveJob(const std::string& job);

 private:
  struct StageSeries {
    prometheus::Gauge* epoch;
    prometheus::Gauge* loss;
    prometheus::Gauge* train_top1;
    prometheus::Gauge* images_per_second;
    prometheus::Gauge* test_top1;
  };
  StageSeries* SeriesOf(const std::string& job, const std::string& stage) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::shared_ptr<prometheus::Registry> registry_ = std::make_shared<prometheus::Registry>();
  prometheus::Family<prometheus::Counter>& rpcs_;
  prometheus::Family<prometheus::Counter>& failures_;
  prometheus::Counter& attempts_;
  prometheus::Counter& commits_;
  prometheus::Histogram& commit_seconds_;
  prometheus::Histogram& estimate_error_;
  prometheus::Family<prometheus::Gauge>& jobs_;
  prometheus::Family<prometheus::Gauge>& stages_;
  prometheus::Family<prometheus::Gauge>& workers_;
  prometheus::Family<prometheus::Gauge>& slots_;
  prometheus::Family<prometheus::Gauge>& stage_epoch_;
  prometheus::Family<prometheus::Gauge>& stage_loss_;
  prometheus::Family<prometheus::Gauge>& stage_train_top1_;
  prometheus::Family<prometheus::Gauge>& stage_images_;
  prometheus::Family<prometheus::Gauge>& stage_test_top1_;

  absl::Mutex mutex_;
  std::map<std::string, std::map<std::string, StageSeries>> series_ ABSL_GUARDED_BY(mutex_);  // job -> stage
};

}  // namespace bitstair::server
