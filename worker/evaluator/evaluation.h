// Accuracy of weights from a file on a data set.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/nn/network_config.h"
#include "core/training/evaluate.h"

namespace bitstair::evaluator {

struct EvaluationRequest {
  std::string weights;  // file
  std::string data;     // folder, NAME=PATH, or a name that every worker offers (worker/named_folders.h)
  bool train_images = false;
  int64_t limit = 0;  // only the first so many images; 0: all
  // Per channel, of pixels in [0, 1]; empty: the data set's own.
  std::vector<float> mean, std;
  bool allow_missing = false;
  bool allow_unexpected = false;
  // Empty: not written. Else all images' logits, [N, classes] float32, as the tensor "logits" of a safetensors file.
  std::string logits_file;
  // What the network is. An empty network name, and widths of 0, are taken from the metadata of a checkpoint of our own; else widths are 32.
  core::NetworkConfig network;
  // "relu", "clip", or empty: clip where weights or activations have few bits, as by a recipe's defaults.
  std::string activation;
  // "fast", "reference", "float64", or empty: fast where weights or activations have few bits, as recipes train, else reference.
  std::string numerics;
};

struct EvaluationReport {
  core::EvaluationSums sums;
  core::NetworkConfig network;  // as evaluated
  std::string data;             // folder
  std::vector<std::string> missing, unexpected;
};

// Blocks; at::get_num_threads() threads. Errors name what is wrong and where: INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED (code in a pickle) and DATA_LOSS.
absl::StatusOr<EvaluationReport> Evaluate(const EvaluationRequest& request);

}  // namespace bitstair::evaluator
