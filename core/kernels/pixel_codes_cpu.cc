#include <algorithm>
#include <atomic>
#include <cmath>

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include "core/kernels/cpu_clones.h"
#include "core/kernels/pixel_codes.h"
#include "core/kernels/quant_math.h"

namespace bitstair::core {
namespace {

// codes[i] = code of x[i], less `center`. False if one is not a number.
// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are types.
#define BITSTAIR_LOOPS(T)                                                                                        \
  BITSTAIR_CPU_CLONES bool Codes(const T* x, int64_t size, T steps_per_unit, T zero_point, T center, T* codes) { \
    bool numbers = true;                                                                                         \
    for (int64_t i = 0; i < size; ++i) {                                                                         \
      const T code = PixelCode(x[i], steps_per_unit, zero_point);                                                \
      numbers &= code == code;                                                                                   \
      codes[i] = code - center;                                                                                  \
    }                                                                                                            \
    return numbers;                                                                                              \
  }
BITSTAIR_LOOPS(float)
BITSTAIR_LOOPS(double)
#undef BITSTAIR_LOOPS
// NOLINTEND(bugprone-macro-parentheses)

constexpr int64_t kGrainElements = 32768;

void Check(const at::Tensor& images) {
  TORCH_CHECK(images.dim() == 4 && images.is_cpu() && images.is_contiguous(), "pixel codes: contiguous images [N, C, H, W] are needed, got ", images.sizes());
}

}  // namespace

PixelRange RangeOfPixels(const std::vector<float>& mean, const std::vector<float>& std) {
  TORCH_CHECK(mean.size() == std.size(), "normalisation with ", mean.size(), " means and ", std.size(), " deviations");
  PixelRange range;
  for (size_t c = 0; c < mean.size(); ++c) {
    const double m = mean[c], s = std[c], low = -m / s, high = (1 - m) / s;
    range = c == 0 ? PixelRange{low, high} : PixelRange{std::min(range.low, low), std::max(range.high, high)};
  }
  return range;
}

PixelGrid GridOf(PixelRange range) {
  TORCH_CHECK(std::isfinite(range.low) && std::isfinite(range.high) && range.low < range.high, "pixels from ", range.low, " to ", range.high);
  const double low = std::min(range.low, 0.0), high = std::max(range.high, 0.0);
  const double step = (high - low) / static_cast<double>(kGreatestPixelCode);
  return {step, static_cast<int64_t>(std::rint(-low / step))};
}

bool QuantizePixels(const at::Tensor& images, const PixelGrid& grid, int64_t padding, at::Tensor& codes) {
  Check(images);
  TORCH_CHECK(images.scalar_type() == at::kFloat, "pixel codes of images of ", images.scalar_type());
  const int64_t channels = images.size(1), height = images.size(2), width = images.size(3), row = (width + 2 * padding) * channels;
  const int64_t in_image = channels * height * width, out_image = (height + 2 * padding) * row;
  TORCH_CHECK(codes.is_contiguous() && codes.scalar_type() == at::kByte && codes.numel() == images.size(0) * out_image, "pixel codes of ", images.sizes(),
              " for ", codes.sizes());
  const auto steps_per_unit = static_cast<float>(1 / grid.step), zero_point = static_cast<float>(grid.zero_point);
  const float* in = images.const_data_ptr<float>();
  uint8_t* out = codes.mutable_data_ptr<uint8_t>();
  std::atomic<bool> numbers{true};
  at::parallel_for(0, images.size(0), std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, in_image)), [&](int64_t begin, int64_t end) {
    std::vector<float> line(static_cast<size_t>(width));
    std::fill(out + begin * out_image, out + end * out_image, static_cast<uint8_t>(grid.zero_point));
    for (int64_t n = begin; n < end; ++n) {
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t y = 0; y < height; ++y) {
          if (!Codes(in + n * in_image + (c * height + y) * width, width, steps_per_unit, zero_point, 0.0F, line.data())) {
            numbers = false;
            return;
          }
          uint8_t* to = out + n * out_image + (y + padding) * row + padding * channels + c;
          for (int64_t x = 0; x < width; ++x) to[x * channels] = static_cast<uint8_t>(line[x]);
        }
      }
    }
  });
  return numbers;
}

bool CenterPixelCodes(const at::Tensor& images, const PixelGrid& grid, at::Tensor& centered) {
  Check(images);
  TORCH_CHECK(centered.is_contiguous() && centered.sizes() == images.sizes() && centered.scalar_type() == images.scalar_type(), "pixel codes of ",
              images.sizes(), " for ", centered.sizes());
  std::atomic<bool> numbers{true};
  AT_DISPATCH_FLOATING_TYPES(images.scalar_type(), "CenterPixelCodes", [&] {
    const auto steps_per_unit = static_cast<scalar_t>(1 / grid.step), zero_point = static_cast<scalar_t>(grid.zero_point);
    const auto* in = images.const_data_ptr<scalar_t>();
    auto* out = centered.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, images.numel(), kGrainElements, [&](int64_t b, int64_t e) {
      if (!Codes(in + b, e - b, steps_per_unit, zero_point, zero_point, out + b)) numbers = false;
    });
  });
  return numbers;
}

}  // namespace bitstair::core
