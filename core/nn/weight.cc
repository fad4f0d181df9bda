#include "core/nn/weight.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

namespace bitstair::core {

Weight::Weight(std::string name, const at::Tensor& initial, std::unique_ptr<WeightQuantizer> quantizer)
    : name_(std::move(name)), latent_(initial.contiguous()), quantizer_(std::move(quantizer)) {
  leaf_ = quantizer_ ? at::zeros_like(latent_) : latent_;
  leaf_.set_requires_grad(true);
  Quantize();
}

Parameter Weight::parameter() const {
  return {name_, latent_, leaf_, quantizer_.get(), false};
}

void Weight::Quantize() {
  if (!quantizer_) return;
  const at::NoGradGuard no_grad;
  at::Tensor values = leaf_.detach();  // shares the memory, so that the leaf keeps its identity
  Quantized q = quantizer_->Forward(latent_, values);
  TORCH_CHECK(q.offset == 0, name_, ": layers take weight codes without an offset");
  codes_ = std::move(q.codes);
  scale_ = q.scale;
}

}  // namespace bitstair::core
