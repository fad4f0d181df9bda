// The sum behind the gradient of a learned activation range, for numerics fast.
//   sum_i g_i t_i,  g = scale1 part1 + scale2 part2 (dL/dcode),  t_i = code_i where no gradient passes, else code_i - n u_i (LSQ) or 0 (PACT)
// Where none passes a code is 0 (below the range) or n (above it), which is what t has to be there (quant/quantizer.h).
#pragma once

#include <cstdint>

#include "core/kernels/fused/fused_norm.h"

namespace bitstair::core {

struct RangeGradientArgs {
  int64_t size = 0;
  GradientPart parts[2];  // kBfloat16 or kFloat32; the second may be empty
  const uint8_t* codes = nullptr;
  const uint16_t* mask = nullptr;    // as fused_norm.h has it
  const float* unrounded = nullptr;  // clip(u, 0, 1); null: no term within the range
  float n = 0;
};

// Float32 over blocks of 16 lanes, then float64 in the order of the blocks: no dependence on the number of threads.
double SumRangeGradient(const RangeGradientArgs& args);

}  // namespace bitstair::core
