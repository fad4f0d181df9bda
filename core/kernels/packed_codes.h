// Codes of few bits without gaps, as they travel between the two sets of a split pair (docs/guided.md).
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace bitstair::core {

// ceil(count bits / 8)
int64_t PackedBytes(int64_t count, int bits);

// Code i takes the bits [i bits, (i + 1) bits) of the stream, of which bit j is bit j % 8 (from the lowest) of byte j / 8.
// codes: float32, contiguous, integers in [0, 2^bits - 1]; what is not a number becomes 0. bits: 1..16. Returns uint8 [PackedBytes].
at::Tensor PackCodes(const at::Tensor& codes, int bits);

// The codes again, float32, of this shape. c10::Error if `packed` has another number of bytes.
at::Tensor UnpackCodes(const at::Tensor& packed, at::IntArrayRef shape, int bits);

}  // namespace bitstair::core
