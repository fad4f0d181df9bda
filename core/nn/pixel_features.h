// Images as the first layer of a network with quantize_first_last takes them.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "core/kernels/pixel_codes.h"
#include "core/nn/features.h"

namespace bitstair::core {

// images: [N, C, H, W] normalised pixels of the network's dtype. fast: bytes for a convolution without padding of its own, for `padding` is around them
// already; otherwise code - zero_point in images' dtype, where the convolution's own padding is the zero point. Throws NotANumber.
Features PixelFeatures(const at::Tensor& images, const PixelGrid& grid, int64_t padding, bool fast);

}  // namespace bitstair::core
