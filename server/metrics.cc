#include "server/metrics.h"

#include <google/protobuf/descriptor.h>

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"

namespace bitstair::server {
namespace {

prometheus::Family<prometheus::Gauge>& Gauges(prometheus::Registry& registry, const std::string& name, const std::string& help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
}
prometheus::Family<prometheus::Counter>& Counters(prometheus::Registry& registry, const std::string& name, const std::string& help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}

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

}  // namespace

Metrics::Metrics(const std::string& version)
    : rpcs_(Counters(*registry_, "bitstair_rpcs_total", "Calls answered, by method and status code.")),
      failures_(Counters(*registry_, "bitstair_attempt_failures_total", "Attempts at a stage that ended badly, by cause.")),
      attempts_(Counters(*registry_, "bitstair_attempts_total", "Attempts at a stage that were started.").Add({})),
      commits_(Counters(*registry_, "bitstair_store_commits_total", "Commits to the job store.").Add({})),
      commit_seconds_(prometheus::BuildHistogram()
                          .Name("bitstair_store_transaction_duration_seconds")
                          .Help("Duration of the job store's transactions; one may hold several commits.")
                          .Register(*registry_)
                          .Add({}, prometheus::Histogram::BucketBoundaries{0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2})),
      estimate_error_(prometheus::BuildHistogram()
                          .Name("bitstair_stage_duration_estimate_error_ratio")
                          .Help("How far off the time was that a stage was to take when it started: |predicted - taken| / taken, of stages done in one attempt.")
                          .Register(*registry_)
                          .Add({}, prometheus::Histogram::BucketBoundaries{0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5})),
      jobs_(Gauges(*registry_, "bitstair_jobs", "Jobs by state.")),
      stages_(Gauges(*registry_, "bitstair_stages", "Stages by state.")),
      workers_(Gauges(*registry_, "bitstair_workers", "Workers by state.")),
      slots_(Gauges(*registry_, "bitstair_slots", "Slots of connected workers, free or busy.")),
      stage_epoch_(Gauges(*registry_, "bitstair_stage_epoch", "Epoch that a running stage is in.")),
      stage_loss_(Gauges(*registry_, "bitstair_stage_loss", "Mean training loss of the present epoch so far.")),
      stage_train_top1_(Gauges(*registry_, "bitstair_stage_train_top1_ratio", "Top-1 accuracy on training images of the present epoch so far, 0 to 1.")),
      stage_images_(Gauges(*registry_, "bitstair_stage_images_per_second", "Training speed over all ranks.")),
      stage_test_top1_(Gauges(*registry_, "bitstair_stage_test_top1_ratio", "Top-1 accuracy on the test images after the last whole epoch, 0 to 1.")) {
  Gauges(*registry_, "bitstair_build_info", "Version of the running program; always 1.").Add({{"version", version}}).Set(1);
  ForEachValue(v1::ExitCause_descriptor(), [&](int number, const std::string& label) {
    if (number != v1::EXIT_CAUSE_FINISHED && number != v1::EXIT_CAUSE_STOPPED) failures_.Add({{"cause", label}});
  });
  SetCounts({});
}

void Metrics::CountRpc(const std::string& method, const absl::Status& status) {
  rpcs_.Add({{"method", method}, {"code", absl::AsciiStrToLower(absl::StatusCodeToString(status.code()))}}).Increment();
}

void Metrics::ObserveCommit(double seconds, size_t commits) {
  commit_seconds_.Observe(seconds);
  commits_.Increment(static_cast<double>(commits));
}

void Metrics::CountAttempt() {
  attempts_.Increment();
}

void Metrics::CountFailure(v1::ExitCause cause) {
  ForEachValue(v1::ExitCause_descriptor(), [&](int number, const std::string& label) {
    if (number == cause) failures_.Add({{"cause", label}}).Increment();
  });
}

void Metrics::ObserveEstimateError(double share) {
  estimate_error_.Observe(share);
}

void Metrics::SetCounts(const Counts& counts) {
  ForEachValue(v1::JobState_descriptor(), [&](int n, const std::string& label) { jobs_.Add({{"state", label}}).Set(CountOf(counts.jobs, n)); });
  ForEachValue(v1::StageState_descriptor(), [&](int n, const std::string& label) { stages_.Add({{"state", label}}).Set(CountOf(counts.stages, n)); });
  ForEachValue(v1::WorkerState_descriptor(), [&](int n, const std::string& label) { workers_.Add({{"state", label}}).Set(CountOf(counts.workers, n)); });
  slots_.Add({{"state", "free"}}).Set(counts.free_slots);
  slots_.Add({{"state", "busy"}}).Set(counts.busy_slots);
}

Metrics::StageSeries* Metrics::SeriesOf(const std::string& job, const std::string& stage) {
  auto found = series_.find(job);
  if (found == series_.end()) {
    if (series_.size() >= kMaxLabelledJobs) return nullptr;
    found = series_.emplace(job, std::map<std::string, StageSeries>()).first;
  }
  auto [series, added] = found->second.try_emplace(stage);
  if (added) {
    const prometheus::Labels labels = {{"job", job}, {"stage", stage}};
    series->second = {&stage_epoch_.Add(labels), &stage_loss_.Add(labels), &stage_train_top1_.Add(labels), &stage_images_.Add(labels),
                      &stage_test_top1_.Add(labels)};
  }
  return &series->second;
}

void Metrics::SetProgress(const std::string& job, const std::string& stage, const v1::StageProgress& progress) {
  absl::MutexLock lock(&mutex_);
  StageSeries* series = SeriesOf(job, stage);
  if (series == nullptr) return;
  series->epoch->Set(progress.epoch());
  series->loss->Set(progress.loss());
  series->train_top1->Set(progress.train_top1() / 100);
  series->images_per_second->Set(progress.images_per_second());
}

void Metrics::SetTestAccuracy(const std::string& job, const std::string& stage, const v1::EpochResult& result) {
  absl::MutexLock lock(&mutex_);
  if (StageSeries* series = SeriesOf(job, stage)) series->test_top1->Set(result.test_top1() / 100);
}

void Metrics::RemoveJob(const std::string& job) {
  absl::MutexLock lock(&mutex_);
  const auto found = series_.find(job);
  if (found == series_.end()) return;
  for (auto& [stage, series] : found->second) {
    stage_epoch_.Remove(series.epoch);
    stage_loss_.Remove(series.loss);
    stage_train_top1_.Remove(series.train_top1);
    stage_images_.Remove(series.images_per_second);
    stage_test_top1_.Remove(series.test_top1);
  }
  series_.erase(found);
}

}  // namespace bitstair::server
