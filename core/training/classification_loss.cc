#include "core/training/classification_loss.h"

#include <ATen/ATen.h>

#include "absl/strings/str_cat.h"
#include "core/kernels/cross_entropy.h"
#include "core/nn/tape.h"

namespace bitstair::core {
namespace {

bool Finite(const at::Tensor& tensor) {
  return at::isfinite(tensor.detach()).all().item<bool>();
}

}  // namespace

at::Tensor ClassificationLoss(const Network& network, const at::Tensor& logits, const at::Tensor& labels, int64_t* correct) {
  if (network.config().numerics == Numerics::kReference) {
    *correct = logits.detach().argmax(1).eq(labels).sum().item<int64_t>();
    return at::cross_entropy_loss(logits, labels);
  }
  const CrossEntropy entropy = SoftmaxCrossEntropy(logits.detach().contiguous(), labels);
  *correct = entropy.correct;
  at::Tensor loss = at::full({}, entropy.loss, logits.options());
  Record({logits}, loss, [gradient = entropy.gradient](const at::Tensor& grad) -> std::vector<at::Tensor> { return {gradient * grad}; });
  return loss;
}

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

}  // namespace bitstair::core
