// The environment that a trainer starts with.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bitstair::worker {

// OK if a recipe may set this variable: NCCL_*, GLOO_* or OMP_*, and neither its name nor its value points at a file, folder or library.
// The coordinator checks this too; a worker does not rely on it.
absl::Status CheckRecipeVariable(absl::string_view name, absl::string_view value);

// The worker's own environment, over it the recipe's variables, over them OMP_NUM_THREADS and MKL_NUM_THREADS = threads (they are part of the numeric
// profile). Each entry is NAME=VALUE. INVALID_ARGUMENT names the recipe's variable that is not allowed.
absl::StatusOr<std::vector<std::string>> TrainerEnvironment(const std::map<std::string, std::string>& recipe, int threads);

}  // namespace bitstair::worker
