#include "core/training/divergence.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/nn/tape.h"

namespace bitstair::core {

at::Tensor DivergenceFrom(const at::Tensor& constant, const at::Tensor& logits, double temperature) {
  at::Tensor gradient, value;
  {
    const at::NoGradGuard no_grad;
    const at::Tensor log_p = at::log_softmax(constant.detach().to(at::kDouble) / temperature, 1);
    const at::Tensor log_q = at::log_softmax(logits.detach().to(at::kDouble) / temperature, 1);
    const at::Tensor p = log_p.exp();
    const auto images = static_cast<double>(logits.size(0));
    value = ((p * (log_p - log_q)).sum() / images).to(logits.scalar_type());
    gradient = ((log_q.exp() - p) / (temperature * images)).to(logits.scalar_type());
  }
  at::Tensor node = at::full({}, value.item<double>(), logits.options().requires_grad(false));
  Record({logits}, node, [gradient](const at::Tensor& grad) -> std::vector<at::Tensor> { return {gradient * grad}; });
  return node;
}

}  // namespace bitstair::core
