// Where labelled images come from: what the training loop, evaluation and calibration know of a data set's split, be it in memory or a folder of files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace bitstair::core {

// All images of a source have it.
struct ImageShape {
  int channels = 0;
  int height = 0;
  int width = 0;

  int64_t size() const { return int64_t{channels} * height * width; }
  bool operator==(const ImageShape&) const = default;
};

// What the random part of an augmentation is a function of, beside the image (docs/formats/random.md).
struct AugmentationKey {
  uint64_t seed = 1;
  uint32_t epoch = 0;  // the epoch word
};

// All functions may be called from several threads at once.
class SampleSource {
 public:
  virtual ~SampleSource() = default;

  // Images, numbered from 0 in the source's fixed order.
  virtual int64_t size() const = 0;
  virtual ImageShape shape() const = 0;
  // In [0, classes).
  virtual int64_t label(int64_t index) const = 0;

  // Writes image `index` as uint8 [C, H, W], shape().size() bytes: without a key as evaluation sees it, with a key cropped and flipped at random as the key
  // says. DATA_LOSS or an I/O error names the file that cannot be read; sources in memory do not fail.
  virtual absl::Status Read(int64_t index, const AugmentationKey* key, uint8_t* pixels) const = 0;

  int classes = 0;
  // In the order of the labels; empty where the format knows numbers only.
  std::vector<std::string> class_names;
  // Per channel, of pixels in [0, 1]: fixed constants of each known format, never estimated from the data.
  std::vector<float> mean;
  std::vector<float> std;
  // Whether readers go on without images that cannot be read, counting them, or fail.
  bool skip_unreadable = false;

 protected:
  SampleSource() = default;
  SampleSource(const SampleSource&) = default;
  SampleSource& operator=(const SampleSource&) = default;
  SampleSource(SampleSource&&) = default;
  SampleSource& operator=(SampleSource&&) = default;
};

}  // namespace bitstair::core
