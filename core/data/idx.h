// IDX files of MNIST's layout: big-endian magic (0x00000803 images, 0x00000801 labels), sizes, then bytes. Source: http://yann.lecun.com/exdb/mnist.
#pragma once

#include <string>

#include "core/data/dataset.h"

namespace bitstair::core {

// Images and labels of one split, 10 classes, one channel. limit: 0 = all. Errors as LoadDataset.
absl::StatusOr<ImageDataset> LoadIdx(const std::string& images_path, const std::string& labels_path, int64_t limit);

}  // namespace bitstair::core
