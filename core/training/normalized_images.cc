#include "core/training/normalized_images.h"

#include <ATen/ATen.h>

namespace bitstair::core {

at::Tensor NormalizedImages(const ImageDataset& data, int64_t begin, int64_t end, c10::ScalarType dtype) {
  const at::Tensor pixels = data.images.slice(0, begin, end).contiguous();
  at::Tensor images = at::empty(pixels.sizes(), at::kFloat);
  const int64_t channels = pixels.size(1);
  const int64_t plane = pixels.size(2) * pixels.size(3);
  TORCH_CHECK(static_cast<int64_t>(data.mean.size()) == channels && static_cast<int64_t>(data.std.size()) == channels, "data set with ", channels,
              " channels has ", data.mean.size(), " means and ", data.std.size(), " deviations");
  const uint8_t* in = pixels.const_data_ptr<uint8_t>();
  float* out = images.mutable_data_ptr<float>();
  for (int64_t c = 0; c < channels; ++c) {
    float value[256];
    for (int v = 0; v < 256; ++v) value[v] = (static_cast<float>(v) / 255.0f - data.mean[c]) / data.std[c];
    for (int64_t n = 0; n < pixels.size(0); ++n) {
      const int64_t at = (n * channels + c) * plane;
      for (int64_t i = at; i < at + plane; ++i) out[i] = value[in[i]];
    }
  }
  return images.to(dtype);
}

}  // namespace bitstair::core
