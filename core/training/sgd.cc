#include "core/training/sgd.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/quant/weight_pass.h"

namespace bitstair::core {

Sgd::Sgd(std::vector<Parameter>& parameters, SgdOptions options) : parameters_(parameters), options_(options) {
  for (const Parameter& p : parameters_) momentum_.push_back(at::zeros_like(p.latent.detach()));
}

void Sgd::Step(double learning_rate) {
  const at::NoGradGuard no_grad;
  std::vector<WeightToUpdate> weights;
  if (norms_ != nullptr) norms_->clear();
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& p = parameters_[i];
    TORCH_CHECK(p.leaf.grad().defined(), p.name, " has no gradient");
    if (norms_ != nullptr) norms_->push_back(p.leaf.grad().norm(2, at::kDouble).item<double>());
    const double decay = p.batch_norm && !options_.decay_batch_norm ? 0 : options_.weight_decay;
    // detach() shares the memory
    weights.push_back({p.quantizer, p.latent.detach(), p.leaf.grad().contiguous(), momentum_[i], {learning_rate, options_.momentum, decay, options_.nesterov}});
    p.leaf.mutable_grad().reset();
  }
  UpdateWeights(weights);
}

}  // namespace bitstair::core
