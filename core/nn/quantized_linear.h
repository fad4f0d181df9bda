// Linear layer on codes; numerics as in nn/quantized_conv2d.h.
#pragma once

#include <memory>

#include "core/nn/features.h"
#include "core/nn/weight.h"

namespace bitstair::core {

// No bias: a batch norm follows.
class QuantizedLinear {
 public:
  // weight: [out, in].
  explicit QuantizedLinear(std::unique_ptr<Weight> weight);

  // features: [N, in] -> S = codes * weight codes^T, [N, out].
  Sums Forward(const Features& features) const;

  Weight& weight() { return *weight_; }

 private:
  std::unique_ptr<Weight> weight_;
};

}  // namespace bitstair::core
