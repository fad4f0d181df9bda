// Between the tensors of a weights file and the names of a network (docs/import.md).
#pragma once

#include <map>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "core/import/weights_file.h"
#include "core/nn/network.h"

namespace bitstair::core {

struct FitOptions {
  bool allow_missing = false;     // the network's own values stand for tensors that the file lacks
  bool allow_unexpected = false;  // tensors that the network lacks are passed over
};

struct FittedWeights {
  // Exactly the network's names and shapes, for NetworkFromTensors (core/nn/network_state.h): float32, or float64 where the file has it.
  std::map<std::string, at::Tensor> tensors;
  // Sorted. Empty unless allowed.
  std::vector<std::string> missing;
  std::vector<std::string> unexpected;
};

// Passed over without a word: "NAME.num_batches_tracked", and in a checkpoint of our own momentum, ranks' copies of statistics and the second net of a pair
// (names with '/'). "linear.weight" and "linear.bias" count as "fc.weight" and "fc.bias" where the network has those and not the former.
// INVALID_ARGUMENT: a tensor of another shape or not of floating point, whatever the options, and what they do not allow; all of them by name, sorted,
// shortened to the first few.
absl::StatusOr<FittedWeights> FitWeights(const WeightsFile& file, Network& network, const FitOptions& options);

}  // namespace bitstair::core
