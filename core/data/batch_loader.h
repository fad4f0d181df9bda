// The training batches of one rank: order and augmentation are a function of (seed, epoch, position) alone.
#pragma once

#include <cstdint>
#include <memory>

#include "core/data/batch.h"
#include "core/data/dataset.h"

namespace bitstair::core {

struct BatchLoaderOptions {
  uint64_t seed = 1;
  int rank = 0;
  int world_size = 1;
  int batch_size = 128;  // over all ranks; a multiple of world_size
  bool crop_flip = false;
};

// Global batch b of epoch e is permutation_e[b B, (b+1) B); rank r takes its contiguous part; the short last batch is dropped. A thread of its own
// prepares the next batches while the caller trains. Not thread-safe.
class BatchLoader {
 public:
  // Borrows data, which must outlive it.
  BatchLoader(const ImageDataset& data, BatchLoaderOptions options);
  ~BatchLoader();

  int64_t batches_per_epoch() const;

  // Starts `epoch` (0-based, counted over the stage chain's whole life: see docs/formats/random.md) at batch `first`.
  void StartEpoch(int64_t epoch, int64_t first);

  // False at the end of the epoch.
  bool Next(Batch* batch);

  // Seconds that Next has waited for data since the last StartEpoch.
  double wait_seconds() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bitstair::core
