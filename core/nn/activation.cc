#include "core/nn/activation.h"

#include <algorithm>
#include <optional>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/kernels/activation.h"
#include "core/kernels/max_pool.h"

namespace bitstair::core {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class QuantizedActivation : public torch::autograd::Function<QuantizedActivation> {
 public:
  // learned: the quantiser's scalar, if it has one. result: where the codes' scale and offset go.
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const std::optional<at::Tensor>& learned,
                            const std::shared_ptr<const ActivationQuantizer>& quantizer, Quantized* result) {
    ctx->save_for_backward({x});
    ctx->saved_data["learns"] = learned.has_value();
    ctx->saved_data["quantizer"] = c10::IValue::make_capsule(c10::make_intrusive<Holder>(quantizer));
    *result = quantizer->Forward(x);
    return result->codes;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto holder = ctx->saved_data["quantizer"].toCapsule();
    const ActivationQuantizer& quantizer = *static_cast<Holder&>(*holder).quantizer;
    const at::Tensor x = ctx->get_saved_variables()[0];
    at::Tensor grad_learned;
    if (ctx->saved_data["learns"].toBool()) grad_learned = LearnedGradient(quantizer, x, grads[0]);
    return {quantizer.Backward(x, grads[0]), grad_learned, at::Tensor(), at::Tensor()};
  }

 private:
  // quant/quantizer.h has the formula.
  static at::Tensor LearnedGradient(const ActivationQuantizer& quantizer, const at::Tensor& u, const at::Tensor& grad_codes) {
    const auto n = static_cast<double>(quantizer.greatest_code());
    at::Tensor t = u.gt(1).to(u.scalar_type()).mul_(n);
    if (quantizer.learns_rounding()) {
      const at::Tensor within = u.clamp(0, 1);
      t.add_(at::where(u.eq(within), (within * n).round() - within * n, at::zeros({}, u.options())));
    }
    const double factor = quantizer.LearnedFactor(u.numel() / std::max<int64_t>(1, u.size(0)));
    return (grad_codes.to(at::kDouble) * t.to(at::kDouble)).sum().mul(factor).to(u.scalar_type()).view({1});
  }
  struct Holder final : torch::CustomClassHolder {
    explicit Holder(std::shared_ptr<const ActivationQuantizer> q) : quantizer(std::move(q)) {}
    std::shared_ptr<const ActivationQuantizer> quantizer;
  };
};

class FloatActivation : public torch::autograd::Function<FloatActivation> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, bool clip) {
    ctx->save_for_backward({x});
    ctx->saved_data["clip"] = clip;
    at::Tensor y = at::empty_like(x);
    if (clip) {
      ClipActivations(x, y);
    } else {
      ReluActivations(x, y);
    }
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const at::Tensor x = ctx->get_saved_variables()[0];
    const at::Tensor grad = grads[0].contiguous();
    at::Tensor grad_x = at::empty_like(x);
    if (ctx->saved_data["clip"].toBool()) {
      ClipBackward(x, grad, 1, grad_x);
    } else {
      ReluBackward(x, grad, grad_x);
    }
    return {grad_x, at::Tensor()};
  }
};

// clip(u, 0, 1) before a quantiser that learns its range.
class UnroundedActivation : public torch::autograd::Function<UnroundedActivation> {
 public:
  // factor: dL/dlearned = factor sum of dL/d(range y) range where u > 1.
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& u, const at::Tensor& /*learned*/, double factor) {
    ctx->save_for_backward({u});
    ctx->saved_data["factor"] = factor;
    at::Tensor y = at::empty_like(u);
    ClipActivations(u, y);
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const at::Tensor u = ctx->get_saved_variables()[0];
    const at::Tensor grad = grads[0].contiguous();
    at::Tensor grad_u = at::empty_like(u);
    ClipBackward(u, grad, 1, grad_u);
    const at::Tensor sum = (grad.to(at::kDouble) * u.gt(1)).sum();
    return {grad_u, sum.mul(ctx->saved_data["factor"].toDouble()).to(u.scalar_type()).view({1}), at::Tensor()};
  }
};

