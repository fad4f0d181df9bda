// What the worker hears of a running stage: phases with deadlines from every rank, progress from rank 0.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "bitstair/v1/trainer.pb.h"
#include "worker/trainer/worker_channel.h"

namespace bitstair::trainer {

// The training thread's.
class ProgressReport {
 public:
  using Clock = std::chrono::steady_clock;

  // Borrows the channel.
  ProgressReport(WorkerChannel& channel, bool is_rank0) : channel_(channel), is_rank0_(is_rank0) {}

  // The training thread is in this phase for at most so long. Always sent, and shown in the next progress.
  void Phase(const std::string& phase, double deadline_seconds);

  // The stage's shape. test_images: 0 if nothing is evaluated.
  void SetStage(int epochs, int64_t steps_per_epoch, int batch_size, int64_t test_images);
  void BeginEpoch(int epoch, int64_t step);
  // About once a second the worker hears of a new deadline: max(10 s, 10 x the running median of the steps).
  void BeginStep();
  void EndStep();
  // Between the batches of an evaluation.
  void Evaluating();
  void EndEvaluation(double seconds) { evaluation_seconds_ = seconds; }

  // Rank 0: sent if a quarter of a second has passed since the last, or if `now`.
  // teacher: of a guided pair's full-precision net; null: there is none.
  void Progress(double mean_loss, double top1, const v1::TeacherResult* teacher, int64_t all_reduce_bytes, bool now = false);

  // Over all ranks, of the current epoch so far.
  double images_per_second() const;
  // Of the current epoch's steps in this process.
  double training_seconds() const { return training_seconds_; }
  double StepDeadlineSeconds() const;

 private:
  double SecondsLeft() const;

  WorkerChannel& channel_;
  const bool is_rank0_;
  std::string phase_;
  Clock::time_point phase_sent_;
  Clock::time_point progress_sent_;
  Clock::time_point step_begin_;
  v1::StageProgress last_;
  int batch_size_ = 0;
  int64_t test_images_ = 0;
  int64_t steps_here_ = 0;  // of the current epoch in this process
  double training_seconds_ = 0;
  double evaluation_seconds_ = -1;
  std::vector<double> recent_steps_;  // seconds, a ring
  size_t next_recent_ = 0;
};

}  // namespace bitstair::trainer
