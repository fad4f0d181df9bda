// Convolution on codes. Reference numerics: integer-valued float32 in ATen while B < 2^24, float64 from there on; fast: nn/fast_layers.h. Exact either way.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/nn/fast_layers.h"
#include "core/nn/features.h"
#include "core/nn/weight.h"

namespace bitstair::core {

// No bias: a batch norm follows. With a full-precision weight or float features it is an ordinary convolution of the network's dtype.
class QuantizedConv2d {
 public:
  // weight: [out, in, k, k]. Padding is code 0. float32: see FastConvolution.
  QuantizedConv2d(std::unique_ptr<Weight> weight, int64_t stride, int64_t padding, GradientRounding rounding = {}, bool float32 = false);

  // S = conv(codes, weight codes). Differentiable by features.tensor and the weight's leaf; the backward pass runs in the network's dtype.
  Sums Forward(const Features& features) const;

  Weight& weight() { return *weight_; }

 private:
  std::unique_ptr<Weight> weight_;
  int64_t stride_;
  int64_t padding_;
  std::unique_ptr<FastConvolution> fast_;  // an address that backward passes may keep
};

}  // namespace bitstair::core
