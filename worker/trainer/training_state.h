// Between a checkpoint and the live network: what is saved, and what a stage starts from.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bitstair/v1/trainer.pb.h"
#include "core/checkpoint/checkpoint.h"
#include "core/data/sample_source.h"
#include "core/nn/network.h"
#include "core/training/sgd.h"

namespace bitstair::trainer {

// How far a stage is. The sums run over all parts' images of the current epoch, so that a resumed epoch is reported exactly.
struct Position {
  int epoch = 0;     // whole epochs done
  int64_t step = 0;  // steps done of the next one
  double loss_sum = 0;
  int64_t correct = 0;
  // Of the full-precision net of a guided pair, and of the hint; of the teacher of a distillation, and of the divergence.
  double full_loss_sum = 0;
  int64_t full_correct = 0;
  double hint_sum = 0;
  std::vector<core::Checkpoint::NetSums> students;  // further ones of a distillation
};

// The network's running statistics, which are those of one part of a batch (stage_config.h), as one float64 tensor, in the order of network.buffers(), and
// back.
at::Tensor FlattenStatistics(core::Network& network);
void SetStatistics(const at::Tensor& flat, core::Network& network);

// The mean of the parts' statistics, summed in their order in float64.
at::Tensor MeanStatistics(const std::vector<at::Tensor>& of_parts);

// A net of a stage, and the prefix of its names in a checkpoint: "" for the stage's own, kFullPrefix for the full-precision net of a guided pair
// or a distillation, StudentPrefix for further students. Borrowed.
struct StageNet {
  core::Network* network = nullptr;
  core::Sgd* sgd = nullptr;
  std::string prefix;
};
inline constexpr char kFullPrefix[] = "full/";
// further: from 0; the stage's own net is the first student.
std::string StudentPrefix(int further);

using NamedTensors = std::map<std::string, at::Tensor>;

// Everything but tensors.
core::Checkpoint MakeCheckpoint(const v1::StartTrainer& start, const Position& position, bool final);

// Adds a net's tensors. statistics: every part's, in order. averaged: an epoch has just ended, all parts hold the mean, which is saved too.
void AddNet(const StageNet& net, const std::vector<at::Tensor>& statistics, bool averaged, core::Checkpoint* checkpoint);

// Weights, momentum, the statistics of this rank's first part of all nets and the position, from a checkpoint of the same stage. A stage with fixed shards may
// have had any number of ranks. INVALID_ARGUMENT says what does not fit.
absl::Status Resume(const core::Checkpoint& checkpoint, const v1::StartTrainer& start, const std::vector<StageNet>& nets, Position* position);

// A part's statistics of a net, as FlattenStatistics gives them. INVALID_ARGUMENT names the tensor that the checkpoint lacks.
absl::StatusOr<at::Tensor> StatisticsOfPart(const core::Checkpoint& checkpoint, const StageNet& net, int part);

// The first state of a stage with a parent: its weights and averaged statistics, its momentum if the stage carries it, and the calibration from ReLU to a clip
// if the stage asks for it (DESIGN section 3): on the first 2048 training images, followed by a new estimate of the statistics on the same images. Every rank
// computes it and gets the same bits.
absl::Status StartFromParent(const core::Checkpoint& parent, const v1::StageSpec& spec, const core::SampleSource& train, core::Network& network,
                             core::Sgd& sgd);

// The same for a further student of a distillation: from a full-precision parent, or from that student of the parent.
absl::Status StartStudent(const core::Checkpoint& parent, const v1::StageSpec& spec, const core::SampleSource& train, int further, core::Network& network,
                          core::Sgd& sgd);

// The same for the full-precision net of a guided pair or a distillation. From a full-precision parent: as StartFromParent. From a pair: its full-precision
// net, with TEACHER_START_RESET in the state that the chain's first pair stage gave it (TeacherStart), without momentum.
absl::Status StartTeacher(const core::Checkpoint& parent, const v1::StageSpec& spec, const core::SampleSource& train, core::Network& network, core::Sgd& sgd);

// Replaces the running statistics by those of the first 2048 training images, as calibration does: on every rank the same bits. For stochastic precision, whose
// steps see other networks than the one that is evaluated.
absl::Status ReestimateStatistics(const core::SampleSource& train, core::Network& network);

// What TEACHER_START_RESET goes back to: a copy of the full-precision net's weights and statistics as the chain's first pair stage began. It travels from
// checkpoint to checkpoint, so that no stage needs more than one parent.
void AddTeacherStart(const NamedTensors& teacher_start, core::Checkpoint* checkpoint);
// Empty if the checkpoint has none.
NamedTensors TeacherStart(const core::Checkpoint& checkpoint);

// Of an epoch that is not over: every part's sums (LayerTelemetry), in order, and one part's of them; nothing if the checkpoint has none.
void AddTelemetry(const std::vector<std::vector<double>>& of_parts, core::Checkpoint* checkpoint);
std::optional<std::vector<double>> TelemetryOf(const core::Checkpoint& checkpoint, int part);

// SHA-256 over names, latent weights and momentum of all nets. Equal on all ranks at every step.
std::string ParametersDigest(const std::vector<StageNet>& nets);

// "cpu-AVX512-Float-threads1-ranks2-libtorch2.11.0-numerics6": runs under equal profiles give equal bits (DESIGN section 7). With fixed shards it has their
// number in the place of the ranks'.
std::string NumericProfile(const v1::StartTrainer& start);

}  // namespace bitstair::trainer
