// From ReLU to a clip without destroying a trained network (DESIGN section 3).
#pragma once

#include "absl/status/status.h"
#include "core/data/sample_source.h"
#include "core/nn/network.h"

namespace bitstair::core {

// `network`: weights and statistics of a network trained with ReLU, built as it was trained (kRelu, 32 bits). Runs the first `images` training images
// (no augmentation, running statistics) and divides gamma and beta of each batch norm that feeds an activation by the given percentile of that activation,
// one value per group of activations joined by shortcuts; the next layer that has no batch norm is multiplied back. A percentile that is zero or below is
// left as 1. In place. Deterministic: every rank that calls it with the same images gets the same bits.
// DATA_LOSS: an image that cannot be read, or none that can where the source skips those.
absl::Status CalibrateActivations(Network& network, const SampleSource& data, int64_t images, double percentile);

// Replaces all running statistics by the averages over the first `images` training images in batches of `batch_size` (float64, fixed order). In place.
// DATA_LOSS as CalibrateActivations.
absl::Status ReestimateBatchNorm(Network& network, const SampleSource& data, int64_t images, int batch_size);

}  // namespace bitstair::core
