// One step of mutual distillation: a teacher and its students learn the labels, and from each other (DESIGN section 3, "Journal version").
//   student j:  CE_j + b T^2 KL(teacher || student_j)        p = softmax(logits / T);   KL(p || q) = sum over classes of p log(p / q), mean over the batch
//   teacher:    CE_t + g T^2 mean_j KL(student_j || teacher)
// In each loss the other nets are constants. All nets see the same batch; one backward pass goes through all.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "core/data/batch.h"
#include "core/training/net_pass.h"

namespace bitstair::core {

struct DistillationOptions {
  double temperature = 1;       // T, above 0
  double student_weight = 0.5;  // b, at least 0
  double teacher_weight = 0.5;  // g, at least 0
};

struct MutualStepResult {
  std::vector<StepResult> students;  // loss: cross-entropy alone
  StepResult teacher;
  double divergence = 0;  // mean_j KL(teacher || student_j)
};

class MutualStep {
 public:
  // INVALID_ARGUMENT names what is wrong with nets or options: no student; nets of other networks, images, classes, numerics or dtypes; a teacher with few
  // bits; T that is not above 0; weights below 0 or not finite.
  static absl::StatusOr<std::unique_ptr<MutualStep>> Create(std::vector<PairMember> students, PairMember teacher, const DistillationOptions& options);

  // INTERNAL, naming batch, net and layer, if a loss is not finite or, in numerics fast, an activation is not a number; all weights are then unchanged.
  // c10::Error passes through when a peer is lost. Not thread-safe.
  absl::StatusOr<MutualStepResult> Run(const Batch& batch, double student_learning_rate, double teacher_learning_rate);

  // Run in two halves, as TrainStep has them.
  absl::StatusOr<MutualStepResult> ComputeGradients(const Batch& batch, bool quantize = true);
  void Update(double student_learning_rate, double teacher_learning_rate);

 private:
  MutualStep(std::vector<PairMember> students, PairMember teacher, const DistillationOptions& options);

  const std::vector<PairMember> students_;
  const PairMember teacher_;
  const DistillationOptions options_;
};

}  // namespace bitstair::core
