// A part of a source's images, as a source of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "core/data/sample_source.h"

namespace bitstair::core {

// Images [first, first + count) of `whole`. Augmentation draws the numbers that these images have in `whole`.
class SampleRange final : public SampleSource {
 public:
  SampleRange(std::unique_ptr<SampleSource> whole, int64_t first, int64_t count)
      : SampleSource(*whole), whole_(std::move(whole)), first_(first), count_(count) {}

  int64_t size() const override { return count_; }
  ImageShape shape() const override { return whole_->shape(); }
  int64_t label(int64_t index) const override { return whole_->label(first_ + index); }
  absl::Status Read(int64_t index, const AugmentationKey* key, uint8_t* pixels) const override { return whole_->Read(first_ + index, key, pixels); }

 private:
  std::unique_ptr<SampleSource> whole_;
  int64_t first_;
  int64_t count_;
};

}  // namespace bitstair::core
