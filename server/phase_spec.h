// How long a phase is trained and at which learning rates: checks and defaults. Pure.
#pragma once

#include <string>
#include <vector>

#include "bitstair/v1/job.pb.h"
#include "proto/status.h"

namespace bitstair::server {

inline constexpr int kMaxEpochs = 100000;

// Writes the defaults of PhaseSpec out. Faults are added with paths below `name`. stage_epochs and stage_learning_rates are for "quantized" alone; the sum of
// stage_epochs becomes `epochs` if that is absent. step_gamma is written out for STEP schedules only.
void ResolvePhase(const std::string& name, double default_learning_rate, v1::PhaseSpec* phase, std::vector<FieldViolation>* faults);

}  // namespace bitstair::server
