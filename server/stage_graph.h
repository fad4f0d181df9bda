// Stages that a recipe writes out one by one (JobSpec.stages). Pure.
#pragma once

#include <vector>

#include "bitstair/v1/job.pb.h"
#include "proto/status.h"

namespace bitstair::server {

// Of a job; in a sweep, over all variants.
inline constexpr int kMaxStages = 512;

// Checks `spec.stages` and writes the defaults of each out: its name, widths, schedule, and `require` and on_gate_failure from the job's where it is quantised.
// Faults are added with their paths: fields that stages stand in for, names twice or unknown, cycles, widths that go up.
void ResolveStages(v1::JobSpec* spec, std::vector<FieldViolation>* faults);

// Their indexes, each after its parent, otherwise in the recipe's order. Of resolved stages.
std::vector<int> StagesInOrder(const v1::JobSpec& resolved);

// Whether a stage of the plan has weights or activations below 32 bits.
bool HasQuantizedStages(const v1::JobSpec& spec);

}  // namespace bitstair::server
