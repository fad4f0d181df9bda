// StageSpec, as the wire has it -> the structs that core/ takes.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "bitstair/v1/trainer.pb.h"
#include "core/data/batch_loader.h"
#include "core/data/sample_source.h"
#include "core/nn/network_config.h"
#include "core/training/guided_step.h"
#include "core/training/mutual_step.h"
#include "core/training/schedule.h"
#include "core/training/sgd.h"
#include "core/training/stochastic_precision.h"
#include "worker/trainer/shard_tree.h"

namespace bitstair::trainer {

// INVALID_ARGUMENT names the field that no trainer can work with. The coordinator checks far more; this keeps nonsense from crashing a process.
absl::Status CheckStart(const v1::StartTrainer& start);

// A split pair's gang is two sets of ranks, one for each net: 0 .. n-1 train the low-precision net (set 0), n .. 2n-1 the full-precision one (set 1). Every
// other gang is one set.
bool IsSplit(const v1::StageSpec& spec);
struct GangSet {
  int set = 0;
  int rank = 0, size = 1;  // within the set
};
GangSet SetOf(const v1::StartTrainer& start);

// The equal parts into which each batch of a stage is cut, each with batch statistics and sums of its own: fixed shards (docs/elastic.md), of which a rank has
// one or more, or, with the Reducer, one part for each rank.
struct BatchParts {
  bool fixed = false;
  int count = 1;   // over all ranks
  ShardRange own;  // this rank's
  int own_count() const { return own.end - own.begin; }
};
// start: as CheckStart lets it pass. A split pair's ranks i and i + n have the same parts.
BatchParts PartsOf(const v1::StartTrainer& start);

// The network of this stage, for images such as data's.
core::NetworkConfig NetworkConfigOf(const v1::StageSpec& spec, const core::SampleSource& data);

// The same weights as the parent trained them: full precision, ReLU. For calibration.
core::NetworkConfig ParentReluConfigOf(const v1::StageSpec& spec, const core::SampleSource& data);

// The full-precision net beside this stage's own: it clips, as the calibration leaves it.
core::NetworkConfig TeacherConfigOf(const v1::StageSpec& spec, const core::SampleSource& data);

// A further student of this stage's distillation: the same with the student's widths. further: from 0.
core::NetworkConfig StudentConfigOf(const v1::StageSpec& spec, int further, const core::SampleSource& data);

// A full-precision net is trained beside the stage's own: guided or distilling. Its settings.
bool HasTeacher(const v1::StageSpec& spec);
v1::TeacherStart TeacherStartOf(const v1::StageSpec& spec);
double TeacherLearningRateFactorOf(const v1::StageSpec& spec);

core::DistillationOptions DistillationOptionsOf(const v1::StageSpec& spec);
core::StochasticPrecisionOptions StochasticPrecisionOptionsOf(const v1::StageSpec& spec);
core::GuidedOptions GuidedOptionsOf(const v1::StageSpec& spec);
core::SgdOptions SgdOptionsOf(const v1::StageSpec& spec);
core::LearningRateSchedule ScheduleOf(const v1::StageSpec& spec);
core::BatchLoaderOptions LoaderOptionsOf(const v1::StartTrainer& start);

// The counter word that keeps the random numbers of two stages and of two epochs apart (docs/formats/random.md). epoch: 0-based within the stage.
int64_t EpochWord(const v1::StageSpec& spec, int epoch);

}  // namespace bitstair::trainer
