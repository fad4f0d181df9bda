// What a worker shows to Prometheus.
#pragma once

#include <map>
#include <memory>
#include <string>

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bitstair/v1/fleet.pb.h"
#include "server/daemon/http_server.h"

namespace bitstair::worker {

// "EXIT_CAUSE_PEER_LOST" -> "peer_lost"
std::string CauseName(v1::ExitCause cause);

// Every series that does not belong to an attempt exists from the start. Thread-safe, as prometheus-cpp is.
class WorkerMetrics {
 public:
  WorkerMetrics();
  WorkerMetrics(const WorkerMetrics&) = delete;
  WorkerMetrics& operator=(const WorkerMetrics&) = delete;

  const prometheus::Registry& registry() const { return *registry_; }

  // Serves /metrics; returns the address with the real port. UNAVAILABLE names the address where it cannot be listened on.
  absl::StatusOr<std::string> Serve(const daemon::HostPort& listen);

  void SetSlots(int total, int busy);
  // Of the file system of the state folder.
  void SetDisk(int64_t size_bytes, int64_t free_bytes);
  void SetConnected(bool connected);
  void TrainerStarted();
  void TrainerExited(v1::ExitCause cause);
  // Of a trainer's rank 0.
  void ObserveCheckpoint(double seconds);
  void UploadDone(bool ok, double seconds);
  void AddUploadBytes(int64_t bytes);
  void AddDownloadBytes(int64_t bytes);
  void SetProgress(const std::string& stage, const v1::StageProgress& progress);
  // The stage's series leave.
  void RemoveStage(const std::string& stage);

 private:
  struct StageGauges {
    prometheus::Gauge* loss;
    prometheus::Gauge* images_per_second;
    prometheus::Gauge* epoch;
  };
  const std::shared_ptr<prometheus::Registry> registry_ = std::make_shared<prometheus::Registry>();
  std::unique_ptr<daemon::HttpServer> server_;
  prometheus::Gauge* slots_free_;
  prometheus::Gauge* slots_busy_;
  prometheus::Gauge* connected_;
  prometheus::Gauge* disk_size_;
  prometheus::Gauge* disk_free_;
  prometheus::Counter* connections_;
  prometheus::Counter* trainers_started_;
  std::map<v1::ExitCause, prometheus::Counter*> trainer_exits_;
  prometheus::Counter* uploads_ok_;
  prometheus::Counter* uploads_failed_;
  prometheus::Counter* upload_bytes_;
  prometheus::Counter* download_bytes_;
  prometheus::Histogram* upload_seconds_;
  prometheus::Histogram* checkpoint_seconds_;
  prometheus::Family<prometheus::Gauge>* loss_;
  prometheus::Family<prometheus::Gauge>* images_per_second_;
  prometheus::Family<prometheus::Gauge>* epoch_;
  std::map<std::string, StageGauges> stages_;  // only touched on the strand
};

}  // namespace bitstair::worker
