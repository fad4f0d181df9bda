// Activation and pooling layers on features.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "core/nn/fast_layers.h"
#include "core/nn/features.h"
#include "core/nn/network_config.h"
#include "core/quant/quantizer.h"

namespace bitstair::core {

class Activation {
 public:
  // quantizer: null for `function` without rounding.
  Activation(ActivationFunction function, std::shared_ptr<const ActivationQuantizer> quantizer);

  // u = x / range(): [N, C, ...], the network's dtype. Differentiable, also by what the quantiser learns.
  Features Forward(const at::Tensor& u) const;

  // The value before rounding, clip(x, 0, range()), as multiples of range().
  Features Unrounded(const at::Tensor& u) const;

  double range() const { return quantizer_ ? quantizer_->range() : 1; }

  // Inputs at which the gradient passes.
  int64_t CountPassing(const at::Tensor& x) const;

  bool quantized() const { return quantizer_ != nullptr; }

  // The same for numerics fast, where the batch norm before it does the work.
  FastActivation fast() const;

 private:
  ActivationFunction function_;
  std::shared_ptr<const ActivationQuantizer> quantizer_;  // shared with the autograd graph, which may outlive this layer
};

// After quantising, so it picks among codes. Padding never wins. Gradient: to the first maximum in row-major window order.
Features MaxPool2d(const Features& features, int64_t size, int64_t stride, int64_t padding);

// [N, C, H, W] -> [N, C H W].
Features Flatten(const Features& features);

// Mean over height and width of the values: [N, C].
Features GlobalAveragePool(const Features& features);

// Sums over height and width of the codes, integers of the network's dtype: [N, C], value = the mean's. features: codes, [N, C, H, W] or [N, C].
Features SumsOfCodes(const Features& features);

// Option A of ResNet's shortcuts: every stride-th row and column, new channels (half before, half behind) hold code 0.
Features PaddedShortcut(const Features& features, int64_t channels, int64_t stride);

// scale * tensor, where that is not the tensor itself. Numerics fast: only for features of one position, [N, C].
at::Tensor Values(const Features& features);

}  // namespace bitstair::core
