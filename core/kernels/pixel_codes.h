// Normalised pixels as 8-bit codes with a zero point, for quantize_first_last (DESIGN section 3).
//   code = rint(clip(x / step + zero_point, 0, 255)),   value = step (code - zero_point)
// The grid is fixed by the normalisation alone, one for all channels, and its zero point is an integer: 0, which convolutions pad with, is the value of a code.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace bitstair::core {

inline constexpr int64_t kGreatestPixelCode = 255;

// What normalised pixels lie in.
struct PixelRange {
  double low = 0;
  double high = 0;
};

// Of (p - mean) / std for p in [0, 1], over all channels. {0, 0} without channels. mean, std: one value per channel, std above 0.
PixelRange RangeOfPixels(const std::vector<float>& mean, const std::vector<float>& std);

struct PixelGrid {
  double step = 1;
  int64_t zero_point = 0;  // in [0, 255]
};

// step = (high - low) / 255, zero_point = rint(-low / step), after the range has been widened to hold 0. low < high, finite. Of one channel the codes are the
// bytes, unless 0 lies in the middle between two of them (mean 0.5), where every second byte shares its neighbour's code.
PixelGrid GridOf(PixelRange range);

// images: [N, C, H, W], contiguous, CPU. Both return false if a pixel is not a number; the output is then not usable.
// codes: uint8 [N, H + 2 padding, W + 2 padding, C], the padded border holds the zero point. images: float32.
bool QuantizePixels(const at::Tensor& images, const PixelGrid& grid, int64_t padding, at::Tensor& codes);
// centered: code - zero_point, of images' shape and type (float32 or float64).
bool CenterPixelCodes(const at::Tensor& images, const PixelGrid& grid, at::Tensor& centered);

}  // namespace bitstair::core
