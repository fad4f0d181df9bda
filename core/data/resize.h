// Resizing with a bilinear filter that widens with the reduction (antialiasing), as Pillow's BILINEAR and torchvision's Resize do it. In integers: the same
// bits on every processor.
#pragma once

#include <cstdint>
#include <vector>

#include "core/data/jpeg.h"

namespace bitstair::core {

// One axis: source [start, start + length) of an image with `limit` pixels becomes `full` pixels, of which [begin, begin + count) are wanted.
struct AxisMap {
  double start = 0;
  double length = 0;
  int limit = 0;
  int full = 0;
  int begin = 0;
  int count = 0;
};

// For each wanted pixel the source pixels it is a mean of, and their weights.
//   centre = start + (i + 1/2) length / full;   weight of pixel p ~ max(0, 1 - |p + 1/2 - centre| / r);   r = max(1, length / full)
// Pixels outside of [max(0, floor(start)), min(limit, ceil(start + length))) have none. Weights are multiples of 2^-14 with sum 1.
class AxisTaps {
 public:
  static constexpr int kOne = 1 << 14;

  AxisTaps() = default;
  explicit AxisTaps(const AxisMap& map);

  // [first, end): all source pixels that have a weight.
  int first() const { return first_; }
  int end() const { return end_; }
  int count() const { return static_cast<int>(begins_.size()); }
  // Pixel i reads `pairs()` pairs of source pixels from begin(i) on; weights come in pairs too, with zeros at the end. Where a pair leaves [first, end) its
  // weight is 0.
  int begin(int i) const { return begins_[i]; }
  int pairs() const { return pairs_; }
  const int16_t* weights(int i) const { return weights_.data() + static_cast<size_t>(i) * pairs_ * 2; }

 private:
  int first_ = 0;
  int end_ = 0;
  int pairs_ = 0;
  std::vector<int> begins_;
  std::vector<int16_t> weights_;
};

// Rows first, then columns; between them pixels keep 6 bits of fraction. source covers [x.first, x.end) x [y.first, y.end). Writes red, green and blue planes
// of y.count rows with x.count pixels; with flip, each row from right to left.
void ResizeToPlanes(const PixelRegion& source, const AxisTaps& x, const AxisTaps& y, bool flip, uint8_t* planes);

}  // namespace bitstair::core
