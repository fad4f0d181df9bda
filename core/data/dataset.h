// Data sets by folder. Small ones are held whole in memory (IDX, CIFAR-10/100 binary); of a folder of JPEG files only the names are (image_folder.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "core/data/sample_source.h"

namespace bitstair::core {

enum class Split { kTrain, kTest };

// Images in memory.
class ImageDataset : public SampleSource {
 public:
  int64_t size() const override { return images.defined() ? images.size(0) : 0; }
  ImageShape shape() const override;
  int64_t label(int64_t index) const override { return labels.const_data_ptr<int64_t>()[index]; }
  // With a key: padded by 4 black pixels (2 for 28x28 images), cropped and flipped at random.
  absl::Status Read(int64_t index, const AugmentationKey* key, uint8_t* pixels) const override;

  at::Tensor images;  // [N, C, H, W], uint8, contiguous
  at::Tensor labels;  // [N], int64, each in [0, classes)
};

// Looks for the split's files in the folder: {train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz] (MNIST, Fashion-MNIST: 10 classes),
// data_batch_{1..5}.bin and test_batch.bin (CIFAR-10), train.bin and test.bin (CIFAR-100, fine labels), each also with .xz.
// limit: only the first so many images; 0: all. NOT_FOUND lists the names it looked for; DATA_LOSS names file and byte of a truncated file, a wrong
// magic number, a wrong size or a label out of range.
absl::StatusOr<ImageDataset> LoadDataset(const std::string& folder, Split split, int64_t limit = 0);

// What LoadDataset finds, or else the folders train/ and val/ as ImageFolder reads them. Errors as theirs.
// held_back > 0: the last so many training images are the test images instead, and are not trained on; INVALID_ARGUMENT if no others are left.
absl::StatusOr<std::unique_ptr<SampleSource>> OpenDataset(const std::string& folder, Split split, int64_t limit = 0, int64_t held_back = 0);

}  // namespace bitstair::core
