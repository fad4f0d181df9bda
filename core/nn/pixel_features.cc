#include "core/nn/pixel_features.h"

#include <algorithm>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "core/kernels/step_clock.h"
#include "core/nn/fast_layers.h"
#include "core/nn/network.h"

namespace bitstair::core {

Features PixelFeatures(const at::Tensor& images, const PixelGrid& grid, int64_t padding, bool fast) {
  const StepTimer timer(StepPart::kData);
  const at::Tensor pixels = images.contiguous();
  const auto check = [](bool numbers) {
    if (!numbers) throw NotANumber("a pixel is not a number");
  };
  Features features;
  features.scale = grid.step;
  if (!fast) {
    features.greatest_code = std::max(grid.zero_point, kGreatestPixelCode - grid.zero_point);
    features.tensor = at::empty_like(pixels);
    check(CenterPixelCodes(pixels, grid, features.tensor));
    return features;
  }
  features.greatest_code = kGreatestPixelCode;
  features.zero_point = grid.zero_point;
  features.fast = std::make_shared<FastFeatures>();
  features.fast->numbers = at::empty({pixels.size(0), pixels.size(2) + 2 * padding, pixels.size(3) + 2 * padding, pixels.size(1)}, at::kByte);
  check(QuantizePixels(pixels, grid, padding, features.fast->numbers));
  return features;
}

}  // namespace bitstair::core
