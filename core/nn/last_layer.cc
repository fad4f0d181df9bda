#include "core/nn/last_layer.h"

#include <utility>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/nn/activation.h"

namespace bitstair::core {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// In float64, rounded once: from equal S all numerics give equal logits.
class ScaledLogits : public torch::autograd::Function<ScaledLogits> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& sums, const at::Tensor& logit_scale, const at::Tensor& bias, double sum_scale) {
    ctx->save_for_backward({sums, logit_scale});
    ctx->saved_data["sum_scale"] = sum_scale;
    return (sums.to(at::kDouble) * (sum_scale * logit_scale.item<double>()) + bias.to(at::kDouble)).to(bias.scalar_type());
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &sums = saved[0], &logit_scale = saved[1];
    const double sum_scale = ctx->saved_data["sum_scale"].toDouble();
    const at::Tensor grad = grads[0].to(at::kDouble);
    const at::Tensor grad_scale = (grad * sums.to(at::kDouble)).sum().mul(sum_scale).to(logit_scale.scalar_type()).view({1});
    return {(grad * (sum_scale * logit_scale.item<double>())).to(sums.scalar_type()), grad_scale, grads[0].sum(0), at::Tensor()};
  }
};

}  // namespace

LastLayer::LastLayer(at::Tensor weight, at::Tensor bias) : weight_(std::move(weight)), bias_(std::move(bias)) {}

LastLayer::LastLayer(QuantizedLinear linear, at::Tensor bias, at::Tensor logit_scale)
    : bias_(std::move(bias)), quantized_(std::move(linear)), logit_scale_(std::move(logit_scale)) {}

at::Tensor LastLayer::Forward(const Features& features) const {
  const bool pooled = !features.fast && features.tensor.dim() == 2;
  if (!quantized_) return at::linear(Values(pooled ? features : GlobalAveragePool(features)), weight_, bias_);
  const Sums sums = quantized_->Forward(SumsOfCodes(features));
  return ScaledLogits::apply(sums.tensor, logit_scale_, bias_, sums.scale);
}

}  // namespace bitstair::core
