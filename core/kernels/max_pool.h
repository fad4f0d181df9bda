// Max pooling without padding over contiguous CPU tensors [N, C, H, W], float32 or float64: window and stride `size`; rows and columns that do not fill a
// window are left out, as in PyTorch.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace bitstair::core {

// pooled: [N, C, H / size, W / size]. taken: uint8 of pooled's shape, the index in row-major window order of the first maximum; a NaN counts as the maximum.
// size: 1..16.
void MaxPool(const at::Tensor& x, int64_t size, at::Tensor& pooled, at::Tensor& taken);

// The whole gradient of a window goes to the element that MaxPool took. grad_x has x's shape and is overwritten.
void MaxPoolBackward(const at::Tensor& grad_pooled, const at::Tensor& taken, int64_t size, at::Tensor& grad_x);

}  // namespace bitstair::core
