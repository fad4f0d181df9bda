#include "core/training/train_step.h"

#include <cmath>

#include <ATen/ATen.h>

#include "absl/strings/str_cat.h"
#include "core/kernels/step_clock.h"

namespace bitstair::core {
namespace {

bool Finite(const at::Tensor& tensor) {
  return at::isfinite(tensor.detach()).all().item<bool>();
}

// Where the first number that is not finite can be seen. Running statistics have just taken up this batch's, so they tell the layer.
std::string WhereNotFinite(Network& network, const at::Tensor& images) {
  if (!Finite(images)) return "the images are not finite";
  for (const Parameter& p : network.parameters()) {
    if (!Finite(p.latent)) return absl::StrCat("parameter ", p.name, " is not finite");
  }
  for (const Buffer& b : network.buffers()) {
    if (!Finite(b.value)) return absl::StrCat("first seen in ", b.name);
  }
  return "all parameters and running statistics are finite";
}

}  // namespace

TrainStep::TrainStep(Network* network, Sgd* sgd, GradientSink* gradients) : network_(network), sgd_(sgd), gradients_(gradients) {}

absl::StatusOr<StepResult> TrainStep::Run(const Batch& batch, double learning_rate) {
  gradients_->PrepareForward();
  const at::Tensor images = batch.images.to(network_->config().dtype);
  at::Tensor logits;
  try {
    {
      const StepTimer timer(StepPart::kWeights);
      network_->QuantizeWeights();
    }
    logits = network_->Forward(images, /*training=*/true);
  } catch (const NotANumber& error) {
    return absl::InternalError(absl::StrCat("batch ", batch.index, ": ", error.what(), "; ", WhereNotFinite(*network_, images)));
  }
  const at::Tensor loss = at::cross_entropy_loss(logits, batch.labels);

  StepResult result;
  result.loss = loss.item<double>();
  if (!std::isfinite(result.loss)) {
    return absl::InternalError(absl::StrCat("the loss of batch ", batch.index, " is ", result.loss, "; ", WhereNotFinite(*network_, images)));
  }
  result.images = batch.labels.size(0);
  result.correct = logits.detach().argmax(1).eq(batch.labels).sum().item<int64_t>();

  gradients_->PrepareBackward(loss);
  loss.backward();
  {
    const StepTimer timer(StepPart::kAllReduce);
    gradients_->Finish();
  }
  const StepTimer timer(StepPart::kOptimiser);
  sgd_->Step(learning_rate);
  return result;
}

}  // namespace bitstair::core
