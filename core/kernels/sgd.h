// The update of stochastic gradient descent, one pass over memory.
#pragma once

#include <cstdint>

namespace bitstair::core {

struct SgdFactors {
  double learning_rate = 0;
  double momentum = 0;
  double weight_decay = 0;
  bool nesterov = false;
};

// g = gradient + weight_decay w;  v = momentum v + g;  w -= learning_rate (nesterov ? g + momentum v : v). In place in w and v; float or double, to which the
// factors are rounded.
template <typename T>
void UpdateSgd(const T* gradient, const SgdFactors& factors, int64_t size, T* w, T* v);

}  // namespace bitstair::core
