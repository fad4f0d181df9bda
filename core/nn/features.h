// What flows between the layers of a network.
//
// Gradients are derivatives by the numbers a tensor holds: dL/dcode on codes, dL/dS on sums. A code's value is scale * code, so dL/dcode = scale * dL/dvalue.
// Only a Parameter's leaf gets another one: dL/dw_q, of the values w_q that its codes mean.
#pragma once

#include <cstdint>
#include <memory>

#include <ATen/core/Tensor.h>

namespace bitstair::core {

// The halves of numerics "fast" (nn/fast_layers.h): where they are set, `tensor` is not.
struct FastFeatures;
struct FastSums;

// Activations [N, C, H, W] or [N, C], contiguous, the network's dtype; value = scale * (tensor - zero_point).
struct Features {
  at::Tensor tensor;
  double scale = 1;
  int64_t greatest_code = 0;  // tensor holds integers in [0, greatest_code] (images: of at most this magnitude); 0: floats
  std::shared_ptr<FastFeatures> fast = nullptr;
  int64_t zero_point = 0;  // not 0 for images in numerics fast alone (nn/pixel_features.h)
};

// What a convolution or linear layer gives before normalisation; value = scale * tensor.
struct Sums {
  at::Tensor tensor;  // the network's dtype, or float64 where bound >= 2^24
  double scale = 1;
  int64_t bound = 0;  // tensor holds integers of at most this magnitude; 0: floats
  std::shared_ptr<FastSums> fast = nullptr;
};

// Integers up to this magnitude and all sums on the way to them are exact in float32.
inline constexpr int64_t kExactFloat32 = int64_t{1} << 24;

// B = K n_a n_w: the greatest magnitude of a sum of `taps` products of codes.
constexpr int64_t SumBound(int64_t taps, int64_t greatest_activation, int64_t greatest_weight) {
  return taps * greatest_activation * greatest_weight;
}

}  // namespace bitstair::core
