// Accuracy of a network on a part of a data set.
#pragma once

#include <functional>

#include "core/data/dataset.h"
#include "core/nn/network.h"

namespace bitstair::core {

// Sums, so that ranks can be added up.
struct EvaluationSums {
  double loss = 0;
  int64_t top1 = 0;
  int64_t top5 = 0;
  int64_t images = 0;
};

// Images [begin, end) of `data` in order, without augmentation, in running-statistics mode. Calls progress(images done) between batches.
EvaluationSums Evaluate(Network& network, const ImageDataset& data, int64_t begin, int64_t end, int batch_size,
                        const std::function<void(int64_t)>& progress = nullptr);

}  // namespace bitstair::core
