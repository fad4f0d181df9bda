#include "core/training/sgd.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/kernels/sgd.h"
#include "core/quant/quantizer.h"

namespace bitstair::core {

Sgd::Sgd(std::vector<Parameter>& parameters, SgdOptions options) : parameters_(parameters), options_(options) {
  for (const Parameter& p : parameters_) momentum_.push_back(at::zeros_like(p.latent.detach()));
}

void Sgd::Step(double learning_rate) {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& p = parameters_[i];
    TORCH_CHECK(p.leaf.grad().defined(), p.name, " has no gradient");
    at::Tensor latent = p.latent.detach();  // shares the memory
    at::Tensor grad = p.leaf.grad();
    if (p.quantizer != nullptr) grad = p.quantizer->Backward(latent, grad);
    const double decay = p.batch_norm && !options_.decay_batch_norm ? 0 : options_.weight_decay;
    UpdateSgd(grad.contiguous(), {learning_rate, options_.momentum, decay, options_.nesterov}, latent, momentum_[i]);
    p.leaf.mutable_grad().reset();
  }
}

}  // namespace bitstair::core
