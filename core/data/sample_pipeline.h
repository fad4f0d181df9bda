// Reads samples ahead of their use, with several threads.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "core/data/sample_source.h"

namespace bitstair::core {

struct SampleBatch {
  at::Tensor images;                 // [n, C, H, W], float32, (pixel / 255 - mean) / std
  at::Tensor labels;                 // [n], int64
  std::vector<std::string> skipped;  // why, for each sample that could not be read, in the order of the samples
};

// What becomes of a batch in which a sample is skipped (data.skip_unreadable).
enum class WhenSkipped {
  kLeaveOut,  // it is smaller: evaluation counts each image once
  kReplace,   // the next sample in the source's order that can be read takes its place: training keeps its batch size
};

// The batches are the same whatever the number of threads. Each sample is read whole by one thread; at most kBatches batches are in memory. Not thread-safe
// itself.
class SamplePipeline {
 public:
  static constexpr int kBatches = 3;

  // Borrows data, which must outlive it. threads: that read, besides the caller's.
  SamplePipeline(const SampleSource& data, int threads);
  ~SamplePipeline();

  // From now on Next gives the samples of `order`, batch_size at a time and the rest at the end, and forgets those before. A sample that cannot be read ends
  // the pipeline unless data.skip_unreadable.
  void Start(std::vector<int32_t> order, int64_t batch_size, std::optional<AugmentationKey> augmentation, WhenSkipped when_skipped);

  // Waits for the next batch. False at the end, and at a sample that cannot be read: see status.
  bool Next(SampleBatch* batch);

  // DATA_LOSS or an I/O error names the first sample, in the order of the samples, that could not be read.
  const absl::Status& status() const;

  // Seconds that Next has waited since the last Start.
  double wait_seconds() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bitstair::core
