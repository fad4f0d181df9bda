// A split of ImageNet's layout: FOLDER/CLASS/FILE, JPEG files of any size, of which a network sees 224x224 pixels.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/data/sample_source.h"

namespace bitstair::core {

// Images are decoded when they are read; in memory are their names alone (some 33 bytes an image: about 40 MB for ImageNet). Class c is the c-th folder in byte
// order. Images are numbered in turn through the classes - the first file (in byte order) of each class, then the second of each - so that the first N images,
// which calibration and a limit take, are of all classes. Each file in a class folder is an image, whatever its name; names that begin with '.' are passed
// over.
//
// Read without a key: the shorter side resized to 256, then the middle 224x224. With a key: a random part of 8 to 100 % of the area with sides 3:4 to 4:3,
// resized to 224x224, and a random flip (geometry and filter of torchvision's RandomResizedCrop, Resize and CenterCrop over Pillow). Greyscale and CMYK become
// RGB. Mean and deviation are ImageNet's usual ones.
class ImageFolder final : public SampleSource {
 public:
  static constexpr int kSide = 224;

  // limit: 0 = all. NOT_FOUND: no such folder, or no class folder in it. FAILED_PRECONDITION names an empty class folder, or what is neither folder nor file
  // where one must be.
  static absl::StatusOr<std::unique_ptr<ImageFolder>> Open(const std::string& folder, int64_t limit = 0);

  int64_t size() const override { return static_cast<int64_t>(labels_.size()); }
  ImageShape shape() const override { return {3, kSide, kSide}; }
  int64_t label(int64_t index) const override { return labels_[index]; }
  absl::Status Read(int64_t index, const AugmentationKey* key, uint8_t* pixels) const override;
  std::string path(int64_t index) const;

 private:
  ImageFolder() = default;

  std::string folder_;
  std::string names_;              // of all files, each with a NUL behind it
  std::vector<uint64_t> name_at_;  // of image i: where its name begins in names_
  std::vector<int32_t> labels_;
};

}  // namespace bitstair::core
