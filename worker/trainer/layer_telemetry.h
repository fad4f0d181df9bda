// What happens inside of a stage's nets, gathered without slowing its steps: in each step, from what it computes anyway, and once at the epoch's end
// (docs/telemetry.md).
#pragma once

#include <cstdint>
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
  // Borrows the nets. hint_points: names of those that the step compares, in its order; may be empty.
  LayerTelemetry(std::vector<StageNet> nets, std::vector<std::string> hint_points);

  // Around each step, `step` from 0 in the epoch. One that failed is not ended: its attempt is over. hints: by hint point.
  void BeginStep(int64_t step);
  void EndStep(const std::vector<double>& hints);

  // This rank's sums over the epoch's steps so far, to be added up over the ranks: as many numbers on every rank.
  std::vector<double> Sums() const;
  // Goes on from what Sums gave on this rank. INVALID_ARGUMENT if they are of other nets.
  absl::Status Restore(const std::vector<double>& sums);
  // The next epoch begins.
  void Forget();

  // sums: over the ranks. Adds a row for each layer, activation and hint point: means over the steps, and the levels as they are now. What needs a step is left
  // out if there was none.
  void Add(const std::vector<double>& sums, v1::EpochResult* result) const;

 private:
  struct Net {
    StageNet net;
    std::vector<core::ClipCount> clips;  // by activation group; of this rank
    std::vector<double> step_norms;      // of the last step, by parameter
    std::vector<std::string> layers;     // those with parameters, but for batch norms
    std::vector<size_t> layer_of;        // by parameter; kNoLayer: a batch norm's
    std::vector<double> gradient_norms;  // by layer; equal on all ranks
  };
  std::vector<Net> nets_;
  const std::vector<std::string> hint_points_;
  std::vector<double> hints_;  // of this rank
  int64_t steps_ = 0;
  // Norms cost a pass over all gradients, so they are taken in the first of every so many steps.
  static constexpr int64_t kNormsEvery = 16;
  bool takes_norms_ = false;  // in this step
  int64_t norm_steps_ = 0;
};

}  // namespace bitstair::trainer
