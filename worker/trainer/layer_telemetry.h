// What happens inside of a stage's nets, gathered without slowing its steps: in each step, from what it computes anyway, and once at the epoch's end
// (docs/telemetry.md).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "bitstair/v1/job.pb.h"
#include "core/nn/network.h"
#include "worker/trainer/training_state.h"

namespace bitstair::trainer {

// Of the current epoch. The training thread's.
class LayerTelemetry {
 public:
  // Borrows the nets. hint_points: names of those that the step compares, in its order; may be empty. parts: of each batch that this rank computes; sums are
  // kept for each, so that adding them up in one order gives the same numbers whichever rank has them.
  // only: of a split pair, the net that this process trains; sums of the others stay 0.
  LayerTelemetry(std::vector<StageNet> nets, std::vector<std::string> hint_points, size_t parts = 1, std::optional<size_t> only = std::nullopt);

  // Around each step, `step` from 0 in the epoch, and inside of it around each part's forward pass. One that failed is not ended: its attempt is over.
  // hints: by hint point.
  void BeginStep(int64_t step);
  void BeginPart(size_t part);
  void EndPart(size_t part, const std::vector<double>& hints);
  void EndStep();

  // A part's sums over the epoch's steps so far, to be added up over the parts of all ranks: as many numbers for every part.
  std::vector<double> Sums(size_t part = 0) const;
  // Goes on from what Sums gave. INVALID_ARGUMENT if they are of other nets.
  absl::Status Restore(size_t part, const std::vector<double>& sums);
  // The next epoch begins.
  void Forget();

  // sums: over all parts. Adds a row for each layer, activation and hint point: means over the steps, and the levels as they are now. What needs a step is left
  // out if there was none.
  void Add(const std::vector<double>& sums, v1::EpochResult* result) const;

 private:
  bool Trains(size_t net) const { return only_.value_or(net) == net; }

  struct Net {
    StageNet net;
    std::vector<std::vector<core::ClipCount>> clips;  // by part and activation group
    std::vector<double> step_norms;                   // of the last step, by parameter
    std::vector<std::string> layers;                  // those with parameters, but for batch norms
    std::vector<size_t> layer_of;                     // by parameter; kNoLayer: a batch norm's
    std::vector<double> gradient_norms;               // by layer; equal on all ranks
  };
  std::vector<Net> nets_;
  const std::vector<std::string> hint_points_;
  const size_t parts_;
  const std::optional<size_t> only_;
  std::vector<std::vector<double>> hints_;  // by part and hint point
  int64_t steps_ = 0;
  // Norms cost a pass over all gradients, so they are taken in the first of every so many steps.
  static constexpr int64_t kNormsEvery = 16;
  bool takes_norms_ = false;  // in this step
  int64_t norm_steps_ = 0;
};

}  // namespace bitstair::trainer
