// Batch norm over the sums of a convolution or linear layer, per channel.
//   y = sum_scale * S                              (what a layer on float values would give)
//   x = fma(S, alpha_c, beta_c) [+ shortcut value]  alpha, beta: BatchNormAffine in kernels/quant_math.h
// Tensors are contiguous [N, C, H, W] or [N, C], on the CPU. S: float32, or float64 where sums pass 2^24 (see SumBound in nn/features.h) or the network runs
// in float64. All other tensors have the network's dtype, per-channel vectors are float64. Parallel over channels; a channel's sums are made by one
// thread in one order, so results do not depend on the number of threads.
#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

namespace bitstair::core {

// Per channel over all images and positions: mean[c] of S and variance[c] of S (biased), float64.
// bound: 0 for sums of floats: float64 sums in a fixed order. Else S holds integers of at most this magnitude and the sums of S and S^2 are exact, in
// int64 while bound^2 N H W < 2^63, beyond that float64 in a fixed order.
void BatchNormStatistics(const at::Tensor& sums, int64_t bound, at::Tensor& mean, at::Tensor& variance);

// x = fma(S, alpha, beta), then + CodeValue(shortcut, shortcut_scale) where there is a shortcut (shape and dtype of x). alpha, beta: float64, rounded to x's
// dtype here.
void BatchNormApply(const at::Tensor& sums, const at::Tensor& alpha, const at::Tensor& beta, const std::optional<at::Tensor>& shortcut, double shortcut_scale,
                    at::Tensor& x);

// Per channel: grad_sum[c] = sum g and grad_dot[c] = sum g (S - mean), float64, fixed order.
void BatchNormBackwardSums(const at::Tensor& grad_x, const at::Tensor& sums, const at::Tensor& mean, at::Tensor& grad_sum, at::Tensor& grad_dot);

// dL/dS = g a_c + (S - mean_c) b_c + c_c with float64 vectors a, b, c rounded to grad_sums' dtype. grad_sums: dtype and shape of grad_x.
void BatchNormBackwardApply(const at::Tensor& grad_x, const at::Tensor& sums, const at::Tensor& mean, const at::Tensor& a, const at::Tensor& b,
                            const at::Tensor& c, at::Tensor& grad_sums);

}  // namespace bitstair::core
