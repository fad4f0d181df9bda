#include "core/nn/weight.h"

#include <ATen/ATen.h>

namespace bitstair::core {

Weight::Weight(std::string name, const at::Tensor& initial, std::unique_ptr<WeightQuantizer> quantizer, bool compact)
    : name_(std::move(name)), latent_(initial.contiguous()), quantizer_(std::move(quantizer)) {
  leaf_ = quantizer_ ? latent_.detach() : latent_;
  leaf_.set_requires_grad(true);
  if (!quantizer_) return;
  quantizer_->StartLearning(latent_);
  // Up to 128: -128 is the only code of that magnitude, for odd codes end at 127 or 255.
  const int64_t greatest = quantizer_->greatest_code();
  const c10::ScalarType type = !compact || greatest > 255 ? latent_.scalar_type() : greatest > 128 ? at::kShort : at::kChar;
  codes_ = at::empty(latent_.sizes(), latent_.options().dtype(type));
  TORCH_CHECK(!QuantizeWeights({to_quantize()}).has_value(), name_, " is not a number");
}

void Weight::set_rounded(bool rounded) {
  if (!rounded && !values_.defined()) values_ = at::empty_like(latent_.detach());
  rounded_ = rounded;
}

Parameter Weight::parameter() const {
  return {name_, latent_, leaf_, quantizer_.get(), false};
}

std::optional<Parameter> Weight::step() const {
  const LearnedScalar scalar = quantizer_ ? quantizer_->learned() : LearnedScalar{};
  if (!scalar.value.defined()) return std::nullopt;
  return Parameter{name_ + "_" + scalar.name, scalar.value, scalar.value, nullptr, false, Scalar::kWeightStep};
}

}  // namespace bitstair::core
