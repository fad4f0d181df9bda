// A recipe's `initial_weights`: a file in the place of a full-precision parent.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "bitstair/v1/job.pb.h"
#include "core/checkpoint/checkpoint.h"
#include "core/data/sample_source.h"

namespace bitstair::trainer {

// The file at `path` as the final checkpoint of a full-precision stage would be, so that StartFromParent and StartTeacher begin from it. Logs what was missing
// or unexpected and allowed.
// DATA_LOSS: damaged, or not the file that the job was planned with. INVALID_ARGUMENT: it does not fit the network, naming the tensors; it is a checkpoint of
// another network, or of quantised activations, which the calibration from ReLU is not made for.
absl::StatusOr<core::Checkpoint> ImportInitialWeights(const std::string& path, const v1::StageSpec& spec, const core::SampleSource& train);

}  // namespace bitstair::trainer
