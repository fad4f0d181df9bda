// A plan of stages for people and programs. Pure.
#pragma once

#include <string>
#include <vector>

#include "bitstair/v1/job.pb.h"
#include "client/json.h"

namespace bitstair::client {

// First and last learning rate of a stage: at the start of its first step and of its last epoch.
struct LearningRateRange {
  double first = 0;
  double last = 0;
};
LearningRateRange LearningRates(const v1::StageSpec& stage);

// A table: stage, bits W/A, parent, epochs, learning rate, schedule, activation.
std::string PlanText(const std::vector<v1::StageSpec>& stages);
// Graphviz: one node per stage, an edge from each parent.
std::string PlanDot(const std::string& name, const std::vector<v1::StageSpec>& stages);
// {"name", "spec": the recipe with all defaults, "stages": [{"name", "parent", ...}]}
Json PlanJson(const v1::JobSpec& spec, const std::vector<v1::StageSpec>& stages);

}  // namespace bitstair::client
