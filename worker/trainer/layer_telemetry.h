// What happens inside of a stage's nets, gathered without slowing its steps: at the last step of an epoch, from what that step computes anyway, and once at the
// epoch's end (docs/telemetry.md).
#pragma once

#include <string>
#include <vector>

#include "bitstair/v1/job.pb.h"
#include "core/nn/network.h"
#include "worker/trainer/training_state.h"

namespace bitstair::trainer {

// One epoch's. The training thread's.
class LayerTelemetry {
 public:
  // Borrows the nets. hint_points: names of those that the step compares, in its order; may be empty.
  LayerTelemetry(std::vector<StageNet> nets, std::vector<std::string> hint_points);

  // Around the step that is looked at.
  void BeginStep();
  void EndStep(const std::vector<double>& hints);

  // This rank's numbers, to be added up over the ranks: as many on every rank. Forgets them.
  std::vector<double> TakeSums();

  // sums: over the ranks. Adds a row for each layer, activation and hint point. What no step was looked at for is left out.
  void Add(const std::vector<double>& sums, int world_size, v1::EpochResult* result) const;

 private:
  struct Net {
    StageNet net;
    std::vector<core::ClipCount> clips;  // by activation group
    std::vector<double> gradient_norms;  // by parameter; equal on all ranks
  };
  std::vector<Net> nets_;
  const std::vector<std::string> hint_points_;
  std::vector<double> hints_;
};

}  // namespace bitstair::trainer
