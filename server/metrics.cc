#include "server/metrics.h"

#include <google/protobuf/descriptor.h>

#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"

namespace bitstair::server {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;

prometheus::Family<prometheus::Gauge>& Gauges(prometheus::Registry& registry, const std::string& name, const std::string& help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
}
prometheus::Family<prometheus::Counter>& Counters(prometheus::Registry& registry, const std::string& name, const std::string& help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}
prometheus::Family<prometheus::Histogram>& Histograms(prometheus::Registry& registry, const std::string& name, const std::string& help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
}

const Buckets& ShortTimes() {
  static const auto* const buckets = new Buckets{0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2};
  return *buckets;
}
const Buckets& LongTimes() {
  static const auto* const buckets = new Buckets{0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 3600, 4 * 3600, 24 * 3600};
  return *buckets;
}

struct Described {
  const char* name;
  const char* help;
};
// As StageGauge.
constexpr std::array<Described, kStageGauges> kStageGaugeNames{{
    {"bitstair_stage_weight_width", "Bits of the stage's weights; 32: full precision."},
    {"bitstair_stage_activation_width", "Bits of the stage's activations; 32: not quantised."},
    {"bitstair_stage_epoch", "Epoch that a running stage is in."},
    {"bitstair_stage_epochs", "Epochs that the stage is trained."},
    {"bitstair_stage_loss", "Mean training loss of the present epoch so far."},
    {"bitstair_stage_train_top1_ratio", "Top-1 accuracy on training images of the present epoch so far, 0 to 1."},
    {"bitstair_stage_images_per_second", "Training speed over all ranks."},
    {"bitstair_stage_left_seconds", "Time until the running stage is done, as its trainer expects it."},
    {"bitstair_stage_all_reduce_bytes", "Bytes that rank 0's gradient all-reduce has sent since the attempt began."},
    {"bitstair_stage_test_top1_ratio", "Top-1 accuracy on the test images after the last whole epoch, 0 to 1."},
    {"bitstair_stage_test_top5_ratio", "Top-5 accuracy on the test images after the last whole epoch, 0 to 1."},
    {"bitstair_stage_teacher_top1_ratio", "Top-1 accuracy of the full-precision net of a pair on the test images after the last whole epoch, 0 to 1."},
    {"bitstair_stage_hint_distance", "Mean distance R of a guided pair's features in the last whole epoch, without lambda."},
    {"bitstair_stage_clipped_ratio", "Share of activations that were clipped in the last whole epoch, mean over the layers of the stage's own net, 0 to 1."},
    {"bitstair_stage_memory_bytes", "Greatest resident memory of rank 0's process so far."},
    {"bitstair_stage_checkpoint_timestamp_seconds", "When the newest checkpoint was committed."},
    {"bitstair_stage_checkpoint_bytes", "Size of the newest checkpoint."},
}};

// What a ready stage may wait for: WaitingCounts of server/scheduling/types.h, and a paused job's resumption.
constexpr std::array<const char*, 6> kWaitingReasons{"slots", "quota", "yields", "impossible", "delay", "paused"};

// core/kernels/step_clock.h, which this program does not link. Other words of a worker make no series.
constexpr std::array<const char*, 8> kStepParts{"conv_forward", "conv_backward", "elementwise", "weights", "optimiser", "all_reduce", "data", "other"};

// Calls f(number, "running") for each value of the enum but UNSPECIFIED.
template <typename F>
void ForEachValue(const google::protobuf::EnumDescriptor* type, F f) {
  std::string prefix = type->value(0)->name();  // X_UNSPECIFIED
  prefix = std::string(absl::StripSuffix(prefix, "UNSPECIFIED"));
  for (int i = 1; i < type->value_count(); ++i) {
    f(type->value(i)->number(), absl::AsciiStrToLower(absl::StripPrefix(type->value(i)->name(), prefix)));
  }
}

template <typename State>
int CountOf(const std::map<State, int>& counts, int number) {
  const auto found = counts.find(static_cast<State>(number));
  return found == counts.end() ? 0 : found->second;
}

// Mean over the activations of the stage's own net; NaN where there are none.
double ClippedShare(const v1::EpochResult& result) {
  double sum = 0;
  int count = 0;
  for (const auto& layer : result.layers()) {
    if (!layer.net().empty() || !layer.has_clipped_share()) continue;
    sum += layer.clipped_share();
    ++count;
  }
  return count == 0 ? std::nan("") : sum / count;
}

}  // namespace

