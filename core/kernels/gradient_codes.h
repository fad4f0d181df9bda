// Gradients as int8 with one scale per image and stochastic rounding, for the input gradients of numerics "fast8".
//
//   scale = max|g| / 127 over the image;  q = clamp(floor(g / scale + u), -127, 127);  g ~ scale q, unbiased: u is uniform in (0, 1), a multiple of 2^-9
//
// Runs on LibTorch's intra-op pool; the result does not depend on the number of threads.
#pragma once

#include <cstdint>

#include "core/kernels/fused/fused_norm.h"

namespace bitstair::core {

// Where the random numbers come from: Philox, purpose kGradient (docs/formats/random.md). Each image of a step has a key of its own.
struct GradientRandom {
  uint64_t seed = 0;
  uint32_t layer = 0;  // < 2^12
  uint32_t epoch = 0;
  uint32_t batch = 0;
  int64_t first_image = 0;  // position of this rank's first image in the global batch, < 2^20
};

// g: kBfloat16 or kFloat32, [images, per_image]; q of that shape; scales: one per image. `from`: number of the first of these images in the rank's batch.
// Zeros have scale 0. Where an image has a g that is not finite, its scale is NaN.
void QuantizeGradients(ConstArray g, int64_t images, int64_t per_image, const GradientRandom& random, int64_t from, int8_t* q, float* scales);

// x[image] *= scales[image]. kBfloat16 or kFloat32.
void ScaleImages(MutableArray x, int64_t images, int64_t per_image, const float* scales);

}  // namespace bitstair::core
