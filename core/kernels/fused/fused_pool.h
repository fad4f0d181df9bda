// Max pooling of channels-last arrays, with padding and overlapping windows. Padding never wins: activations are at least 0 and padding counts as less.
#pragma once

#include <cstdint>

#include "core/kernels/fused/fused_norm.h"

namespace bitstair::core {

struct PoolShape {
  int64_t images, height, width, channels;
  int64_t size, stride, padding;  // padding < size

  int64_t out_height() const { return (height + 2 * padding - size) / stride + 1; }
  int64_t out_width() const { return (width + 2 * padding - size) / stride + 1; }
};

// pooled: x's type (kCodes, kBfloat16 or kFloat32), [N, OH, OW, C]. taken: of pooled's shape, the index in row-major window order of the first maximum.
void MaxPoolRows(const PoolShape& shape, ConstArray x, MutableArray pooled, uint8_t* taken);

// The whole gradient of a window goes to the element that was taken; windows that took the same element are added in row-major order, in float32.
// grad_pooled, grad_x: kBfloat16 or kFloat32, alike. grad_x is overwritten.
void MaxPoolRowsBackward(const PoolShape& shape, ConstArray grad_pooled, const uint8_t* taken, MutableArray grad_x);

}  // namespace bitstair::core
