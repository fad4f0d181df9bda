// A small data set that a network can learn in a few steps: each class has one bright square, all pixels have noise.
#pragma once

#include <ATen/ATen.h>

#include "core/data/dataset.h"

namespace bitstair::core {

inline ImageDataset SyntheticData(int64_t images, int channels, int side, int classes) {
  ImageDataset data;
  data.classes = classes;
  data.mean.assign(channels, 0.3f);
  data.std.assign(channels, 0.3f);
  data.images = at::empty({images, channels, side, side}, at::kByte);
  data.labels = at::arange(images).remainder(classes);
  uint8_t* p = data.images.data_ptr<uint8_t>();
  uint64_t state = 88172645463325252u;  // xorshift: the same noise in each run
  for (int64_t n = 0; n < images; ++n) {
    const int64_t label = n % classes;
    const int row = static_cast<int>(label / 2 * side / 2 % side), column = static_cast<int>(label % 2 * side / 2);
    for (int c = 0; c < channels; ++c) {
      for (int i = 0; i < side; ++i) {
        for (int j = 0; j < side; ++j) {
          state ^= state << 13, state ^= state >> 7, state ^= state << 17;
          const bool bright = i >= row && i < row + side / 2 && j >= column && j < column + side / 2;
          *p++ = static_cast<uint8_t>(state % 100 + (bright ? 120 : 0));
        }
      }
    }
  }
  return data;
}

}  // namespace bitstair::core
