// The weight quantiser of DoReFa: DESIGN section 3, arXiv 1606.06160 section 2.3 (paper 1711.00205, equation 2).
// Contiguous CPU tensors, float32 or float64, all of one shape and dtype. Parallel over fixed blocks of elements, whose sums are added in order: results do
// not depend on the number of threads.
#pragma once

#include <ATen/core/Tensor.h>

namespace bitstair::core {

// t = tanh(w), M = max|t|, c = rint(n (t/(2M) + 1/2)), o = 2c - n: odd integers in [-n, n]; w_q = o/n.
// M = 0: c = rint(n/2). A NaN anywhere makes every code NaN.
void QuantizeDorefaWeights(const at::Tensor& latent, double n, at::Tensor& odd_codes, at::Tensor& values);

// dL/dw_i = (1 - t_i^2) (g_i / M + [ |t_i| = M ] sign(t_i) / ties * dL/dM),  dL/dM = -sum_j g_j t_j / M^2, summed in float64 in a fixed order,
// g = dL/dw_q (rounding is straight-through). detach_max drops dL/dM. M = 0: 0. Linear in g.
void DorefaWeightsBackward(const at::Tensor& latent, const at::Tensor& grad_values, bool detach_max, at::Tensor& grad_latent);

}  // namespace bitstair::core
