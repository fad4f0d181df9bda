// The update of stochastic gradient descent, one pass over memory.
#pragma once

#include <ATen/core/Tensor.h>

namespace bitstair::core {

struct SgdFactors {
  double learning_rate = 0;
  double momentum = 0;
  double weight_decay = 0;
  bool nesterov = false;
};

// g = gradient + weight_decay w;  v = momentum v + g;  w -= learning_rate (nesterov ? g + momentum v : v). Contiguous CPU tensors of one shape and dtype,
// float32 or float64; factors are rounded to the dtype. In place in w and v.
void UpdateSgd(const at::Tensor& gradient, const SgdFactors& factors, at::Tensor& w, at::Tensor& v);

}  // namespace bitstair::core