Metrics::Metrics(const std::string& version)
    : rpcs_(Counters(*registry_, "bitstair_rpcs_total", "Calls answered, by method and status code.")),
      rpc_seconds_(Histograms(*registry_, "bitstair_rpc_duration_seconds", "Time from a unary call's arrival to its answer, by method.")),
      failures_(Counters(*registry_, "bitstair_attempt_failures_total", "Attempts at a stage that ended badly, by cause.")),
      attempts_(Counters(*registry_, "bitstair_attempts_total", "Attempts at a stage that were started.").Add({})),
      gates_(Counters(*registry_, "bitstair_gates_total", "Stages that were held against what their job requires of them, by outcome.")),
      commits_(Counters(*registry_, "bitstair_store_commits_total", "Commits to the job store.").Add({})),
      commit_seconds_(
          Histograms(*registry_, "bitstair_store_transaction_duration_seconds", "Duration of the job store's transactions; one may hold several commits.")
              .Add({}, ShortTimes())),
      decision_seconds_(
          Histograms(*registry_, "bitstair_scheduler_decision_duration_seconds", "Time that one decision of the scheduler took.").Add({}, ShortTimes())),
      queue_wait_(Histograms(*registry_, "bitstair_stage_queue_wait_seconds", "Time from a stage's being ready to its start.").Add({}, LongTimes())),
      time_to_start_(Histograms(*registry_, "bitstair_job_time_to_start_seconds", "Time from a job's creation to the first start of a stage that it needs.")
                         .Add({}, LongTimes())),
      estimate_error_(
          Histograms(
              *registry_, "bitstair_stage_duration_estimate_error_ratio",
              "Difference between the time that a stage was to take when it started and the time it took, over the latter; of stages done in one attempt.")
              .Add({}, Buckets{0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5})),
      jobs_(Gauges(*registry_, "bitstair_jobs", "Jobs by state.")),
      stages_(Gauges(*registry_, "bitstair_stages", "Stages by state.")),
      waiting_(Gauges(*registry_, "bitstair_waiting_stages", "Stages that are ready but do not run, by what they wait for.")),
      queue_slots_(Gauges(*registry_, "bitstair_queue_slots", "Slots held by stages that the queue's jobs wait for; a shared stage counts in parts.")),
      queue_jobs_(Gauges(*registry_, "bitstair_queue_jobs", "Jobs of the queue with a running stage.")),
      queue_waiting_(Gauges(*registry_, "bitstair_queue_waiting_stages", "Stages that are ready but do not run, by queue; a shared stage counts in each.")),
      workers_(Gauges(*registry_, "bitstair_workers", "Workers by state.")),
      cordoned_(Gauges(*registry_, "bitstair_cordoned_workers", "Workers that get no new stages.").Add({})),
      slots_(Gauges(*registry_, "bitstair_slots", "Slots of connected workers, free or busy.")),
      disk_size_(Gauges(*registry_, "bitstair_disk_size_bytes", "Size of the file system of the coordinator's state folder.").Add({})),
      disk_free_(Gauges(*registry_, "bitstair_disk_free_bytes", "Free bytes of the file system of the coordinator's state folder.").Add({})),
      stage_step_seconds_(Gauges(*registry_, "bitstair_stage_step_seconds",
                                 "Where the time of the last whole epoch's steps went in rank 0's training thread, by part, in sum.")) {
  for (const Described& gauge : kStageGaugeNames) stage_gauges_.push_back(&Gauges(*registry_, gauge.name, gauge.help));
  Gauges(*registry_, "bitstair_build_info", "Version of the running program; always 1.").Add({{"version", version}}).Set(1);
  ForEachValue(v1::ExitCause_descriptor(), [&](int number, const std::string& label) {
    if (number != v1::EXIT_CAUSE_FINISHED && number != v1::EXIT_CAUSE_STOPPED) failures_.Add({{"cause", label}});
  });
  for (const char* outcome : {"reached", "missed"}) gates_.Add({{"outcome", outcome}});
  SetCounts({});
}

