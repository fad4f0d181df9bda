// Checks a recipe and writes out its defaults. Pure: no I/O, no clock; the client links it for offline validation.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bitstair/v1/job.pb.h"

namespace bitstair::server {

// Returns `spec` with every default of recipe.proto written out; resolving the result again changes nothing.
// Errors: one InvalidFields status (proto/status.h) that lists every fault, each with its proto path within JobSpec ("widths[2]", "pretrain.epochs").
// `pretrain` is required exactly if 32 is among the widths, `quantized` exactly if a lower width is. step_gamma is written out for STEP schedules only.
// `guided` is refused where its full-precision net would have no stage to start from, or no clip (two_stage_activation: relu).
// In place of widths, `stages` are checked and written out (server/stage_graph.h). Of a sweep each variant is checked, and only what is the job's is written
// out: the rest are defaults of each variant (server/sweep.h). nesterov defaults to false where momentum is given as 0. data.path must be absolute: a client
// makes it so before it submits.
absl::StatusOr<v1::JobSpec> ResolveJobSpec(v1::JobSpec spec);

// 1 to 40 characters of A-Z, a-z, 0-9, '-', '_' and '.'.
bool IsQueueName(const std::string& name);

// How many stages a resolved spec's quantised widths make: one each, or with two_stage two each.
int QuantizedStageCount(const v1::JobSpec& resolved);

// All of its stages; not of a sweep.
int StageCount(const v1::JobSpec& resolved);

}  // namespace bitstair::server
