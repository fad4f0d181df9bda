// The weight gradient of a convolution in bfloat16 with float32 sums, for processors with AVX512_BF16:
//
//   dW[o, i, kh, kw] = sum over n, oh, ow of dY[n, oh, ow, o] X[n, oh s + kh - p, ow s + kw - p, i]
//
// A matrix product whose inner dimension are positions: the same one of two images, or two neighbouring ones of a row, become the pairs that the instruction
// multiplies and adds. X may be codes, which become bfloat16 while they are put in pairs: exact, since codes have at most 8 bits.
#pragma once

#include <cstdint>

#include "core/kernels/convolution.h"
#include "core/kernels/fused/fused_norm.h"

namespace bitstair::core {

// Whether this processor has the instruction, and this shape suits the kernel: channels in multiples of 16.
bool HasWeightGradientKernel(const ConvolutionShape& shape);

// Floats of a sum.
int64_t WeightGradientSize(const ConvolutionShape& shape);

// sum += the gradient of these images, or, if it is fresh, = the gradient. x: [images, height, width, I], kCodes or kBfloat16; grad_y: bfloat16
// [images, OH, OW, O]; at least one image. sum: WeightGradientSize() floats in the kernel's own order. Outside of a parallel region on LibTorch's intra-op
// pool; the result does not depend on the number of threads.
void AddWeightGradient(const ConvolutionShape& shape, ConstArray x, const uint16_t* grad_y, int64_t images, int64_t height, int64_t width, bool fresh,
                       float* sum);

// plain[o, i, kh, kw] = scale * the sum's element.
void PlainWeightGradient(const ConvolutionShape& shape, const float* sum, float scale, float* plain);

}  // namespace bitstair::core
