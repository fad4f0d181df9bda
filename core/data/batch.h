// One rank's part of one global batch, or one of its shards.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace bitstair::core {

// Which images of a stage a batch has.
struct BatchPosition {
  uint32_t epoch = 0;       // the epoch word (docs/formats/random.md)
  int64_t batch = 0;        // of the global batch within its epoch
  int64_t first_image = 0;  // position in the global batch of the first image
};

struct Batch {
  at::Tensor images;  // [n, C, H, W], normalised, float32
  at::Tensor labels;  // [n], int64
  int64_t index = 0;  // of the global batch within its epoch
  BatchPosition position;
  std::vector<std::string> skipped;  // why, for each image that could not be read; another one took its place
};

}  // namespace bitstair::core
