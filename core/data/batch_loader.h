// The training batches of one rank: order and augmentation are a function of (seed, epoch, position) alone.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "core/data/batch.h"
#include "core/data/sample_pipeline.h"
#include "core/data/sample_source.h"

namespace bitstair::core {

struct BatchLoaderOptions {
  uint64_t seed = 1;
  int rank = 0;
  int world_size = 1;
  int shards = 0;        // equal parts of a global batch, which are batches of their own; a multiple of world_size. 0: one for each rank
  int batch_size = 128;  // over all ranks; a multiple of the shards
  bool augment = false;  // as the source does it: SampleSource::Read with a key
  int threads = 1;       // that read samples; changes no bit
};

// Global batch b of epoch e is permutation_e[b B, (b+1) B); rank r takes its contiguous part, which is one batch or comes shard by shard; the short last batch
// is dropped. Threads of its own prepare the next batches while the caller trains. Not thread-safe.
class BatchLoader {
 public:
  // Borrows data, which must outlive it.
  BatchLoader(const SampleSource& data, BatchLoaderOptions options);

  int64_t batches_per_epoch() const { return data_.size() / options_.batch_size; }
  int shards_per_rank() const { return options_.shards / options_.world_size; }

  // Starts `epoch` (0-based, counted over the stage chain's whole life: see docs/formats/random.md) at batch `first`.
  void StartEpoch(int64_t epoch, int64_t first);

  // The next shard of this rank. False at the end of the epoch, or at an image that cannot be read (unless the source skips those): see status.
  bool Next(Batch* batch);

  // Names the file of the first image, in the order of this rank's images, that could not be read.
  const absl::Status& status() const { return pipeline_.status(); }

  // Seconds that StartEpoch and Next have taken from the caller since and with the last StartEpoch.
  double wait_seconds() const { return start_seconds_ + pipeline_.wait_seconds(); }

 private:
  const SampleSource& data_;
  const BatchLoaderOptions options_;
  SamplePipeline pipeline_;
  uint32_t epoch_ = 0;
  int64_t next_ = 0;  // batch
  int shard_ = 0;     // of this rank's in it
  double start_seconds_ = 0;
};

}  // namespace bitstair::core
