// Learning rates as a function of the position in a schedule; no state.
#pragma once

#include <cstdint>
#include <vector>

namespace bitstair::core {

struct LearningRateSchedule {
  enum class Kind { kCosine, kStep };
  Kind kind = Kind::kCosine;
  double initial = 0.1;
  int epochs = 1;                // length of the whole schedule
  std::vector<int> step_epochs;  // kStep: epochs of the schedule at whose beginning the rate is multiplied by gamma
  double gamma = 0.1;
};

// kCosine: initial / 2 (1 + cos(pi p)), p = (epoch + step / steps_per_epoch) / epochs, per step. kStep: per epoch.
// epoch: 0-based within the schedule (a stage adds its offset).
double LearningRateAt(const LearningRateSchedule& schedule, int epoch, int64_t step, int64_t steps_per_epoch);

}  // namespace bitstair::core
