#include "core/nn/residual_stream.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/kernels/stream_sum.h"
#include "core/nn/fast_layers.h"

namespace bitstair::core {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class StreamSum : public torch::autograd::Function<StreamSum> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& sums, const std::optional<at::Tensor>& stream, double scale, c10::ScalarType dtype) {
    ctx->saved_data["scale"] = scale;
    ctx->saved_data["begins"] = !stream.has_value();
    at::Tensor out = at::empty(sums.sizes(), sums.options().dtype(dtype).requires_grad(false));
    AddScaledSums(sums, scale, stream.value_or(at::Tensor()), out);
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const double scale = ctx->saved_data["scale"].toDouble();
    at::Tensor grad_sums, grad_stream;
    if (ctx->needs_input_grad(0)) grad_sums = scale == 1 ? grads[0] : grads[0] * scale;
    if (!ctx->saved_data["begins"].toBool()) grad_stream = grads[0];
    return {grad_sums, grad_stream, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

Features AddToStream(const Sums& sums, const Features* stream, c10::ScalarType dtype, bool training) {
  if (sums.fast) return FastAddToStream(sums, stream, training);
  std::optional<at::Tensor> values;
  if (stream != nullptr) values = stream->tensor.contiguous();
  return {StreamSum::apply(sums.tensor.contiguous(), values, sums.scale, dtype), 1, 0};
}

Sums StreamSums(const Features& stream, bool training) {
  if (stream.fast) return FastStreamSums(stream, training);
  return {stream.tensor, 1, 0};
}

}  // namespace bitstair::core
