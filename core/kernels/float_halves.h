// A float32 as two halves of 16 bits, so that it lies in memory in two arrays of half the size: the upper half as a bfloat16 (the number rounded toward zero),
// the lower as an integer. Joined they are the number again, bit for bit. Arrays of `size` elements; runs on LibTorch's intra-op pool.
#pragma once

#include <cstdint>

#include "core/kernels/bfloat16.h"

namespace bitstair::core {

void SplitFloats(const float* numbers, int64_t size, Bfloat16* upper, uint16_t* lower);
void JoinFloats(const Bfloat16* upper, const uint16_t* lower, int64_t size, float* numbers);

}  // namespace bitstair::core
