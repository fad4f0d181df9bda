// Which part of a picture a network sees (torchvision's Resize(256) + CenterCrop(224), and RandomResizedCrop(224) + RandomHorizontalFlip).
#pragma once

#include <cstdint>

#include "core/data/sample_source.h"

namespace bitstair::core {

// The part [left, left + width) x [top, top + height) of a picture is resized to full_width x full_height, of which [window_left, + side) x [window_top, +
// side) is kept; then flipped or not.
struct ImageCrop {
  int left = 0;
  int top = 0;
  int width = 0;
  int height = 0;
  int full_width = 0;
  int full_height = 0;
  int window_left = 0;
  int window_top = 0;
  int side = 0;
  bool flip = false;
};

// The shorter side becomes `resized`, the longer one int(resized * long / short); then the middle, half pixels to the even side.
ImageCrop CenterCrop(int width, int height, int resized, int side);

// Up to ten tries at an area of 8 to 100 % and an aspect ratio from 3/4 to 4/3 (even in its logarithm), then a place for it; if none fits, the largest middle
// part with a ratio in that range. Drawn from (seed, epoch, image) as docs/formats/random.md says.
ImageCrop RandomCrop(int width, int height, int side, const AugmentationKey& key, uint32_t image);

}  // namespace bitstair::core
