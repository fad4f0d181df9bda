// The sum that a pre-activation network carries past its layers.
#pragma once

#include <ATen/core/Tensor.h>

namespace bitstair::core {

// out = fma(S, scale, stream), element by element, scale rounded to out's dtype first; without a stream (undefined), out = S * scale. One function for all
// numerics, so that they agree to the bit. sums: int16, int32, bfloat16, float32 or float64; stream and out: float32, or float64 with sums of float64. All
// contiguous, on the CPU, of one shape. Runs on LibTorch's intra-op pool.
void AddScaledSums(const at::Tensor& sums, double scale, const at::Tensor& stream, at::Tensor& out);

}  // namespace bitstair::core
