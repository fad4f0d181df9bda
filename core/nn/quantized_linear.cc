#include "core/nn/quantized_linear.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

namespace bitstair::core {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class LinearOnCodes : public torch::autograd::Function<LinearOnCodes> {
 public:
  // leaf = leaf_scale * operand. wide: sums in float64.
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& input, const at::Tensor& leaf, const at::Tensor& operand, double leaf_scale, bool wide) {
    (void)leaf;  // an argument so that it gets a gradient
    ctx->save_for_backward({input, operand});
    ctx->saved_data["leaf_scale"] = leaf_scale;
    if (wide) return at::matmul(input.to(at::kDouble), operand.to(at::kDouble).t());
    return at::matmul(input, operand.t());
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& input = saved[0];
    const at::Tensor& operand = saved[1];
    const at::Tensor grad = grads[0].to(operand.scalar_type());
    at::Tensor grad_input;
    if (ctx->needs_input_grad(0)) grad_input = at::matmul(grad, operand);
    at::Tensor grad_leaf = at::matmul(grad.t(), input);
    const double leaf_scale = ctx->saved_data["leaf_scale"].toDouble();
    if (leaf_scale != 1) grad_leaf.div_(leaf_scale);
    return {grad_input, grad_leaf, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

QuantizedLinear::QuantizedLinear(std::unique_ptr<Weight> weight) : weight_(std::move(weight)) {
  const at::Tensor& w = weight_->leaf();
  fast_ = std::make_unique<FastConvolution>(ConvolutionShape{w.size(1), w.size(0), 1, 1, 0});
}

Sums QuantizedLinear::Forward(const Features& features) const {
  const at::Tensor& operand = weight_->operand();
  if (features.fast) {
    return FastConvolve(*fast_, features, operand, weight_->leaf(), weight_->scale(), weight_->greatest_code(), at::GradMode::is_enabled());
  }
  Sums out;
  out.bound = SumBound(operand.size(1), features.greatest_code, weight_->greatest_code());
  out.scale = features.scale * weight_->scale();
  out.tensor = LinearOnCodes::apply(features.tensor, weight_->leaf(), operand.detach(), weight_->scale(), out.bound >= kExactFloat32);
  return out;
}

}  // namespace bitstair::core
