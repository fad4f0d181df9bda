// One step: quantise weights, forward, loss, backward, all-reduce, quantiser backward and SGD.
#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "core/data/batch.h"
#include "core/nn/network.h"
#include "core/training/gradient_sink.h"
#include "core/training/sgd.h"

namespace bitstair::core {

struct StepResult {
  double loss = 0;      // mean cross-entropy over this rank's images
  int64_t correct = 0;  // top-1
  int64_t images = 0;
};

class TrainStep {
 public:
  // Borrows all three.
  TrainStep(Network* network, Sgd* sgd, GradientSink* gradients);

  // INTERNAL, naming batch and layer, if the loss is not finite or, in numerics fast, an activation is not a number (the weights are then unchanged).
  // c10::Error passes through when a peer is lost.
  absl::StatusOr<StepResult> Run(const Batch& batch, double learning_rate);

  // Run in two halves, for a rank that computes several shards of a global batch (docs/elastic.md): ComputeGradients for each shard, and after the last one,
  // when every leaf's grad holds the average, Update. quantize: false where the weights are as the last call quantised them. Errors as Run.
  absl::StatusOr<StepResult> ComputeGradients(const Batch& batch, bool quantize = true);
  void Update(double learning_rate);

 private:
  Network* network_;
  Sgd* sgd_;
  GradientSink* gradients_;
};

}  // namespace bitstair::core
