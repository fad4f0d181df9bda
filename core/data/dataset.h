// Labelled images, whole in memory. Formats: IDX (plain, .gz), CIFAR-10/100 binary (plain, .xz).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"

namespace bitstair::core {

enum class Split { kTrain, kTest };

struct ImageDataset {
  at::Tensor images;  // [N, C, H, W], uint8, contiguous
  at::Tensor labels;  // [N], int64, each in [0, classes)
  int classes = 0;
  // Per channel, of pixels in [0, 1]: fixed constants of each known format, never estimated from the data.
  std::vector<float> mean;
  std::vector<float> std;

  int64_t size() const { return images.defined() ? images.size(0) : 0; }
};

// Looks for the split's files in the folder: {train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz] (MNIST, Fashion-MNIST: 10 classes),
// data_batch_{1..5}.bin and test_batch.bin (CIFAR-10), train.bin and test.bin (CIFAR-100, fine labels), each also with .xz.
// limit: only the first so many images; 0: all. NOT_FOUND lists the names it looked for; DATA_LOSS names file and byte of a truncated file, a wrong
// magic number, a wrong size or a label out of range.
absl::StatusOr<ImageDataset> LoadDataset(const std::string& folder, Split split, int64_t limit = 0);

}  // namespace bitstair::core
