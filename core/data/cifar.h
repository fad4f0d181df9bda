// CIFAR-10/100, binary version: records of label bytes and 3072 pixel bytes (red, green, blue planes of 32x32). Source:
// https://www.cs.toronto.edu/~kriz/cifar.html.
#pragma once

#include <string>
#include <vector>

#include "core/data/dataset.h"

namespace bitstair::core {

enum class CifarKind {
  kCifar10,   // one label byte, 0..9
  kCifar100,  // coarse label byte (0..19, not used), fine label byte (0..99)
};

// The records of all files in order. limit: 0 = all. Errors as LoadDataset.
absl::StatusOr<ImageDataset> LoadCifar(CifarKind kind, const std::vector<std::string>& paths, int64_t limit);

}  // namespace bitstair::core