class MaxPooling : public torch::autograd::Function<MaxPooling> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, int64_t size) {
    const at::Tensor in = x.contiguous();
    at::Tensor pooled = at::empty({x.size(0), x.size(1), x.size(2) / size, x.size(3) / size}, x.options().requires_grad(false));
    at::Tensor taken = at::empty(pooled.sizes(), at::kByte);
    MaxPool(in, size, pooled, taken);
    ctx->saved_data["taken"] = taken;
    ctx->saved_data["size"] = size;
    ctx->saved_data["shape"] = x.sizes().vec();
    return pooled;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const at::Tensor grad = grads[0].contiguous();
    at::Tensor grad_x = at::empty(ctx->saved_data["shape"].toIntVector(), grad.options());
    MaxPoolBackward(grad, ctx->saved_data["taken"].toTensor(), ctx->saved_data["size"].toInt(), grad_x);
    return {grad_x, at::Tensor()};
  }
};

}  // namespace

Activation::Activation(ActivationFunction function, std::shared_ptr<const ActivationQuantizer> quantizer)
    : function_(function), quantizer_(std::move(quantizer)) {}

Features Activation::Forward(const at::Tensor& u) const {
  if (!quantizer_) return {FloatActivation::apply(u, function_ == ActivationFunction::kClip), 1, 0};
  Quantized result;
  const at::Tensor value = quantizer_->learned().value;
  const std::optional<at::Tensor> learned = value.defined() ? std::optional<at::Tensor>(value) : std::nullopt;
  at::Tensor codes = QuantizedActivation::apply(u, learned, quantizer_, &result);
  TORCH_CHECK(result.offset == 0, "activations: layers take codes without an offset");
  return {std::move(codes), result.scale, quantizer_->greatest_code()};
}

Features Activation::Unrounded(const at::Tensor& u) const {
  const at::Tensor learned = quantizer_ ? quantizer_->learned().value : at::Tensor();
  if (!learned.defined()) return {FloatActivation::apply(u, /*clip=*/true), 1, 0};
  const double factor = quantizer_->LearnedFactor(u.numel() / std::max<int64_t>(1, u.size(0)));
  return {UnroundedActivation::apply(u, learned, factor), range(), 0};
}

int64_t Activation::CountPassing(const at::Tensor& x) const {
  return core::CountPassing(x.detach().contiguous(), quantizer_ != nullptr || function_ == ActivationFunction::kClip);
}

FastActivation Activation::fast() const {
  return {function_ == ActivationFunction::kRelu, quantizer_ ? quantizer_->greatest_code() : 0, quantizer_};
}

Features MaxPool2d(const Features& features, int64_t size, int64_t stride, int64_t padding) {
  if (features.fast) return FastMaxPool(features, size, stride, padding);
  if (stride != size || padding != 0) return {at::max_pool2d(features.tensor, size, stride, padding), features.scale, features.greatest_code};
  return {MaxPooling::apply(features.tensor, size), features.scale, features.greatest_code};
}

Features Flatten(const Features& features) {
  if (features.fast) return FastFlatten(features);
  return {features.tensor.flatten(1), features.scale, features.greatest_code};
}

Features GlobalAveragePool(const Features& features) {
  if (features.fast) return {FastAveragePool(features), 1, 0};
  return {Values(features).mean({2, 3}), 1, 0};
}

Features SumsOfCodes(const Features& features) {
  TORCH_CHECK(features.greatest_code > 0, "sums of codes are of codes");
  const at::Tensor& x = features.fast ? features.fast->numbers : features.tensor;
  const int64_t positions = x.dim() == 2 ? 1 : features.fast ? x.size(1) * x.size(2) : x.size(2) * x.size(3);
  TORCH_CHECK(positions * features.greatest_code < kExactFloat32, "codes up to ", features.greatest_code, " of ", positions, " positions do not fit float32");
  at::Tensor sums = features.fast ? FastSumsOfCodes(features) : positions == 1 ? x.flatten(1) : x.sum({2, 3});
  return {std::move(sums), features.scale / static_cast<double>(positions), positions * features.greatest_code};
}

Features PaddedShortcut(const Features& features, int64_t channels, int64_t stride) {
  if (features.fast) return FastPaddedShortcut(features, channels, stride);
  const int64_t missing = channels - features.tensor.size(1);
  TORCH_CHECK(missing >= 0, "option A cannot take channels away");
  const at::Tensor thinned = features.tensor.slice(2, 0, std::nullopt, stride).slice(3, 0, std::nullopt, stride);
  return {at::constant_pad_nd(thinned, {0, 0, 0, 0, missing / 2, missing - missing / 2}, 0), features.scale, features.greatest_code};
}

at::Tensor Values(const Features& features) {
  if (features.fast) return FastAveragePool(features);
  return features.scale == 1 ? features.tensor : features.tensor * features.scale;
}

}  // namespace bitstair::core
