#include "core/nn/quantized_conv2d.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

namespace bitstair::core {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class ConvolutionOnCodes : public torch::autograd::Function<ConvolutionOnCodes> {
 public:
  // leaf = leaf_scale * operand. wide: sums in float64.
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& input, const at::Tensor& leaf, const at::Tensor& operand, double leaf_scale, int64_t stride,
                            int64_t padding, bool wide) {
    (void)leaf;  // an argument so that it gets a gradient
    ctx->save_for_backward({input, operand});
    ctx->saved_data["leaf_scale"] = leaf_scale;
    ctx->saved_data["stride"] = stride;
    ctx->saved_data["padding"] = padding;
    if (wide) return at::conv2d(input.to(at::kDouble), operand.to(at::kDouble), {}, stride, padding);
    return at::conv2d(input, operand, {}, stride, padding);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& input = saved[0];
    const at::Tensor& operand = saved[1];
    const int64_t stride = ctx->saved_data["stride"].toInt();
    const int64_t padding = ctx->saved_data["padding"].toInt();
    const at::Tensor grad = grads[0].to(operand.scalar_type());
    auto [grad_input, grad_operand, grad_bias] = at::convolution_backward(grad, input, operand, std::nullopt, {stride, stride}, {padding, padding}, {1, 1},
                                                                          false, {0, 0}, 1, {ctx->needs_input_grad(0), ctx->needs_input_grad(1), false});
    const double leaf_scale = ctx->saved_data["leaf_scale"].toDouble();
    // dS/dleaf = dS/doperand / leaf_scale.
    if (grad_operand.defined() && leaf_scale != 1) grad_operand.div_(leaf_scale);
    return {grad_input, grad_operand, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

QuantizedConv2d::QuantizedConv2d(std::unique_ptr<Weight> weight, int64_t stride, int64_t padding, GradientRounding rounding, bool float32)
    : weight_(std::move(weight)), stride_(stride), padding_(padding) {
  const at::Tensor& w = weight_->leaf();
  fast_ = std::make_unique<FastConvolution>(ConvolutionShape{w.size(1), w.size(0), w.size(2), stride, padding}, std::move(rounding), float32);
}

Sums QuantizedConv2d::Forward(const Features& features) const {
  const at::Tensor& operand = weight_->operand();
  if (features.fast) {
    return FastConvolve(*fast_, features, operand, weight_->leaf(), weight_->scale(), weight_->greatest_code(), at::GradMode::is_enabled());
  }
  Sums out;
  out.bound = SumBound(operand.numel() / operand.size(0), features.greatest_code, weight_->greatest_code());
  out.scale = features.scale * weight_->scale();
  out.tensor = ConvolutionOnCodes::apply(features.tensor, weight_->leaf(), operand.detach(), weight_->scale(), stride_, padding_, out.bound >= kExactFloat32);
  return out;
}

}  // namespace bitstair::core
