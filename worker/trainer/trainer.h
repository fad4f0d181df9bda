// One rank of one attempt at one stage: stage -> epoch -> step.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "bitstair/v1/trainer.pb.h"
#include "core/data/batch_loader.h"
#include "core/data/sample_source.h"
#include "core/nn/network.h"
#include "core/training/guided_step.h"
#include "core/training/mutual_step.h"
#include "core/training/sgd.h"
#include "core/training/split_guided_step.h"
#include "core/training/train_step.h"
#include "worker/trainer/gradient_allreduce.h"
#include "worker/trainer/layer_telemetry.h"
#include "worker/trainer/pair_exchange.h"
#include "worker/trainer/process_group.h"
#include "worker/trainer/progress_report.h"
#include "worker/trainer/rendezvous.h"
#include "worker/trainer/stage_config.h"
#include "worker/trainer/training_state.h"
#include "worker/trainer/worker_channel.h"

namespace bitstair::trainer {

// For tests of the programs around it, the environment variable BITSTAIR_TEST_CRASH="STAGE:RANK:STEP:GENERATION" makes the trainer of that stage, rank and
// generation ('*': any) end itself by SIGKILL when it is about to do that step (0-based, counted over the stage's epochs). Unset: nothing.
class Trainer {
 public:
  // Borrows the channel.
  Trainer(v1::StartTrainer start, WorkerChannel& channel);
  ~Trainer();

  // Trains the stage to its end, to a stop that the worker asks for, or to a failure. The one place where exceptions of LibTorch and c10d become a result;
  // throws nothing. The caller sends the result.
  v1::TrainerResult Run();

 private:
  // Ends the stage early with this cause; the first one counts.
  absl::Status Fail(v1::ExitCause cause, absl::Status status);

  absl::Status Load();   // data, network, first state
  absl::Status Join();   // rendezvous; all ranks start from equal parameters
  absl::Status Train();  // epochs from position_ on
  absl::Status TrainEpoch();
  absl::Status EndEpoch();  // average statistics, evaluate, report
  absl::Status Leave();     // nobody goes before all are done

  absl::Status LoadData();
  absl::Status LoadNets();
  absl::Status LoadState();
  absl::Status ResumeParts(const core::Checkpoint& checkpoint);  // what each part of a batch has of its own
  absl::Status MakeStep();
  absl::Status TakeStep();
  struct StepOutcome {
    std::vector<core::StepResult> nets;  // as nets_
    double distance = 0;                 // of the stage's own net from the full-precision one: the hint, or the divergence
    std::vector<double> hints;           // by hint point
  };
  // The forward and backward passes of a step, part by part of this rank. done: by part.
  absl::Status RunParts(std::vector<StepOutcome>* done);
  // Of one part. quantize: the weights have changed since the last.
  absl::StatusOr<StepOutcome> ComputeGradients(const core::Batch& batch, bool quantize);
  void Update();  // the weights, by the average gradients
  // Which layers are quantised in this step.
  void ChooseLayers(const core::Batch& batch);
  // Of one net, over all ranks.
  struct TestResult {
    double loss, top1, top5;
    int64_t skipped;  // images
  };
  absl::StatusOr<std::vector<TestResult>> EvaluateAll();  // as nets_
  // Adds the rows of sums of all parts; of a split pair those of both nets.
  absl::Status Evaluate(core::Network& network, std::vector<std::vector<double>>* rows);
  absl::StatusOr<TestResult> TestResultOf(const std::vector<std::vector<double>>& rows);  // of one net
  std::vector<std::vector<double>> TelemetrySums() const;                                 // by part of this rank
  v1::TeacherResult TeacherSoFar() const;
  // Adds what the nets beside the stage's own have done. Returns it in words.
  std::string AddOtherNets(const std::vector<TestResult>& tests, v1::EpochResult* result) const;
  int64_t bytes_sent() const;
  absl::Status SaveCheckpoint(bool averaged, bool final);
  absl::Status StopHere();
  // All ranks call it after they have agreed that one of them failed; all give the same status and cause. failures: by part, kFine, kFailed or kBadData.
  absl::Status FailTogether(const absl::Status& own, const std::vector<double>& failures);
  void LogSkipped(const std::vector<std::string>& reasons);
  void CrashForTests() const;
  void SendProgress(bool now = false);
  int64_t StepOfStage() const { return position_.epoch * steps_per_epoch_ + position_.step; }
  std::string Where() const;
  const v1::StageSpec& spec() const { return start_.spec(); }
  bool is_rank0() const { return start_.rank() == 0; }

  const v1::StartTrainer start_;
  WorkerChannel& channel_;
  BatchParts parts_;
  GangSet set_;
  ProgressReport report_;
  v1::ExitCause cause_ = v1::EXIT_CAUSE_UNSPECIFIED;

  std::unique_ptr<core::SampleSource> train_;
  std::unique_ptr<core::SampleSource> test_;
  std::unique_ptr<core::BatchLoader> loader_;
  std::unique_ptr<RendezvousStore> store_;  // null in a gang of one
  std::unique_ptr<ProcessGroup> group_;     // of the stage's own net, and for all other exchanges
  // A net with what trains it. Each has an all-reduce and a process group of its own, so that the buckets of one do not wait for the other's.
  struct Net {
    std::string prefix;  // of its names in a checkpoint
    std::unique_ptr<core::Network> network;
    std::unique_ptr<core::Sgd> sgd;
    std::unique_ptr<ProcessGroup> group;  // null: group_
    std::unique_ptr<GradientAllreduce> gradients;
    // A rank with several parts of a batch: their running statistics (FlattenStatistics). Empty: the network holds those of the only one.
    std::vector<at::Tensor> statistics;
  };
  std::vector<at::Tensor> GatherStatistics(size_t net);  // of all parts
  absl::Status AverageStatistics();                      // of all nets, at an epoch's end
  std::vector<Net> nets_;                                // the stage's own; the full-precision one of a guided pair or a distillation; its further students
  std::vector<StageNet> StageNets() const;
  // Of a split pair this process trains one net alone; the other is as the stage began, or as the last checkpoint brought it to rank 0.
  bool split() const { return IsSplit(spec()); }
  std::vector<Net*> TrainedNets();
  std::string TrainedDigest() const;
  void BringFullNetToRank0();
  std::unique_ptr<core::TrainStep> step_;  // one of the four
  std::unique_ptr<core::GuidedStep> guided_step_;
  std::unique_ptr<core::SplitGuidedStep> split_step_;
  std::unique_ptr<ProcessGroup> feature_group_, feature_group_back_;  // of both sets; the second on GPU slots alone
  std::unique_ptr<PairExchange> exchange_;
  std::unique_ptr<core::MutualStep> mutual_step_;
  std::unique_ptr<LayerTelemetry> telemetry_;
  NamedTensors teacher_start_;  // TEACHER_START_RESET alone

  Position position_;
  int64_t steps_per_epoch_ = 0;
  bool stop_agreed_ = false;  // by all ranks, after the same step
  double learning_rate_ = 0;
  int64_t skipped_ = 0;         // images that this rank has not been able to read in this epoch
  int64_t skipped_logged_ = 0;  // of the stage
};

}  // namespace bitstair::trainer
