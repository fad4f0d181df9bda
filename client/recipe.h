// Recipes: what a person writes. YAML in, JobSpec out; whatever is wrong is told with its line and column.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bitstair/v1/job.pb.h"
#include "proto/status.h"

namespace bitstair::client {

constexpr size_t kMaxRecipeBytes = size_t{1} << 20;
constexpr int kMaxRecipeDepth = 20;

// Where a value came from. line and column count from 1; line 0: from `--set`, whose text is then in `set`.
struct RecipeLocation {
  int line = 0;
  int column = 0;
  std::string set;
};

struct Recipe {
  std::string file;  // as given by the user
  v1::JobSpec spec;
  // Field path ("widths[2]", "pretrain.epochs") -> where it was written. Fields that were left out are not in it.
  std::map<std::string, RecipeLocation> locations;
};

// Reads `file` and applies `sets` ("a.b=value", in order) on top. data.path clears data.name and the other way round.
// Keys are the fields of JobSpec, enum values are in lower case without prefix. Anchors, aliases, tags, several documents, nesting deeper than
// kMaxRecipeDepth and files above kMaxRecipeBytes are refused.
// INVALID_ARGUMENT: one line "FILE:LINE:COLUMN: what is wrong" for each fault. NOT_FOUND and the like name the file.
absl::StatusOr<Recipe> ReadRecipe(const std::string& file, const std::vector<std::string>& sets);

// The same for text at hand; `file` only appears in messages.
absl::StatusOr<Recipe> ParseRecipe(const std::string& file, const std::string& text, const std::vector<std::string>& sets);

// Faults that the coordinator's own checks (ResolveJobSpec, or CreateJob's BadRequest) found, each as "FILE:LINE:COLUMN: field: description", one line each.
// A field that the recipe leaves out is shown at its nearest parent that it has.
std::string DescribeViolations(const Recipe& recipe, const std::vector<FieldViolation>& violations);

// The recipe's JobSpec, checked, with all defaults written out (server/job_spec.h). A relative data.path or initial_weights.path starts at the recipe's
// folder, one from --set at the current folder; "~/" is the home folder. data_is_here: they must exist on this machine, and symbolic links are followed.
// INVALID_ARGUMENT as by ReadRecipe and DescribeViolations.
absl::StatusOr<v1::JobSpec> ResolveRecipe(const Recipe& recipe, bool data_is_here);

}  // namespace bitstair::client
