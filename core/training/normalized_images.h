// Images of a data set as a network takes them, without augmentation.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/data/dataset.h"

namespace bitstair::core {

// Images [begin, end) of `data` as (pixel / 255 - mean) / std in float32, the expression of BatchLoader, then converted to dtype. [n, C, H, W].
at::Tensor NormalizedImages(const ImageDataset& data, int64_t begin, int64_t end, c10::ScalarType dtype);

}  // namespace bitstair::core
