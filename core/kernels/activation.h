// The activation functions, element by element. Contiguous CPU tensors, float32 or float64; outputs have the input's shape and dtype.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace bitstair::core {

// codes = rint(n clip(x, 0, 1)): integers 0..n. NaN stays NaN.
void QuantizeActivations(const at::Tensor& x, double n, at::Tensor& codes);
// y = clip(x, 0, 1). NaN stays NaN.
void ClipActivations(const at::Tensor& x, at::Tensor& y);
// y = max(x, 0). NaN stays NaN.
void ReluActivations(const at::Tensor& x, at::Tensor& y);

// grad_x = factor * grad where 0 <= x <= 1, else 0.
void ClipBackward(const at::Tensor& x, const at::Tensor& grad, double factor, at::Tensor& grad_x);
// grad_x = grad where x > 0, else 0.
void ReluBackward(const at::Tensor& x, const at::Tensor& grad, at::Tensor& grad_x);

// How many elements the gradient passes: of a clip those with 0 <= x <= 1, of a ReLU those with x > 0. NaN does not count.
int64_t CountPassing(const at::Tensor& x, bool clips);

}  // namespace bitstair::core
