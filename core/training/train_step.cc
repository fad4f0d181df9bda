#include "core/training/train_step.h"

#include <cmath>

#include <ATen/ATen.h>

#include "absl/strings/str_cat.h"
#include "core/kernels/cross_entropy.h"
#include "core/kernels/step_clock.h"
#include "core/nn/tape.h"

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

// The mean cross-entropy, as a node of autograd's graph.
at::Tensor TrainStep::Loss(const at::Tensor& logits, const at::Tensor& labels, int64_t* correct) const {
  if (network_->config().numerics == Numerics::kReference) {
    *correct = logits.detach().argmax(1).eq(labels).sum().item<int64_t>();
    return at::cross_entropy_loss(logits, labels);
  }
  const CrossEntropy entropy = SoftmaxCrossEntropy(logits.detach().contiguous(), labels);
  *correct = entropy.correct;
  at::Tensor loss = at::full({}, entropy.loss, logits.options());
  Record({logits}, loss, [gradient = entropy.gradient](const at::Tensor& grad) -> std::vector<at::Tensor> { return {gradient * grad}; });
  return loss;
}

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
    network_->set_position(batch.position);
    logits = network_->Forward(images, /*training=*/true);
  } catch (const NotANumber& error) {
    return absl::InternalError(absl::StrCat("batch ", batch.index, ": ", error.what(), "; ", WhereNotFinite(*network_, images)));
  }
  StepResult result;
  const at::Tensor loss = Loss(logits, batch.labels, &result.correct);
  result.loss = loss.item<double>();
  result.images = batch.labels.size(0);
  if (!std::isfinite(result.loss)) {
    return absl::InternalError(absl::StrCat("the loss of batch ", batch.index, " is ", result.loss, "; ", WhereNotFinite(*network_, images)));
  }

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
