// One step of a pair: a full-precision net guides a low-precision one, and learns with it (DESIGN section 3, "Guided"; Zhuang et al., arXiv 1711.00205).
//   L_low = CE_low + lambda R,   L_full = CE_full + lambda R,   R: hint_loss.h, summed over the hint points
// In each loss the other net's features are constants. Both nets see the same batch; one backward pass goes through both; each has its own optimiser, learning
// rate and gradient sink.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "core/data/batch.h"
#include "core/nn/features.h"
#include "core/nn/network.h"
#include "core/training/hint_loss.h"
#include "core/training/net_pass.h"

namespace bitstair::core {

struct GuidedOptions {
  double lambda = 1;                     // weight of R, an element mean: at least 0
  std::vector<std::string> hint_points;  // names of Network::hint_points(); empty: its defaults
  double temperature = 4;                // T at the hint point of the logits: above 0
};

struct GuidedStepResult {
  StepResult low, full;       // loss: cross-entropy, without the hint
  double hint = 0;            // R, without lambda
  std::vector<double> hints;  // its terms, by chosen hint point in the order of Forward
};

// Names or indices: the chosen hint points in the order of Forward. INVALID_ARGUMENT, listing what there is, for an unknown name, one named twice, or a network
// without hint points.
absl::StatusOr<std::vector<size_t>> ChooseHintPoints(const Network& network, const std::vector<std::string>& names);

// INVALID_ARGUMENT names what is wrong with the pair or the options: two different networks, other images, classes, numerics or dtypes; a full-precision net
// with few bits; lambda below 0 or not finite; a temperature that is not above 0 or not finite.
absl::Status CheckGuidedPair(const NetworkConfig& low, const NetworkConfig& full, const GuidedOptions& options);

// How a pair is compared at each of the chosen hint points. network: either one of the pair; low, full: the configurations of both.
std::vector<HintOptions> OptionsOfHints(const Network& network, const std::vector<size_t>& hint_points, const NetworkConfig& low, const NetworkConfig& full,
                                        const GuidedOptions& options);

class GuidedStep {
 public:
  // INVALID_ARGUMENT: what CheckGuidedPair and ChooseHintPoints refuse.
  static absl::StatusOr<std::unique_ptr<GuidedStep>> Create(PairMember low, PairMember full, const GuidedOptions& options);

  // INTERNAL, naming batch, net and layer, if a loss is not finite or, in numerics fast, an activation is not a number; the weights of both nets are then
  // unchanged. c10::Error passes through when a peer is lost. Not thread-safe.
  absl::StatusOr<GuidedStepResult> Run(const Batch& batch, double low_learning_rate, double full_learning_rate);

  // Run in two halves, as TrainStep has them.
  absl::StatusOr<GuidedStepResult> ComputeGradients(const Batch& batch, bool quantize = true);
  void Update(double low_learning_rate, double full_learning_rate);

 private:
  // A member, and what its forward pass left.
  struct Member : PairMember {
    const char* name;  // in messages
    std::vector<Features> hints;
    at::Tensor loss;
  };

  GuidedStep(PairMember low, PairMember full, const GuidedOptions& options, std::vector<size_t> hint_points);
  absl::Status Forward(Member& member, SharedImages& images, const Batch& batch, bool quantize, StepResult* result);
  double AddHints(std::vector<double>* terms);
  void Forget();

  std::array<Member, 2> members_;  // low, full
  const std::vector<size_t> hint_points_;
  const std::vector<HintOptions> hint_options_;  // by chosen hint point
};

}  // namespace bitstair::core
