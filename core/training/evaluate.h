// Accuracy of a network on a part of a data set.
#pragma once

#include <functional>

#include "absl/status/statusor.h"
#include "core/data/sample_source.h"
#include "core/nn/network.h"

namespace bitstair::core {

// Sums, so that ranks can be added up.
struct EvaluationSums {
  double loss = 0;
  int64_t top1 = 0;
  int64_t top5 = 0;
  int64_t images = 0;
  int64_t skipped = 0;  // could not be read (data.skip_unreadable), and are in none of the others
};

// 256 CIFAR images, and fewer pictures, since activations grow with them: 32 to 256.
int EvaluationBatchSize(const ImageShape& shape);

// Images [begin, end) of `data` in order, without augmentation, in running-statistics mode. Calls progress(images done) between batches.
// at::get_num_threads() threads read ahead. An image that cannot be read is an error that names it, unless data.skip_unreadable.
absl::StatusOr<EvaluationSums> Evaluate(Network& network, const SampleSource& data, int64_t begin, int64_t end, int batch_size,
                                        const std::function<void(int64_t)>& progress = nullptr);

}  // namespace bitstair::core
