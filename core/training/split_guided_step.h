// One net's half of a guided pair's step, where the other net is another process's (docs/guided.md). The same losses and gradients as GuidedStep, bit for bit
// in numerics reference.
#pragma once

#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "core/data/batch.h"
#include "core/nn/features.h"
#include "core/training/feature_exchange.h"
#include "core/training/guided_step.h"
#include "core/training/net_pass.h"

namespace bitstair::core {

enum class PairSide { kLow, kFull };

class SplitGuidedStep {
 public:
  // own: the net of `side`. low, full: the configurations of both nets. early: the low-precision net's features have the same widths in every step (no
  // stochastic precision), so the full-precision net can send its own before it has seen them. Borrows the exchange. INVALID_ARGUMENT as GuidedStep::Create.
  static absl::StatusOr<std::unique_ptr<SplitGuidedStep>> Create(PairMember own, PairSide side, const NetworkConfig& low, const NetworkConfig& full,
                                                                 const GuidedOptions& options, bool early, FeatureExchange* exchange);

  // As GuidedStep's; the result of the other net is left as it is constructed. INTERNAL also if the other net's pass failed.
  absl::StatusOr<GuidedStepResult> ComputeGradients(const Batch& batch, bool quantize = true);
  void Update(double learning_rate);

 private:
  SplitGuidedStep(PairMember own, PairSide side, const NetworkConfig& low, const NetworkConfig& full, const GuidedOptions& options, bool early,
                  std::vector<size_t> hint_points, FeatureExchange* exchange);
  bool IsLogits(size_t index) const { return hint_options_[index].temperature > 0; }
  void Send(size_t index);
  absl::Status AddHints(at::Tensor* loss, GuidedStepResult* result);

  const PairMember own_;
  const PairSide side_;
  const bool early_;
  const std::vector<size_t> hint_points_;
  const std::vector<HintOptions> hint_options_;  // by chosen hint point
  FeatureExchange& exchange_;
  std::vector<int> widths_;      // by chosen hint point: of the low-precision net's features in the pass before; 0: not known
  std::vector<Features> hints_;  // of this pass
  std::vector<bool> sent_;
};

}  // namespace bitstair::core
