// Several trainings in one recipe (JobSpec.sweep). Pure.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "bitstair/v1/job.pb.h"
#include "proto/status.h"

namespace bitstair::server {

inline constexpr int kMaxVariants = 64;

struct Variant {
  v1::JobSpec spec;  // not resolved; without sweep
  // What it has of each swept field: (field, index of its value), fields in order.
  std::vector<std::pair<std::string, int>> choices;
};

// Every combination, the last field's values fastest; fields in the order of their names. Faults are added with their paths (sweep["seed"][1]); then the result
// is empty. A spec without sweep is its own one variant.
std::vector<Variant> ExpandSweep(const v1::JobSpec& spec, std::vector<FieldViolation>* faults);

// A value for people and in names: "lambda-10", "widths-32-4", "guided-none".
std::string ChoiceLabel(const v1::JobSpec& spec, const std::pair<std::string, int>& choice);

// The fields that are the job's and not a training's (they cannot be swept): those of `from` take the place of `to`'s.
void CopyJobFields(const v1::JobSpec& from, v1::JobSpec* to);

}  // namespace bitstair::server
