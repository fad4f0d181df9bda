#include "worker/metrics.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace bitstair::worker {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;

constexpr absl::string_view kPrefix = "EXIT_CAUSE_";

}  // namespace

std::string CauseName(v1::ExitCause cause) {
  const std::string name = v1::ExitCause_Name(cause);
  return absl::AsciiStrToLower(name.size() > kPrefix.size() ? name.substr(kPrefix.size()) : "unknown");
}

WorkerMetrics::WorkerMetrics() {
  auto& registry = *registry_;
  auto& slots = BuildGauge().Name("bitstair_worker_slots").Help("Slots of this worker by state").Register(registry);
  slots_free_ = &slots.Add({{"state", "free"}});
  slots_busy_ = &slots.Add({{"state", "busy"}});
  connected_ = &BuildGauge().Name("bitstair_worker_connected").Help("1 while the coordinator has welcomed this worker, else 0").Register(registry).Add({});
  disk_size_ = &BuildGauge().Name("bitstair_worker_disk_size_bytes").Help("Size of the file system of the worker's state folder").Register(registry).Add({});
  disk_free_ =
      &BuildGauge().Name("bitstair_worker_disk_free_bytes").Help("Free bytes of the file system of the worker's state folder").Register(registry).Add({});
  connections_ = &BuildCounter().Name("bitstair_worker_connections_total").Help("Times that the coordinator welcomed this worker").Register(registry).Add({});
  trainers_started_ = &BuildCounter().Name("bitstair_worker_trainers_started_total").Help("Trainer processes started").Register(registry).Add({});
  auto& exits = BuildCounter().Name("bitstair_worker_trainer_exits_total").Help("Ends of trainers by cause").Register(registry);
  for (int cause = v1::EXIT_CAUSE_FINISHED; cause <= v1::ExitCause_MAX; ++cause) {
    if (v1::ExitCause_IsValid(cause)) trainer_exits_[static_cast<v1::ExitCause>(cause)] = &exits.Add({{"cause", CauseName(static_cast<v1::ExitCause>(cause))}});
  }
  auto& uploads = BuildCounter().Name("bitstair_worker_uploads_total").Help("Uploads of checkpoints by result").Register(registry);
  uploads_ok_ = &uploads.Add({{"result", "ok"}});
  uploads_failed_ = &uploads.Add({{"result", "failed"}});
  upload_bytes_ = &BuildCounter().Name("bitstair_worker_upload_bytes_total").Help("Bytes of checkpoints sent").Register(registry).Add({});
  download_bytes_ = &BuildCounter().Name("bitstair_worker_download_bytes_total").Help("Bytes of checkpoints received").Register(registry).Add({});
  upload_seconds_ = &BuildHistogram()
                         .Name("bitstair_worker_upload_duration_seconds")
                         .Help("Time from the wish to upload a checkpoint to its being whole in the artifact store")
                         .Register(registry)
                         .Add({}, prometheus::Histogram::BucketBoundaries{0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300});
  checkpoint_seconds_ = &BuildHistogram()
                             .Name("bitstair_worker_checkpoint_duration_seconds")
                             .Help("Time that training stood still for a checkpoint: its state gathered, written, and safe on the local disk")
                             .Register(registry)
                             .Add({}, prometheus::Histogram::BucketBoundaries{0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300});
  BuildGauge().Name("bitstair_worker_build_info").Help("Always 1; the labels tell the version").Register(registry).Add({{"version", BITSTAIR_VERSION}}).Set(1);
  loss_ = &BuildGauge().Name("bitstair_worker_stage_loss").Help("Mean training loss of the present epoch of a running stage").Register(registry);
  images_per_second_ =
      &BuildGauge().Name("bitstair_worker_stage_images_per_second").Help("Training images per second over all ranks of a running stage").Register(registry);
  epoch_ = &BuildGauge().Name("bitstair_worker_stage_epoch").Help("Present epoch of a running stage, from 1").Register(registry);
}

absl::StatusOr<std::string> WorkerMetrics::Serve(const daemon::HostPort& listen) {
  auto server = daemon::HttpServer::Start(listen, {{"/metrics", daemon::MetricsHandler(registry_)}});
  if (!server.ok()) return server.status();
  server_ = *std::move(server);
  return daemon::ToString(server_->address());
}

void WorkerMetrics::SetSlots(int total, int busy) {
  slots_free_->Set(total - busy);
  slots_busy_->Set(busy);
}

void WorkerMetrics::SetDisk(int64_t size_bytes, int64_t free_bytes) {
  disk_size_->Set(static_cast<double>(size_bytes));
  disk_free_->Set(static_cast<double>(free_bytes));
}

void WorkerMetrics::SetConnected(bool connected) {
  if (connected) connections_->Increment();
  connected_->Set(connected ? 1 : 0);
}

void WorkerMetrics::TrainerStarted() {
  trainers_started_->Increment();
}

void WorkerMetrics::TrainerExited(v1::ExitCause cause) {
  if (const auto found = trainer_exits_.find(cause); found != trainer_exits_.end()) found->second->Increment();
}

void WorkerMetrics::UploadDone(bool ok, double seconds) {
  (ok ? uploads_ok_ : uploads_failed_)->Increment();
  if (ok) upload_seconds_->Observe(seconds);
}

void WorkerMetrics::ObserveCheckpoint(double seconds) {
  if (seconds > 0) checkpoint_seconds_->Observe(seconds);
}

void WorkerMetrics::AddUploadBytes(int64_t bytes) {
  upload_bytes_->Increment(static_cast<double>(bytes));
}
void WorkerMetrics::AddDownloadBytes(int64_t bytes) {
  download_bytes_->Increment(static_cast<double>(bytes));
}

void WorkerMetrics::SetProgress(const std::string& stage, const v1::StageProgress& progress) {
  auto found = stages_.find(stage);
  if (found == stages_.end()) {
    const prometheus::Labels labels{{"stage", stage}};
    found = stages_.emplace(stage, StageGauges{&loss_->Add(labels), &images_per_second_->Add(labels), &epoch_->Add(labels)}).first;
  }
  found->second.loss->Set(progress.loss());
  found->second.images_per_second->Set(progress.images_per_second());
  found->second.epoch->Set(progress.epoch());
}

void WorkerMetrics::RemoveStage(const std::string& stage) {
  const auto found = stages_.find(stage);
  if (found == stages_.end()) return;
  loss_->Remove(found->second.loss);
  images_per_second_->Remove(found->second.images_per_second);
  epoch_->Remove(found->second.epoch);
  stages_.erase(found);
}

}  // namespace bitstair::worker