void Metrics::CountRpc(const std::string& method, const absl::Status& status) {
  rpcs_.Add({{"method", method}, {"code", absl::AsciiStrToLower(absl::StatusCodeToString(status.code()))}}).Increment();
}

void Metrics::ObserveRpc(const std::string& method, double seconds) {
  rpc_seconds_.Add({{"method", method}}, ShortTimes()).Observe(seconds);
}

void Metrics::ObserveCommit(double seconds, size_t commits) {
  commit_seconds_.Observe(seconds);
  commits_.Increment(static_cast<double>(commits));
}

void Metrics::ObserveDecision(double seconds) {
  decision_seconds_.Observe(seconds);
}

void Metrics::ObserveQueueWait(double seconds) {
  queue_wait_.Observe(seconds);
}

void Metrics::ObserveTimeToStart(double seconds) {
  time_to_start_.Observe(seconds);
}

void Metrics::CountAttempt() {
  attempts_.Increment();
}

void Metrics::CountFailure(v1::ExitCause cause) {
  ForEachValue(v1::ExitCause_descriptor(), [&](int number, const std::string& label) {
    if (number == cause) failures_.Add({{"cause", label}}).Increment();
  });
}

void Metrics::CountGate(bool reached) {
  gates_.Add({{"outcome", reached ? "reached" : "missed"}}).Increment();
}

void Metrics::ObserveEstimateError(double share) {
  estimate_error_.Observe(share);
}

void Metrics::SetCounts(const Counts& counts) {
  ForEachValue(v1::JobState_descriptor(), [&](int n, const std::string& label) { jobs_.Add({{"state", label}}).Set(CountOf(counts.jobs, n)); });
  ForEachValue(v1::StageState_descriptor(), [&](int n, const std::string& label) { stages_.Add({{"state", label}}).Set(CountOf(counts.stages, n)); });
  ForEachValue(v1::WorkerState_descriptor(), [&](int n, const std::string& label) { workers_.Add({{"state", label}}).Set(CountOf(counts.workers, n)); });
  for (const char* reason : kWaitingReasons) {
    const auto found = counts.waiting.find(reason);
    waiting_.Add({{"reason", reason}}).Set(found == counts.waiting.end() ? 0 : found->second);
  }
  std::map<std::string, Counts::Queue> queues;
  {
    const absl::MutexLock lock(&mutex_);
    for (const auto& [name, queue] : counts.queues) {
      const bool known = labelled_queues_.count(name) > 0 || (labelled_queues_.size() < kMaxLabelledQueues && labelled_queues_.insert(name).second);
      Counts::Queue& sum = queues[known ? name : "other"];
      sum.slots += queue.slots;
      sum.jobs += queue.jobs;
      sum.waiting += queue.waiting;
    }
  }
  for (const auto& [name, queue] : queues) {
    queue_slots_.Add({{"queue", name}}).Set(queue.slots);
    queue_jobs_.Add({{"queue", name}}).Set(queue.jobs);
    queue_waiting_.Add({{"queue", name}}).Set(queue.waiting);
  }
  slots_.Add({{"state", "free"}}).Set(counts.free_slots);
  slots_.Add({{"state", "busy"}}).Set(counts.busy_slots);
  cordoned_.Set(counts.cordoned_workers);
  disk_size_.Set(static_cast<double>(counts.disk_size_bytes));
  disk_free_.Set(static_cast<double>(counts.disk_free_bytes));
}

