// Images of a data set as a network takes them, without augmentation.
#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "core/data/sample_source.h"

namespace bitstair::core {

struct LabelledImages {
  at::Tensor images;  // [n, C, H, W], (pixel / 255 - mean) / std in float32, then converted
  at::Tensor labels;  // [n], int64
};

// Samples [begin, end) of `data` without augmentation, read by at::get_num_threads() threads; without those that cannot be read, if data.skip_unreadable. Else
// DATA_LOSS names the first of them; also if none can be read.
absl::StatusOr<LabelledImages> ReadImages(const SampleSource& data, int64_t begin, int64_t end, c10::ScalarType dtype);

// The images alone; throws c10::Error where ReadImages fails.
at::Tensor NormalizedImages(const SampleSource& data, int64_t begin, int64_t end, c10::ScalarType dtype);

}  // namespace bitstair::core
