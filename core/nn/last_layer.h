// The linear layer that gives the logits, with the average pooling before it.
#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include "core/nn/features.h"
#include "core/nn/quantized_linear.h"

namespace bitstair::core {

// Full precision: logits = W x + bias on values x, the mean over positions.
// Quantised (quantize_first_last): codes are added up over the positions, S = (sums of codes) (weight codes)^T is an integer, and
//   logits = logit_scale w_q x + bias,   w_q x = scale S;   dL/dlogit_scale = sum over images and classes of dL/dlogit (w_q x)
class LastLayer {
 public:
  // weight: [classes, in]; bias: [classes]. Leaves of the network's dtype.
  LastLayer(at::Tensor weight, at::Tensor bias);
  // logit_scale: a leaf, [1]. weight's codes: of the network's dtype.
  LastLayer(QuantizedLinear linear, at::Tensor bias, at::Tensor logit_scale);

  // features: [N, in, H, W] or [N, in]; of codes where the layer is quantised. Returns logits [N, classes], differentiable.
  at::Tensor Forward(const Features& features) const;

 private:
  at::Tensor weight_;
  at::Tensor bias_;
  std::optional<QuantizedLinear> quantized_;
  at::Tensor logit_scale_;
};

}  // namespace bitstair::core
