// Linear layer on codes; numerics as in nn/quantized_conv2d.h.
#pragma once

#include <memory>

#include "core/nn/fast_layers.h"
#include "core/nn/features.h"
#include "core/nn/weight.h"

namespace bitstair::core {

// No bias: a batch norm follows.
class QuantizedLinear {
 public:
  // weight: [out, in].
  explicit QuantizedLinear(std::unique_ptr<Weight> weight);

  // features: [N, in] -> S = codes * weight codes^T, [N, out]. Numerics fast: a convolution of one position, [N, 1, 1, in] -> [N, 1, 1, out].
  Sums Forward(const Features& features) const;

  Weight& weight() { return *weight_; }

 private:
  std::unique_ptr<Weight> weight_;
  std::unique_ptr<FastConvolution> fast_;  // an address that backward passes may keep
};

}  // namespace bitstair::core
