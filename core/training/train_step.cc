#include "core/training/train_step.h"

#include <cmath>

#include <ATen/ATen.h>

#include "absl/strings/str_cat.h"
#include "core/kernels/step_clock.h"
#include "core/training/classification_loss.h"

namespace bitstair::core {
TrainStep::TrainStep(Network* network, Sgd* sgd, GradientSink* gradients) : network_(network), sgd_(sgd), gradients_(gradients) {}

absl::StatusOr<StepResult> TrainStep::Run(const Batch& batch, double learning_rate) {
  absl::StatusOr<StepResult> result = ComputeGradients(batch);
  if (result.ok()) Update(learning_rate);
  return result;
}

absl::StatusOr<StepResult> TrainStep::ComputeGradients(const Batch& batch, bool quantize) {
  gradients_->PrepareForward();
  const at::Tensor images = batch.images.to(network_->config().dtype);
  at::Tensor logits;
  try {
    if (quantize) {
      const StepTimer timer(StepPart::kWeights);
      network_->QuantizeWeights();
    }
    network_->set_position(batch.position);
    logits = network_->Forward(images, /*training=*/true);
  } catch (const NotANumber& error) {
    return absl::InternalError(absl::StrCat("batch ", batch.index, ": ", error.what(), "; ", WhereNotFinite(*network_, images)));
  }
  StepResult result;
  const at::Tensor loss = ClassificationLoss(*network_, logits, batch.labels, &result.correct);
  result.loss = loss.item<double>();
  result.images = batch.labels.size(0);
  if (!std::isfinite(result.loss)) {
    return absl::InternalError(absl::StrCat("the loss of batch ", batch.index, " is ", result.loss, "; ", WhereNotFinite(*network_, images)));
  }

  gradients_->PrepareBackward(loss);
  loss.backward();
  const StepTimer timer(StepPart::kAllReduce);
  gradients_->Finish();
  return result;
}

void TrainStep::Update(double learning_rate) {
  const StepTimer timer(StepPart::kOptimiser);
  sgd_->Step(learning_rate);
}

}  // namespace bitstair::core
