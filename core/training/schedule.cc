#include "core/training/schedule.h"

#include <cmath>
#include <numbers>

namespace bitstair::core {

double LearningRateAt(const LearningRateSchedule& schedule, int epoch, int64_t step, int64_t steps_per_epoch) {
  if (schedule.kind == LearningRateSchedule::Kind::kStep) {
    double rate = schedule.initial;
    for (const int at : schedule.step_epochs) {
      if (epoch >= at) rate *= schedule.gamma;
    }
    return rate;
  }
  const double position = (epoch + static_cast<double>(step) / static_cast<double>(steps_per_epoch)) / schedule.epochs;
  return schedule.initial / 2 * (1 + std::cos(std::numbers::pi * position));
}

}  // namespace bitstair::core
