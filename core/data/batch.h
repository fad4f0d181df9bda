// One rank's part of one global batch.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace bitstair::core {

struct Batch {
  at::Tensor images;  // [n, C, H, W], normalised, float32
  at::Tensor labels;  // [n], int64
  int64_t index = 0;  // of the global batch within its epoch
};

}  // namespace bitstair::core