Metrics::StageSeries* Metrics::SeriesOf(const std::string& job, const std::string& stage) {
  auto found = series_.find(job);
  if (found == series_.end()) {
    if (series_.size() >= kMaxLabelledJobs) return nullptr;
    found = series_.emplace(job, std::map<std::string, StageSeries>()).first;
  }
  return &found->second[stage];
}

void Metrics::Set(const std::string& job, const std::string& stage, const std::vector<std::pair<StageGauge, double>>& values) {
  StageSeries* series = SeriesOf(job, stage);
  if (series == nullptr) return;
  for (const auto& [which, value] : values) {
    const auto index = static_cast<size_t>(which);
    if (std::isnan(value)) continue;
    if (series->gauges[index] == nullptr) series->gauges[index] = &stage_gauges_[index]->Add({{"job", job}, {"stage", stage}});
    series->gauges[index]->Set(value);
  }
}

void Metrics::SetStage(const std::string& job, const std::string& stage, const v1::StageSpec& spec) {
  absl::MutexLock lock(&mutex_);
  Set(job, stage, {{StageGauge::kWeightBits, spec.weight_bits()}, {StageGauge::kActivationBits, spec.activation_bits()}, {StageGauge::kEpochs, spec.epochs()}});
}

void Metrics::SetProgress(const std::string& job, const std::string& stage, const v1::StageProgress& progress) {
  absl::MutexLock lock(&mutex_);
  Set(job, stage,
      {{StageGauge::kEpoch, progress.epoch()},
       {StageGauge::kLoss, progress.loss()},
       {StageGauge::kTrainTop1, progress.train_top1() / 100},
       {StageGauge::kImagesPerSecond, progress.images_per_second()},
       {StageGauge::kAllReduceBytes, static_cast<double>(progress.all_reduce_bytes())}});
  if (progress.seconds_left() >= 0) Set(job, stage, {{StageGauge::kSecondsLeft, progress.seconds_left()}});
}

void Metrics::SetEpoch(const std::string& job, const std::string& stage, const v1::EpochResult& result) {
  absl::MutexLock lock(&mutex_);
  Set(job, stage,
      {{StageGauge::kTestTop1, result.test_top1() / 100}, {StageGauge::kTestTop5, result.test_top5() / 100}, {StageGauge::kClipped, ClippedShare(result)}});
  if (result.peak_memory_bytes() > 0) Set(job, stage, {{StageGauge::kMemory, static_cast<double>(result.peak_memory_bytes())}});
  if (result.has_teacher()) {
    Set(job, stage, {{StageGauge::kTeacherTop1, result.teacher().test_top1() / 100}, {StageGauge::kHintDistance, result.teacher().hint()}});
  }
  StageSeries* series = SeriesOf(job, stage);
  if (series == nullptr) return;
  for (const char* part : kStepParts) {
    const auto found = result.step_seconds().find(part);
    if (found == result.step_seconds().end()) continue;
    prometheus::Gauge*& gauge = series->step_seconds[part];
    if (gauge == nullptr) gauge = &stage_step_seconds_.Add({{"job", job}, {"stage", stage}, {"part", part}});
    gauge->Set(found->second);
  }
}

void Metrics::SetCheckpoint(const std::string& job, const std::string& stage, const v1::Checkpoint& checkpoint) {
  absl::MutexLock lock(&mutex_);
  Set(job, stage,
      {{StageGauge::kCheckpointTime, static_cast<double>(checkpoint.create_time().seconds())},
       {StageGauge::kCheckpointBytes, static_cast<double>(checkpoint.size_bytes())}});
}

void Metrics::RemoveJob(const std::string& job) {
  absl::MutexLock lock(&mutex_);
  const auto found = series_.find(job);
  if (found == series_.end()) return;
  for (auto& [stage, series] : found->second) {
    for (size_t i = 0; i < series.gauges.size(); ++i) {
      if (series.gauges[i] != nullptr) stage_gauges_[i]->Remove(series.gauges[i]);
    }
    for (const auto& [part, gauge] : series.step_seconds) stage_step_seconds_.Remove(gauge);
  }
  series_.erase(found);
}

}  // namespace bitstair::server
